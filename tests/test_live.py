"""With a real account: `pytest -m live` sends through both scripts, and reads both back."""

import os
import subprocess
import sys
import time

import pytest
from dotenv import load_dotenv

from conftest import REPOSITORY, SCRIPTS, recipe

pytestmark = pytest.mark.live
NEEDED = (
    "MAILTRAP_SMTP_USERNAME",
    "MAILTRAP_SMTP_PASSWORD",
    "MAILTRAP_API_TOKEN",
    "MAILTRAP_SANDBOX_ID",
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_message_arrives(script, monkeypatch):
    for name, value in os.environ.items():
        monkeypatch.setenv(name, value)  # to have them restored
    load_dotenv(REPOSITORY / ".env", interpolate=False)
    if missing := [name for name in NEEDED if not os.environ.get(name)]:
        pytest.skip(f"missing: {', '.join(missing)}")
    host = os.environ.get("MAILTRAP_SMTP_HOST", "sandbox.smtp.mailtrap.io")
    if (
        host in ("live.smtp.mailtrap.io", "bulk.smtp.mailtrap.io")
        or os.environ.get("MAILTRAP_STREAM", "sandbox") != "sandbox"
    ):
        pytest.skip("these settings lead to real people")
    subject = f"{script}, live check {time.time_ns()}"
    command = [sys.executable, str(REPOSITORY / f"{script}.py"), "--subject", subject]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "It works" in recipe("Reading back what the sandbox captured").captured(subject)

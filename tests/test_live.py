"""With a real account: `pytest -m live` sends through both scripts to the sandbox, and reads both messages back."""

import os
import subprocess
import sys
import time

import mailtrap as mt
import pytest
from dotenv import load_dotenv

import api_client
import smtp_client
from conftest import REPOSITORY, SCRIPTS

pytestmark = pytest.mark.live


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What .env or the environment says; nothing is sent unless it leads to the sandbox."""
    for name, value in os.environ.items():
        monkeypatch.setenv(name, value)  # to have them restored
    load_dotenv(REPOSITORY / ".env", interpolate=False)
    found, missing = {}, []
    for script in (smtp_client, api_client):
        try:
            found |= script.read_settings(os.environ)
        except ValueError as error:
            missing += [line for line in str(error).splitlines()[1:] if line not in missing]
    if missing:
        pytest.skip("; ".join(missing))
    if found["MAILTRAP_STREAM"] != "sandbox":
        pytest.skip("MAILTRAP_STREAM must be sandbox")
    if found["MAILTRAP_SMTP_HOST"] not in ("sandbox.smtp.mailtrap.io", "127.0.0.1"):
        pytest.skip("MAILTRAP_SMTP_HOST must be sandbox.smtp.mailtrap.io")
    return found


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_message_arrives(script: str, settings: dict[str, str]) -> None:
    subject = f"{script}, live check {time.time_ns()}"
    command = [sys.executable, str(REPOSITORY / f"{script}.py"), "--subject", subject]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    token, sandbox_id = settings["MAILTRAP_API_TOKEN"], int(settings["MAILTRAP_SANDBOX_ID"])
    account = mt.MailtrapClient(token).general_api.accounts.get_list()[0]
    messages = mt.MailtrapClient(token, account_id=str(account.id)).testing_api.messages
    found = []
    for _ in range(5):
        if found := messages.get_list(sandbox_id, search=subject):
            break
        time.sleep(1)
    assert [message.subject for message in found] == [subject]
    assert "It works: Mailtrap took this message" in messages.get_text_message(
        sandbox_id, found[0].id
    )

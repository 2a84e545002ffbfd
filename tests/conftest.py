"""What all tests share: Mailtrap on loopback, and two ways to run a script against it."""

import base64
import importlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from fake_mailtrap import FakeMailtrap

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text("utf-8")
SCRIPTS = ("smtp_client", "api_client")
INHERITED = ("PATH", "HOME", "SYSTEMROOT", "TEMP", "TMP", "USERPROFILE")
SANDBOX = {"MAILTRAP_SMTP_HOST": "sandbox.smtp.mailtrap.io"}

fixtures = [HealthCheck.function_scoped_fixture]
settings.register_profile(
    "tests", max_examples=150, deadline=None, derandomize=True, suppress_health_check=fixtures
)
settings.load_profile("tests")

Run = Callable[..., subprocess.CompletedProcess[str]]


def snippet(heading: str) -> str:
    """Return the Python under a heading of the README."""
    return README.partition(f"### {heading}\n")[2].partition("```python\n")[2].partition("```\n")[0]


@pytest.fixture(scope="session")
def _servers() -> Iterator[FakeMailtrap]:
    with FakeMailtrap() as fake:
        yield fake


@pytest.fixture
def fake(_servers: FakeMailtrap, monkeypatch: pytest.MonkeyPatch) -> FakeMailtrap:
    """Mailtrap on loopback, as new, and an environment that leads there and nowhere else."""
    _servers.reset()
    for name in os.environ:
        if name.startswith("MAILTRAP_"):
            monkeypatch.delenv(name)
    for name, value in _servers.settings.items():
        monkeypatch.setenv(name, value)
    return _servers


@pytest.fixture(autouse=True, scope="session")
def _resolver() -> None:
    """Let Mailtrap's SMTP host names lead to this machine; certificates must still be right."""
    resolve = socket.getaddrinfo

    def redirect(host: Any, *rest: Any, **more: Any) -> Any:
        here = str(host).endswith(".smtp.mailtrap.io")
        return resolve("127.0.0.1" if here else host, *rest, **more)

    socket.getaddrinfo = redirect


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> list[float]:
    """The pauses between tries, recorded instead of waited out; each must be announced."""
    recorded: list[float] = []

    def sleep(seconds: float) -> None:
        assert re.fullmatch(rf"\d\d\d .*; retry in {seconds:.1f} s", caplog.messages[-1])
        recorded.append(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    return recorded


def checked(fake: FakeMailtrap, result: subprocess.CompletedProcess[str]) -> Any:
    """Return the result; fail if it holds a traceback or a secret, plain or as AUTH encodes it."""
    output = result.stdout + result.stderr
    assert "Traceback" not in output
    for secret in (fake.password, fake.token):
        for shape in (secret, f"\0{fake.username}\0{secret}", f"\0api\0{secret}"):
            assert shape not in output
            assert base64.b64encode(shape.encode()).decode().rstrip("=") not in output
    return result


@pytest.fixture
def run(fake: FakeMailtrap) -> Run:
    """Run a script as its own process: run("smtp_client", "--to", ..., NAME=value, OTHER=None)."""

    def run(script: str, *flags: str | bytes, **changes: str | None) -> Any:
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        environ = {**inherited, "PYTHONUTF8": "1", **fake.settings, **changes}
        result = subprocess.run(
            [sys.executable, str(REPOSITORY / f"{script}.py"), *flags],
            env={name: value for name, value in environ.items() if value is not None},
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=60,
        )
        return checked(fake, result)

    return run


@pytest.fixture
def call(
    fake: FakeMailtrap, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Call a script's main() in this process, which is quicker; otherwise as run."""

    def call(script: str, *flags: str, **changes: str) -> Any:
        for name, value in changes.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        try:
            status = importlib.import_module(script).main(list(flags))
        except SystemExit as stop:  # argparse
            status = stop.code
        return checked(fake, subprocess.CompletedProcess(script, status, *capsys.readouterr()))

    return call

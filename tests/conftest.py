"""What all tests share: Mailtrap on loopback, and two ways to run a script against it."""

import base64
import importlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from fake_mailtrap import FakeMailtrap

REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPTS = ("smtp_client", "api_client")
INHERITED = ("PATH", "HOME", "SYSTEMROOT", "TEMP", "TMP", "USERPROFILE")

settings.register_profile("tests", deadline=None, derandomize=True)
settings.load_profile("tests")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def _servers() -> Iterator[FakeMailtrap]:
    with FakeMailtrap() as fake:
        yield fake


@pytest.fixture
def fake(_servers: FakeMailtrap) -> FakeMailtrap:
    """Mailtrap on loopback, as new."""
    _servers.reset()
    return _servers


def assert_no_secret(fake: FakeMailtrap, output: str) -> None:
    """Fail if the output holds a password or token, plain or as SMTP AUTH encodes them."""
    for secret in (fake.password, fake.token):
        for username in (fake.username, "api"):
            for shape in (secret, f"\0{username}\0{secret}", f"{username}\0{username}\0{secret}"):
                assert shape not in output
                assert base64.b64encode(shape.encode()).decode().rstrip("=") not in output


@pytest.fixture
def smtp_names(fake: FakeMailtrap, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Mailtrap's SMTP host names lead to the stand-in, in this process; certificates must still be right."""
    resolve = socket.getaddrinfo

    def redirect(host: str, port: int, *rest: Any, **more: Any) -> Any:
        if str(host).endswith(".smtp.mailtrap.io"):
            host, port = "127.0.0.1", fake.smtp_port
        return resolve(host, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", redirect)


@pytest.fixture
def run(fake: FakeMailtrap) -> Run:
    """Run a script as its own process: run("smtp_client", "--to", ..., NAME=value to set, NAME=None to unset)."""

    def run(script: str, *flags: str | bytes, **changes: str | None) -> subprocess.CompletedProcess[str]:
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
        assert_no_secret(fake, result.stdout + result.stderr)
        assert "Traceback" not in result.stderr
        return result

    return run


@pytest.fixture
def call(fake: FakeMailtrap, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call a script's main() in this process, which is quicker; otherwise as run."""

    def call(script: str, *flags: str, **changes: str | None) -> subprocess.CompletedProcess[str]:
        for name, value in {**fake.settings, **changes}.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        monkeypatch.setenv("NETRC", os.devnull)  # to have it restored
        capsys.readouterr()
        try:
            status = importlib.import_module(script).main(list(flags))
        except SystemExit as stop:  # argparse
            status = stop.code
        output, errors = capsys.readouterr()
        assert_no_secret(fake, output + errors)
        return subprocess.CompletedProcess([script, *flags], status, output, errors)

    return call

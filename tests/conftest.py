"""What all tests share: Mailtrap on loopback, and two ways to run a script against it."""

import base64
import contextlib
import datetime
import importlib
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import settings

from fake_mailtrap import HOSTS, FakeMailtrap

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


ADVICE = (REPOSITORY / "tests" / "advice.txt").read_text("utf-8").splitlines()
"""Every line that tells a person what to do after a failure to send."""


def assert_well_told(fake: FakeMailtrap, result: subprocess.CompletedProcess[str]) -> None:
    """Fail if the output holds a secret, a traceback, or a last line that is no known advice."""
    assert_no_secret(fake, result.stdout + result.stderr)
    assert "Traceback" not in result.stderr
    if result.returncode in (69, 74, 75, 77, 78) or (result.returncode == 65 and "refused for" not in result.stderr):
        assert result.stderr.splitlines()[-1] in ADVICE


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
        assert_well_told(fake, result)
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
        monkeypatch.setenv("NETRC", "/nowhere")  # to have it restored
        capsys.readouterr()
        try:
            status = importlib.import_module(script).main(list(flags))
        except SystemExit as stop:  # argparse
            status = stop.code
        output, errors = capsys.readouterr()
        result = subprocess.CompletedProcess([script, *flags], status, output, errors)
        assert_well_told(fake, result)
        return result

    return call


SMTP_GREETING = (b"220 ready\r\n", b"250-hello\r\n250 STARTTLS\r\n", b"220 go ahead\r\n")


class PlainServer(threading.Thread):
    """Sends its first answer, the next after each command, then starts TLS; keeps what it received before."""

    def __init__(self, answers: tuple[bytes, ...], tls: ssl.SSLContext | None = None) -> None:
        """Start to listen on a free port."""
        super().__init__(daemon=True)
        self.answers, self.tls, self.received = answers, tls, b""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.start()

    def run(self) -> None:
        """Serve one connection."""
        connection, _ = self.listener.accept()
        with self.listener, connection, contextlib.suppress(OSError):
            for number, answer in enumerate(self.answers):
                if number:
                    self.received += connection.recv(1000)
                connection.sendall(answer)
            if not self.tls:
                self.received += connection.recv(1000)
                return
            with contextlib.suppress(OSError), self.tls.wrap_socket(connection, server_side=True) as secure:
                self.received += secure.recv(1000)


@pytest.fixture
def server_tls(fake: FakeMailtrap) -> Iterator[ssl.SSLContext]:
    """The TLS settings of both servers, to be spoiled by a test."""
    yield fake.tls
    fake.authority.issue_cert(*HOSTS).configure_cert(fake.tls)


def spoil(how: str, tls: ssl.SSLContext, authority: trustme.CA) -> None:
    """Give the servers a certificate that is "untrusted", for the "wrong name", "not yet valid" or "expired"."""
    if how == "untrusted":
        trustme.CA().issue_cert(*HOSTS).configure_cert(tls)
    elif how == "wrong name":
        authority.issue_cert("other.example").configure_cert(tls)
    elif how == "not yet valid":
        authority.issue_cert(*HOSTS, not_before=datetime.datetime(2990, 1, 1)).configure_cert(tls)
    else:
        authority.issue_cert(*HOSTS, not_after=datetime.datetime(2020, 1, 1)).configure_cert(tls)


def old_tls(fake: FakeMailtrap) -> ssl.SSLContext:
    """Return the settings of a server that speaks TLS 1.1 at most."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    fake.authority.issue_cert(*HOSTS).configure_cert(tls)
    tls.minimum_version = tls.maximum_version = ssl.TLSVersion.TLSv1_1
    tls.set_ciphers("ALL:@SECLEVEL=0")
    return tls

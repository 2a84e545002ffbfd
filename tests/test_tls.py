"""Connections that are not safe are refused before any credential leaves, each with its own explanation."""

import contextlib
import datetime
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest
import trustme

from conftest import SCRIPTS, Run
from fake_mailtrap import HOSTS, FakeMailtrap

SMTP_GREETING = (b"220 ready\r\n", b"250-hello\r\n250 STARTTLS\r\n", b"220 go ahead\r\n")


class PlainServer(threading.Thread):
    """Sends its first answer, the next after each command, then starts TLS; keeps what it received before."""

    def __init__(self, answers: tuple[bytes, ...], tls: ssl.SSLContext | None = None) -> None:
        super().__init__(daemon=True)
        self.answers, self.tls, self.received = answers, tls, b""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.start()

    def run(self) -> None:
        connection, _ = self.listener.accept()
        with self.listener, connection:
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
    if how == "untrusted":
        trustme.CA().issue_cert(*HOSTS).configure_cert(tls)
    elif how == "wrong name":
        authority.issue_cert("other.example").configure_cert(tls)
    else:
        authority.issue_cert(*HOSTS, not_after=datetime.datetime(2020, 1, 1)).configure_cert(tls)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("how", "happened", "advice"),
    [
        ("untrusted", "unable to get local issuer", "does not know who signed"),
        ("wrong name", "mismatch", "another name"),
        ("expired", "expired", "date"),
    ],
)
def test_a_bad_certificate_is_refused(
    script: str, how: str, happened: str, advice: str, call: Run, fake: FakeMailtrap, server_tls: ssl.SSLContext
) -> None:
    spoil(how, server_tls, fake.authority)
    result = call(script)
    first, second = result.stderr.splitlines()
    assert result.returncode == 69
    assert happened in first
    assert advice in second
    assert (fake.logins, fake.messages, fake.requests) == ([], [], [])


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1")
@pytest.mark.parametrize("script", SCRIPTS)
def test_tls_before_1_2_is_refused(script: str, call: Run, fake: FakeMailtrap, monkeypatch: pytest.MonkeyPatch) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    fake.authority.issue_cert(*HOSTS).configure_cert(old)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    server = PlainServer(SMTP_GREETING if script == "smtp_client" else (), old)
    monkeypatch.setattr(fake, "api_port", server.port)
    result = call(script, MAILTRAP_SMTP_PORT=str(server.port))
    server.join(10)
    first, second = result.stderr.splitlines()
    assert result.returncode == 69
    assert "protocol version" in first
    assert "TLS 1.2" in second
    assert b"AUTH" not in server.received


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_loopback_server_that_offers_tls_is_held_to_it(
    host: str, call: Run, fake: FakeMailtrap, server_tls: ssl.SSLContext
) -> None:
    assert call("smtp_client", MAILTRAP_SMTP_HOST=host).returncode == 0
    spoil("untrusted", server_tls, fake.authority)
    assert call("smtp_client", MAILTRAP_SMTP_HOST=host).returncode == 69
    assert len(fake.messages) == 1


@pytest.mark.parametrize("answer", [b"454 4.7.0 TLS not available\r\n", b"502 5.5.1 No\r\n"])
def test_a_refused_starttls_is_the_end_of_it(answer: bytes, call: Run) -> None:
    server = PlainServer((*SMTP_GREETING[:2], answer))
    result = call("smtp_client", MAILTRAP_SMTP_PORT=str(server.port))
    server.join(10)
    assert result.returncode == 69
    assert "TLS did not start" in result.stderr
    assert server.received.upper().split() == [b"EHLO", b"[127.0.0.1]", b"STARTTLS"]


@pytest.mark.parametrize("injected", [b"250 injected\r\n", b"250-injected\r\n250 AUTH LOGIN\r\n", b"x"])
def test_data_injected_before_tls_is_not_taken_for_the_servers(injected: bytes, call: Run, fake: FakeMailtrap) -> None:
    server = PlainServer((*SMTP_GREETING[:2], SMTP_GREETING[2] + injected), fake.tls)
    result = call("smtp_client", MAILTRAP_SMTP_PORT=str(server.port))
    server.join(10)
    assert result.returncode == 69
    assert "unencrypted data after STARTTLS" in result.stderr
    assert "tampering" in result.stderr
    assert server.received.upper().split() == [b"EHLO", b"[127.0.0.1]", b"STARTTLS"]

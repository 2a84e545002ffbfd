"""Connections that are not safe are refused before any credential leaves, each with its own explanation."""

import smtplib
import socket
import ssl

import pytest

import smtp_client
from conftest import SCRIPTS, SMTP_GREETING, PlainServer, Run, old_tls, spoil
from fake_mailtrap import FakeMailtrap


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
    server = PlainServer(SMTP_GREETING if script == "smtp_client" else (), old_tls(fake))
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


@pytest.mark.parametrize("host", ["localhost", "LocalHost", "127.0.0.1", "::1"])
def test_a_mail_catcher_on_this_machine_needs_neither_tls_nor_login(
    host: str, fake: FakeMailtrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.starttls, fake.mechanisms = False, ""
    connect = socket.create_connection
    monkeypatch.setattr(socket, "create_connection", lambda address, *rest: connect(("127.0.0.1", address[1]), *rest))
    with smtp_client.connect(host, fake.smtp_port, "", "") as smtp:
        assert not isinstance(smtp.sock, ssl.SSLSocket)
    environ = {"MAILTRAP_SMTP_HOST": host, "MAILTRAP_FROM_EMAIL": "a@b.de", "MAILTRAP_TO_EMAIL": "a@b.de"}
    assert smtp_client.read_settings(environ)["MAILTRAP_SMTP_USERNAME"] == ""
    for other in ("localhost.example.com", "xlocalhost", "128.0.0.1", "1127.0.0.1"):
        with pytest.raises(smtplib.SMTPNotSupportedError):
            smtp_client.connect(other, fake.smtp_port, "", "")
        with pytest.raises(ValueError, match="MAILTRAP_SMTP_USERNAME is missing"):
            smtp_client.read_settings({**environ, "MAILTRAP_SMTP_HOST": other})


def test_nobody_looks_up_the_name_of_this_machine(
    fake: FakeMailtrap, call: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def getfqdn(_: str = "") -> str:
        raise AssertionError("this may take seconds")

    monkeypatch.setattr(socket, "getfqdn", getfqdn)
    assert call("smtp_client").returncode == 0
    assert fake.commands[0] == "EHLO [127.0.0.1]"

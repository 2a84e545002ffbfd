"""Connections that are not safe are refused before any credential leaves, each with its own explanation."""

import ssl

import pytest

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

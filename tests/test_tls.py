"""Nothing secret leaves without TLS 1.2 or newer to a server that is who it says it is."""

import datetime
import ssl
from collections.abc import Iterator

import pytest
import trustme

from conftest import SANDBOX, SCRIPTS
from fake_mailtrap import HOSTS, FakeMailtrap
from faulty import Fault, FaultySmtp

both = pytest.mark.parametrize("script", SCRIPTS)


@pytest.fixture
def tls(fake: FakeMailtrap) -> Iterator[ssl.SSLContext]:
    """The TLS settings of both servers, to be spoiled by a test."""
    yield fake.tls
    fake.authority.issue_cert(*HOSTS).configure_cert(fake.tls)
    fake.tls.minimum_version = ssl.TLSVersion.TLSv1_2
    fake.tls.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED
    fake.tls.set_ciphers("DEFAULT")


def untrusted(tls: ssl.SSLContext, _: trustme.CA) -> None:
    trustme.CA().issue_cert(*HOSTS).configure_cert(tls)


def for_another_name(tls: ssl.SSLContext, authority: trustme.CA) -> None:
    authority.issue_cert("other.example").configure_cert(tls)


def expired(tls: ssl.SSLContext, authority: trustme.CA) -> None:
    last_year = datetime.datetime(2020, 1, 1)
    authority.issue_cert(*HOSTS, not_after=last_year).configure_cert(tls)


def too_old(tls: ssl.SSLContext, _: trustme.CA) -> None:
    tls.set_ciphers("ALL:@SECLEVEL=0")
    tls.minimum_version = tls.maximum_version = ssl.TLSVersion.TLSv1_1


# what is wrong with the server, what is said of it
WRONGS = [
    (untrusted, "unable to get local issuer certificate", "CA"),
    (for_another_name, "mismatch", "check"),
    (expired, "certificate has expired", "date"),
    (too_old, "protocol", "check"),
]


@both
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1")
@pytest.mark.parametrize(("spoil", "words", "advice"), WRONGS)
def test_a_server_that_is_not_to_be_trusted_gets_nothing(
    script, spoil, words, advice, tls, call, fake
):
    spoil(tls, fake.authority)
    result = call(script, **SANDBOX, MAILTRAP_SMTP_PORT=str(fake.smtp_port))
    assert result.returncode == 69
    assert (fake.messages, fake.requests, fake.logins) == ([], [], [])
    happened, what_to_do = result.stderr.splitlines()
    assert words.lower() in happened.lower()
    assert advice in what_to_do


def test_without_starttls_no_password_leaves(call, fake):
    plain = b"250-smtp.mailtrap.io\r\n250 AUTH PLAIN LOGIN\r\n"
    with FaultySmtp(fake.tls, Fault("EHLO", plain), Fault("AUTH", b"235 Ok\r\n")) as server:
        result = call("smtp_client", **SANDBOX, MAILTRAP_SMTP_PORT=str(server.port))
    assert (result.returncode, server.taken) == (69, 0)
    assert "STARTTLS" in result.stderr
    assert "AUTH" not in server.steps


def test_even_on_localhost_tls_is_used_and_checked_where_there_is_any(tls, call, fake):
    assert call("smtp_client", MAILTRAP_SMTP_HOST="localhost").returncode == 0
    assert fake.logins == [("PLAIN", True)]
    untrusted(tls, fake.authority)
    assert call("smtp_client", MAILTRAP_SMTP_HOST="localhost").returncode == 69

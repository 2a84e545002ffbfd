"""Nothing secret leaves without TLS 1.2 or newer to a server that is who it says it is."""

import datetime
import os
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

import api_client
import smtp_client
from conftest import PORTS, REPOSITORY, SCRIPTS
from fake_mailtrap import HOSTS, FakeMailtrap
from faulty import Fault, FaultySmtp

NOT_SENT = 3

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
    (untrusted, "unable to get local issuer certificate"),
    (for_another_name, "mismatch"),
    (expired, "certificate has expired"),
    (too_old, "protocol"),
]


@both
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1")
@pytest.mark.parametrize(("spoil", "words"), WRONGS)
def test_a_server_that_is_not_to_be_trusted_gets_nothing(script, spoil, words, tls, call, fake):
    spoil(tls, fake.authority)
    result = call(script)
    assert result.returncode == NOT_SENT
    assert (fake.messages, fake.requests, fake.logins) == ([], [], [])
    _, happened, what_to_do = result.stderr.splitlines()
    assert words.lower() in happened.lower()
    if spoil is not too_old:
        assert {"smtp_client": "SSL_CERT_FILE", "api_client": "REQUESTS_CA_BUNDLE"}[script] in (
            what_to_do
        )


def takes_tls_1_1(python: str) -> bool:
    """Say whether a Python leaves the least version of TLS to OPENSSL_CONF, as Debian's does."""
    program = "import ssl; print(ssl.create_default_context().minimum_version < 771)"
    command = [python, "-I", "-c", program]
    return Path(python).exists() and subprocess.check_output(command) == b"True\n"


@pytest.mark.skipif(not takes_tls_1_1("/usr/bin/python3"), reason="needs such a Python")
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1")
def test_tls_1_1_is_refused_also_where_openssl_allows_it(tls, fake, tmp_path):
    too_old(tls, fake.authority)
    (tmp_path / "openssl.cnf").write_text(
        "openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n"
        "[c]\nMinProtocol = TLSv1\nCipherString = ALL:@SECLEVEL=0\n"
    )
    program = f"import smtp_client; smtp_client.connect('localhost', {fake.smtp_port}, 'u', 'p')"
    environ = {**os.environ, "OPENSSL_CONF": str(tmp_path / "openssl.cnf")}
    command = ["/usr/bin/python3", "-c", program]
    result = subprocess.run(command, env=environ, cwd=REPOSITORY, capture_output=True, text=True)
    assert "ssl.SSL" in result.stderr
    assert fake.logins == []


@pytest.mark.parametrize("content", [None, "garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_ca_file_that_is_missing_or_broken_is_not_sent(content, call, fake, tmp_path):
    ca_file = tmp_path / "ca.pem"
    if content:
        ca_file.write_text(content)
    for script, name in (("smtp_client", "SSL_CERT_FILE"), ("api_client", "REQUESTS_CA_BUNDLE")):
        result = call(script, **{name: str(ca_file)})
        assert (result.returncode, fake.messages, fake.requests) == (NOT_SENT, [], [])
        assert name in result.stderr.splitlines()[2]


def test_without_starttls_no_password_leaves(call, fake, monkeypatch):
    plain = b"250-smtp.mailtrap.io\r\n250 AUTH PLAIN LOGIN\r\n"
    with FaultySmtp(fake.tls, Fault("EHLO", plain), Fault("AUTH", b"235 Ok\r\n")) as server:
        monkeypatch.setitem(PORTS, 2525, server.port)
        result = call("smtp_client")
    assert (result.returncode, server.taken, server.steps["AUTH"]) == (NOT_SENT, [], 0)
    assert "STARTTLS" in result.stderr


def test_even_on_localhost_tls_is_used_and_checked_where_there_is_any(tls, call, fake):
    here = {"MAILTRAP_SMTP_HOST": "localhost", "MAILTRAP_SMTP_PORT": str(fake.smtp_port)}
    assert call("smtp_client", **here).returncode == 0
    assert fake.logins == [("PLAIN", True)]
    untrusted(tls, fake.authority)
    assert call("smtp_client", **here).returncode == NOT_SENT


TOKENS = ["", " ", "canary b", "canary\nb", "canary\n", "canary\r", "canaryü", "\tcanary"]


@pytest.mark.parametrize("token", TOKENS)
def test_a_token_that_cannot_be_one_is_refused_without_quoting_it(token):
    with pytest.raises(ValueError, match="token") as raised:
        api_client.open_api(token, "sandbox", "4242")
    assert "canary" not in repr(raised.value)
    assert raised.value.__cause__ is raised.value.__context__ is None


def test_a_login_that_cannot_be_one_is_refused_without_quoting_it(fake):
    account = "localhost", fake.smtp_port, "user", "canaryü"
    with pytest.raises(ValueError, match="ASCII") as raised:
        smtp_client.connect(*account)
    assert "canary" not in repr(raised.value)


def test_only_known_streams_and_sandbox_ids_are_opened():
    assert api_client.open_api("token", "bulk")._client._timeout == 30
    for stream, sandbox_id, words in (
        ("live", "1", "the stream must be sandbox, transactional or bulk, not 'live'"),
        ("sandbox", "", "the sandbox id must be a number, not ''"),
        ("sandbox", "12/../x?y", "must be a number"),
        ("sandbox", "\u0664\u0662", "must be a number"),
    ):
        with pytest.raises(ValueError, match="must be") as raised:
            api_client.open_api("token", stream, sandbox_id)
        assert words in str(raised.value)

"""Every failure that is documented, from the server's answer to what a person reads and the exit status."""

import copy
import re
import smtplib
import socket
import ssl
import subprocess
import time
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
import requests

import api_client
import smtp_client
from conftest import ADVICE, REPOSITORY, SMTP_GREETING, PlainServer, Run, old_tls, spoil
from fake_mailtrap import QUOTA, FakeMailtrap

SANDBOX = {"MAILTRAP_SMTP_HOST": "sandbox.smtp.mailtrap.io", "MAILTRAP_SMTP_PORT": "2525"}
README = (REPOSITORY / "README.md").read_text("utf-8")


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the pauses between tries instead of waiting them out."""
    recorded: list[float] = []
    monkeypatch.setattr(time, "sleep", recorded.append)
    return recorded


# command, reply, exit status, tries, a word of the advice
SMTP_REPLIES = [
    ("AUTH", "535 5.7.0 Invalid login or password", 77, 1, "MAILTRAP_SMTP_PASSWORD"),
    ("AUTH", "535 5.7.0 Monthly messages limit reached", 75, 1, "quota"),
    ("AUTH", f"535 5.7.0 {QUOTA}", 75, 1, "Billing"),
    ("AUTH", "535 5.7.8 Too many connections per account", 75, 4, "10 connections"),
    ("AUTH", "454 4.7.0 Temporary authentication failure", 75, 4, "later"),
    ("MAIL", "530 5.7.1 Authentication required", 77, 1, "MAILTRAP_SMTP_USERNAME"),
    ("MAIL", "550 5.7.1 Sending from domain example.com is not allowed", 65, 1, "Sending Domains"),
    ("MAIL", "552 5.3.4 Error: message too big", 65, 1, "5 MB"),
    ("MAIL", "451 4.3.0 Try again", 75, 4, "later"),
    ("RCPT", "550 no such user here", 65, 1, "MAILTRAP_TO_EMAIL"),
    ("RCPT", "554 5.5.1 Error: no sandbox for this email", 65, 1, "sandbox"),
    ("RCPT", "450 4.2.0 Greylisted", 75, 4, "later"),
    ("RCPT", "550 Demo domains can only be used to send emails to account owners", 65, 1, "MAILTRAP_TO_EMAIL"),
    ("DATA", "550 5.7.0 Too many emails per second. Please upgrade your plan", 75, 4, "10 seconds"),
    ("DATA", "550 5.7.0 Requested action not taken: too many emails per second", 75, 4, "10 seconds"),
    ("DATA", "550 5.7.1 From: Header does not match the sender's domain", 65, 1, "MAILTRAP_FROM_EMAIL"),
    ("DATA", "552 5.3.4 Error: message too big", 65, 1, "10 MB"),
    ("DATA", "421 4.3.2 Shutting down", 75, 4, "later"),
    ("DATA", "554 5.6.0 Spam", 65, 1, "content"),
    ("AUTH", "535", 77, 1, "MAILTRAP_SMTP_PASSWORD"),
    ("RCPT", "550", 65, 1, "MAILTRAP_TO_EMAIL"),
    ("DATA", "451", 75, 4, "later"),
]


@pytest.mark.parametrize(("command", "reply", "status", "tries", "advice"), SMTP_REPLIES)
def test_a_reply_of_the_smtp_server_is_explained(
    command: str,
    reply: str,
    status: int,
    tries: int,
    advice: str,
    call: Run,
    fake: FakeMailtrap,
    smtp_names: None,
    pauses: list[float],
) -> None:
    fake.smtp_replies[command] = [reply] * 4
    result = call("smtp_client", **SANDBOX)
    *announced, happened, what_to_do = result.stderr.splitlines()
    assert happened == f"smtp_client: {reply} (sandbox.smtp.mailtrap.io:2525)"
    assert advice in what_to_do
    assert (result.returncode, result.stdout, fake.messages) == (status, "", [])
    assert len(pauses) == len(announced) == tries - 1
    for line, pause, wait in zip(announced, pauses, (2, 4, 8), strict=False):
        assert line == f"smtp_client: {reply}; trying again in {pause:.1f} s"
        assert wait <= pause <= 1.5 * wait


def test_a_reply_that_does_not_end_is_explained(call: Run, fake: FakeMailtrap, smtp_names: None) -> None:
    fake.smtp_replies["MAIL"] = ["250 " + "x" * 9000]
    result = call("smtp_client", **SANDBOX)
    assert (result.returncode, fake.messages) == (69, [])
    assert result.stderr == (
        "smtp_client: 500 Line too long. (sandbox.smtp.mailtrap.io:2525)\n"
        "TLS did not start, or a reply was no SMTP, so nothing was sent: try again later.\n"
    )


# status, body, exit status, tries, a word of the advice
API_ANSWERS = [
    (400, {"success": False, "errors": ["'subject' is required", "more"]}, 65, 1, "content"),
    (401, {"success": False, "errors": ["Unauthorized"]}, 77, 1, "MAILTRAP_SANDBOX_ID"),
    (401, "<html>no</html>", 77, 1, "Settings > API Tokens"),
    (403, {"success": False, "errors": ["Forbidden"]}, 77, 1, "API Tokens"),
    (403, "<html>no</html>", 69, 1, "HTTPS_PROXY"),
    (404, {"error": "Not Found"}, 78, 1, "MAILTRAP_SANDBOX_ID"),
    (404, "<html>no</html>", 78, 1, "MAILTRAP_SANDBOX_ID"),
    (413, "<html>no</html>", 65, 1, "5 MB"),
    (422, {"errors": {"to": ["is invalid"]}}, 65, 1, "MAILTRAP_TO_EMAIL"),
    (429, {"success": False, "errors": ["Rate limit exceeded"]}, 75, 4, "more slowly"),
    (429, {"success": False, "errors": [QUOTA]}, 75, 1, "Billing"),
    (500, {"success": False, "errors": ["Internal server error"]}, 75, 4, "later"),
    (503, {"success": False, "errors": ["Unavailable"]}, 75, 4, "later"),
    (500, "<html>no</html>", 74, 1, "before you send"),
    (502, "<html>no</html>", 74, 1, "before you send"),
    (504, {"errors": ["Timeout"]}, 74, 1, "before you send"),
    (200, "<html>ok</html>", 74, 1, "before you send"),
    (200, {"success": True}, 74, 1, "before you send"),
    (200, {"success": True, "message_ids": []}, 74, 1, "before you send"),
    (200, {"success": False, "message_ids": []}, 74, 1, "before you send"),
    (400, {"errors": ["Demo domains can only be used to send emails to account owners"]}, 65, 1, "owner"),
]


@pytest.mark.parametrize(("code", "body", "status", "tries", "advice"), API_ANSWERS)
def test_an_answer_of_the_api_is_explained(
    code: int, body: object, status: int, tries: int, advice: str, call: Run, fake: FakeMailtrap, pauses: list[float]
) -> None:
    fake.api_replies = [(code, body)] * 4
    result = call("api_client")
    *announced, happened, what_to_do = result.stderr.splitlines()
    assert happened.startswith("api_client: ")
    assert happened.endswith(" (sandbox.api.mailtrap.io)")
    assert advice in what_to_do
    assert (result.returncode, result.stdout, fake.messages) == (status, "", [])
    assert len(fake.requests) == tries
    assert len(pauses) == len(announced) == tries - 1
    for line, pause, wait in zip(announced, pauses, (2, 4, 8), strict=False):
        assert line == f"{happened.removesuffix(' (sandbox.api.mailtrap.io)')}; trying again in {pause:.1f} s"
        assert wait <= pause <= 1.5 * wait
    if isinstance(body, dict) and isinstance(body.get("errors"), list):
        assert happened.startswith(f"api_client: {code} {'; '.join(body['errors'])} (")


def test_a_message_refused_for_now_is_taken_when_tried_again(
    call: Run, fake: FakeMailtrap, pauses: list[float]
) -> None:
    fake.smtp_replies["DATA"] = ["550 5.7.0 Requested action not taken: too many emails per second"]
    fake.api_replies = [(429, {"success": False, "errors": ["Rate limit exceeded"]})]
    assert call("smtp_client").returncode == 0
    assert call("api_client").returncode == 0
    assert len(fake.messages) == 2
    assert len(pauses) == 2


@pytest.mark.parametrize("stream", ["transactional", "bulk"])
def test_a_401_of_a_live_stream_names_the_domain(stream: str, call: Run, fake: FakeMailtrap) -> None:
    result = call("api_client", "--from", "me@unverified.example", "--stream", stream)
    assert result.returncode == 77
    assert "domain of MAILTRAP_FROM_EMAIL" in result.stderr
    assert "MAILTRAP_SANDBOX_ID" not in result.stderr


@pytest.mark.parametrize("limit", ["rate", "quota", "connections", "size"])
def test_the_limits_of_mailtrap_lead_to_the_right_status(
    limit: str, call: Run, fake: FakeMailtrap, tmp_path: Path
) -> None:
    setattr(fake, limit, 100_000 if limit == "size" else 0)
    (tmp_path / "big.bin").write_bytes(b"\0" * 200_000)
    flags = ["--attach", str(tmp_path / "big.bin")] if limit == "size" else []
    expected = 65 if limit == "size" else 75
    assert call("smtp_client", *flags).returncode == expected
    if limit != "connections":
        assert call("api_client", *flags).returncode == expected
    assert fake.messages == []


def test_an_attachment_of_30_mb_is_refused_as_too_big(call: Run, fake: FakeMailtrap, tmp_path: Path) -> None:
    (tmp_path / "big.bin").write_bytes(bytes(30 * 1024 * 1024))
    for script in ("smtp_client", "api_client"):
        result = call(script, "--attach", str(tmp_path / "big.bin"))
        assert (result.returncode, "Attach less" in result.stderr) == (65, True)


def test_what_the_server_says_is_shown_without_control_characters(call: Run, fake: FakeMailtrap) -> None:
    fake.smtp_replies["MAIL"] = ["550 5.7.1 \x1b[31mred\x07 and\tbell"]
    fake.api_replies = [(400, {"errors": ["\x1b[31mred\u202e\nand more"]})]
    assert "550 5.7.1 [31mred and bell (" in call("smtp_client").stderr
    assert "400 [31mred and more (" in call("api_client").stderr


def test_a_server_that_repeats_the_secret_does_not_spread_it(call: Run, fake: FakeMailtrap) -> None:
    fake.smtp_replies["AUTH"] = [f"535 5.7.0 wrong: {fake.password}"]
    fake.api_replies = [(401, {"errors": [f"wrong: Bearer {fake.token}"]})]
    assert "535 5.7.0 wrong: *** (" in call("smtp_client").stderr
    assert "401 wrong: Bearer *** (" in call("api_client").stderr


@pytest.mark.parametrize("script", ["smtp_client", "api_client"])
def test_an_endless_answer_is_cut(script: str, call: Run, fake: FakeMailtrap) -> None:
    fake.smtp_replies["MAIL"] = ["550 " + "x" * 7000]
    fake.api_replies = [(400, {"errors": ["x" * 7000]})]
    assert re.search("x+ ", call(script).stderr)[0] == "x" * 396 + " "


def test_unreachable_servers_have_status_69(call: Run, pauses: list[float]) -> None:
    refused = call("smtp_client", MAILTRAP_SMTP_PORT="1")
    assert refused.returncode == 69
    assert re.search("(?i)refused", refused.stderr)
    assert "Is the server up" in refused.stderr
    unknown = call("smtp_client", MAILTRAP_SMTP_HOST="no-such-host.invalid")
    assert (unknown.returncode, "The name was not found" in unknown.stderr) == (69, True)
    malformed = call("smtp_client", MAILTRAP_SMTP_HOST="a..b")
    assert malformed.returncode == 78
    proxy = call("api_client", HTTPS_PROXY="http://127.0.0.1:1", https_proxy="http://127.0.0.1:1")
    assert (proxy.returncode, "HTTPS_PROXY" in proxy.stderr) == (69, True)
    nowhere = "http://no-such-host.invalid:3128"
    unknown = call("api_client", HTTPS_PROXY=nowhere, https_proxy=nowhere)
    assert (unknown.returncode, "The name was not found" in unknown.stderr) == (69, True)
    assert pauses == []


@pytest.mark.parametrize("greeting", [b"554 5.7.1 Go away\r\n", b"220 ready\r\n"])
def test_a_server_that_turns_everybody_away_is_not_reached(greeting: bytes, call: Run, pauses: list[float]) -> None:
    server = PlainServer((greeting, b"550 5.7.1 Go away\r\n", b"550 5.7.1 Go away\r\n"))
    result = call("smtp_client", MAILTRAP_SMTP_PORT=str(server.port))
    assert result.returncode == 69
    assert "5.7.1 Go away (" in result.stderr
    assert "turns this machine away" in result.stderr
    assert pauses == []


def test_an_error_that_nobody_foresaw_may_hide_a_success() -> None:
    advice = "This was not foreseen: look in Mailtrap before you send it again."
    assert smtp_client.explain(RuntimeError()) == ("RuntimeError", advice, 74, False)
    advice = "It may have been taken: look in Mailtrap before you send it again."
    assert api_client.explain(RuntimeError()) == ("RuntimeError", advice, 74, False)


@pytest.mark.parametrize("script", [smtp_client, api_client])
def test_an_empty_secret_hides_nothing(script: ModuleType) -> None:
    assert script.explain(RuntimeError("hi"), secrets=["", "x"])[0] == "hi"


@pytest.mark.parametrize("proxy", ["foo://x", "http://[", "socks5://127.0.0.1:1"])
def test_a_malformed_proxy_is_a_setting_that_is_wrong(proxy: str, call: Run, pauses: list[float]) -> None:
    result = call("api_client", HTTPS_PROXY=proxy, https_proxy=proxy)
    assert (result.returncode, "HTTPS_PROXY" in result.stderr, pauses) == (78, True, [])


def test_a_ca_bundle_that_is_none_is_a_setting_that_is_wrong(call: Run, tmp_path: Path, pauses: list[float]) -> None:
    (tmp_path / "empty.pem").touch()
    for name in ("missing.pem", "empty.pem"):
        result = call("api_client", REQUESTS_CA_BUNDLE=str(tmp_path / name))
        assert (result.returncode, "REQUESTS_CA_BUNDLE" in result.stderr, pauses) == (78, True, [])


@pytest.mark.parametrize(("code", "status"), [(399, 74), (400, 65), (499, 65), (501, 74), (599, 74)])
def test_only_codes_from_400_to_499_are_refusals_of_the_api(
    code: int, status: int, call: Run, fake: FakeMailtrap
) -> None:
    fake.api_replies = [(code, {"errors": ["no"]})]
    assert call("api_client").returncode == status


@pytest.mark.parametrize(("code", "status"), [(399, 74), (400, 75), (499, 75), (500, 65), (599, 65), (600, 74)])
def test_only_codes_from_400_to_599_are_refusals_of_the_content(
    code: int, status: int, call: Run, fake: FakeMailtrap
) -> None:
    fake.smtp_replies["DATA"] = [f"{code} 5.0.0 no"] * 4
    assert call("smtp_client").returncode == status


def test_ids_are_shown_without_control_characters(call: Run, fake: FakeMailtrap) -> None:
    fake.api_replies = [(200, {"success": True, "message_ids": ["a\x1b[31mb"]})]
    assert "  Message id  a [31mb\n" in call("api_client").stdout


def test_an_answer_that_makes_no_sense_is_no_matter_of_ports(call: Run, fake: FakeMailtrap) -> None:
    fake.smtp_replies["MAIL"] = ["what?"]
    result = call("smtp_client")
    assert result.returncode == 69
    assert "2525" not in result.stderr


def unknown_host(words: str) -> NoReturn:
    """Fail as the name service does on Linux."""
    raise socket.gaierror(socket.EAI_NONAME, words)


def rows_of_the_readme() -> list[tuple[str, str]]:
    section = README.split("## Troubleshooting\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*`) \| ([\w ]+) \| ", section, re.MULTILINE)
    return [(words, statuses) for cell, statuses in rows for words in re.findall("`([^`]+)`", cell)]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1")
@pytest.mark.parametrize(("words", "statuses"), rows_of_the_readme())
def test_every_row_of_the_troubleshooting_is_true(
    words: str,
    statuses: str,
    call: Run,
    fake: FakeMailtrap,
    smtp_names: None,
    server_tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    pauses: list[float],
) -> None:
    def to_server(*answers: bytes, tls: ssl.SSLContext | None = None) -> subprocess.CompletedProcess[str]:
        return call("smtp_client", MAILTRAP_SMTP_PORT=str(PlainServer(answers, tls).port))

    def through_proxy(proxy: str) -> subprocess.CompletedProcess[str]:
        return call("api_client", HTTPS_PROXY=proxy, https_proxy=proxy)

    match words:
        case "request or answer not understood":
            fake.api_replies = [(200, "<html>")]
            result = call("api_client")
        case "Connection refused":
            result = through_proxy("http://127.0.0.1:1")
        case "Name or service not known":
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: unknown_host(words))
            result = call("smtp_client")
        case "It is on its way to real people":
            result = call("api_client", MAILTRAP_STREAM="transactional")
            result.stderr += result.stdout
        case "timed out":
            monkeypatch.setattr(smtp_client.connect, "__kwdefaults__", {"timeout": 0.1, "debug": 0})
            result = to_server(b"")
        case "unable to get local issuer certificate":
            spoil("untrusted", server_tls, fake.authority)
            result = call("api_client")
        case "Missing Authority Key Identifier":  # which Python 3.13 and later alone complain of
            text = f"[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {words} (_ssl.c:1032)"
            error = unconnected(ssl.SSLCertVerificationError(1, text))
            happened, advice, status, again = api_client.explain(error)
            assert not again
            assert smtp_client.explain(error.__cause__)[1:] == (advice, status, again)
            result = subprocess.CompletedProcess([], status, "", f"{happened}\n{advice}")
            assert advice in ADVICE
        case "certificate has expired":
            spoil("expired", server_tls, fake.authority)
            result = call("smtp_client")
        case "certificate is not yet valid":
            spoil("not yet valid", server_tls, fake.authority)
            result = call("api_client")
        case "Hostname mismatch":
            result = call("smtp_client", MAILTRAP_SMTP_HOST="other.smtp.mailtrap.io")
        case "wrong version number":
            result = through_proxy(f"https://127.0.0.1:{fake.smtp_port}")
        case "alert protocol version":
            result = to_server(*SMTP_GREETING, tls=old_tls(fake))
        case "STARTTLS extension not supported by server":
            fake.starttls = False
            result = call("smtp_client", **SANDBOX)
        case "SMTP AUTH extension not supported by server":
            fake.mechanisms = ""
            result = call("smtp_client", **SANDBOX)
        case "unencrypted data after STARTTLS":
            result = to_server(*SMTP_GREETING[:2], SMTP_GREETING[2] + b"250 injected\r\n", tls=fake.tls)
        case "Connection unexpectedly closed":
            result = to_server(SMTP_GREETING[0])
        case "Remote end closed connection without response":
            monkeypatch.setattr(fake, "api_port", PlainServer((), fake.tls).port)
            result = call("api_client")
        case "Tunnel connection failed: 403 Forbidden":
            proxy = PlainServer((b"", b"HTTP/1.1 403 Forbidden\r\n\r\n"))
            result = through_proxy(f"http://127.0.0.1:{proxy.port}")
        case "invalid path":
            result = call("api_client", REQUESTS_CA_BUNDLE="/no/such/file.pem")
        case "settings are missing or invalid":
            result = call("smtp_client", MAILTRAP_TO_EMAIL="")
        case _ if re.match(r"5\d\d (\d\.|Demo)", words):
            command = "AUTH" if words.startswith("535") else "DATA" if "per second" in words else "MAIL"
            fake.smtp_replies[command] = [words] * 4
            result = call("smtp_client", **SANDBOX)
        case _:
            body = "<html>" if "JSON" in words else {"success": False, "errors": [words[4:]]}
            fake.api_replies = [(int(words[:3]), body)] * 4
            result = call("api_client")
    assert words in result.stderr
    assert str(result.returncode) in statuses.split(" or ")
    assert bool(pauses) == (result.returncode == 75 and "quota" not in result.stderr)


URLLIB3 = """
def connect():
    raise cause

def send():
    try:
        connect()
    except OSError as error:
        raise requests.ConnectionError from error
"""


def unconnected(cause: OSError) -> OSError:
    """Return the error that requests makes of this one, when it fails to connect."""
    namespace = {"__name__": "urllib3.connection", "requests": requests, "cause": cause}
    exec(URLLIB3, namespace)
    with pytest.raises(OSError) as caught:  # noqa: PT011
        namespace["send"]()  # type: ignore[operator]
    return caught.value


@pytest.mark.parametrize("handled", [ZeroDivisionError("division by zero"), requests.ConnectionError("another")])
def test_what_the_caller_was_handling_does_not_matter(
    handled: Exception, call: Run, fake: FakeMailtrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("api_client", "--dry-run")  # sets the environment
    monkeypatch.setattr(fake, "api_port", PlainServer((), fake.tls).port)
    mail = api_client.build_mail("me@example.com", to=["you@example.com"], subject="Alert", text="Help")

    def connect() -> None:
        api_client.send(api_client.open_api(fake.token, "sandbox", fake.sandbox_id), mail)

    try:
        raise handled
    except Exception:
        with pytest.raises(OSError) as caught:  # noqa: PT011
            connect()
    happened, _, status, again = api_client.explain(caught.value)
    assert (happened, status, again) == ("Remote end closed connection without response", 74, False)


def test_several_refusals_are_told_the_gravest_first() -> None:
    refused = {"a@b.c": (450, b"4.2.0 later"), "b@b.c": (550, b"5.1.1 n\xffne"), "c@b.c": (451, "4.3.0 wait")}
    happened, _, status, again = smtp_client.explain(smtplib.SMTPRecipientsRefused(refused))  # type: ignore[arg-type]
    assert (happened, status, again) == ("550 5.1.1 n\ufffdne; 451 4.3.0 wait; 450 4.2.0 later", 65, False)


@pytest.mark.parametrize("script", ["smtp_client", "api_client"])
def test_a_wrong_flag_is_told_in_two_lines(script: str, call: Run, fake: FakeMailtrap, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.pdf")
    result = call(script, "--attach", missing)
    assert (result.returncode, result.stderr) == (
        2,
        f"{script}: cannot read {missing!r}: No such file or directory\nCheck that the file exists and may be read.\n",
    )
    result = call(script, "--subject", "")
    assert (result.returncode, result.stderr) == (
        2,
        f"{script}: a message needs a recipient, a subject, and text or HTML\nCorrect that flag.\n",
    )
    assert fake.messages == []


def test_who_was_refused_and_who_was_not_is_told(call: Run, fake: FakeMailtrap) -> None:
    refused = [f"bounce+{code}+no+{number}@example.com" for number, code in enumerate((550, 551))]
    recipients = [*refused, "Ann <ann@example.com>", "bob@example.com"]
    result = call("smtp_client", *(flag for one in recipients for flag in ("--to", one)))
    assert result.returncode == 65
    assert "\n  To          Ann <ann@example.com>, bob@example.com\n" in result.stdout
    assert result.stderr == (
        f"smtp_client: refused for {refused[0]}, {refused[1]}: 551 no 1; 550 no 0\n"
        "The others have it: send it again to these alone, once their addresses are corrected.\n"
    )


def test_a_252_for_a_recipient_is_a_yes(call: Run, fake: FakeMailtrap) -> None:
    fake.smtp_replies["RCPT"] = ["", "252 2.1.5 Cannot verify, but will try"]
    result = call("smtp_client", "--to", "a@example.com", "--to", "b@example.com")
    assert (result.returncode, result.stderr) == (0, "")
    assert "  To          a@example.com, b@example.com\n" in result.stdout


def test_a_mail_catcher_is_not_taken_for_mailtrap(call: Run, fake: FakeMailtrap) -> None:
    fake.starttls, fake.mechanisms = False, ""
    first, *_, last = call("smtp_client").stdout.splitlines()
    assert first.startswith(f"Accepted by 127.0.0.1:{fake.smtp_port} (no TLS) in ")
    assert last == "That server is not Mailtrap's: what becomes of the message is up to it."


@pytest.mark.parametrize(
    ("spoil_it", "advice"),
    [
        ({"starttls": False}, "Nothing is sent without TLS: check MAILTRAP_SMTP_HOST."),
        ({"mechanisms": ""}, "It has no login, so it is not Mailtrap: check MAILTRAP_SMTP_HOST."),
        (
            {"smtp_replies": {"MAIL": ["550 Demo domains can only be used to send emails to account owners"]}},
            "The demo domain writes to the account's owner only: see MAILTRAP_TO_EMAIL.",
        ),
    ],
)
def test_each_cause_has_its_own_advice(
    spoil_it: dict[str, Any], advice: str, call: Run, fake: FakeMailtrap, smtp_names: None
) -> None:
    for name, value in spoil_it.items():
        setattr(fake, name, copy.deepcopy(value))  # replies are used up
    assert call("smtp_client", **SANDBOX).stderr.splitlines()[-1] == advice

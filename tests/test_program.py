"""Both scripts as programs: what is sent, what is said of it, and with which exit status."""

import os
import re
import signal
import smtplib
import socket
import subprocess
import sys
from typing import Any

import pytest

import api_client
import smtp_client
from conftest import PORTS, REPOSITORY, SCRIPTS
from faulty import FOREVER, Fault, FaultyApi, FaultySmtp, http

ACCEPTED, UNKNOWN, WRONG_INPUT, NOT_SENT = range(4)
SENDING = {
    "smtp_client": "Sending to sandbox.smtp.mailtrap.io:2525 ...\n",
    "api_client": "Sending to sandbox.api.mailtrap.io ...\n",
}
LIVE = {
    "MAILTRAP_SMTP_HOST": "live.smtp.mailtrap.io",
    "MAILTRAP_SMTP_USERNAME": "api",
    "MAILTRAP_STREAM": "transactional",
}
both = pytest.mark.parametrize("script", SCRIPTS)


def told(result: Any, script: str) -> tuple[str, str]:
    """Return what happened and what to do, the two lines of a failure."""
    happened, what_to_do = result.stderr.removeprefix(SENDING[script]).splitlines()
    return happened.removeprefix(f"{script}: "), what_to_do


@both
def test_one_command_sends_one_message_and_says_what_became_of_it(script, run, fake):
    result = run(script)
    [captured] = fake.messages
    assert (result.returncode, result.stderr) == (ACCEPTED, SENDING[script])
    assert (captured.sender, captured.recipients) == ("hello@example.com", ["you@example.com"])
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.fullmatch(f"Mailtrap (SMTP|API) test, {time}", captured.subject)
    identifier = f"Message id  {captured.id}"
    if script == "smtp_client":
        [message_id] = re.findall(rb"Message-ID: (\S+)", captured.source)
        identifier = f"Message-ID  {message_id.decode()}"
    first, *block, note = result.stdout.splitlines()
    server = SENDING[script].split()[2]
    assert re.fullmatch(rf"Accepted by {re.escape(server)} in \d+\.\d\d s", first)
    assert block == [
        "  From        Mailtrap Test <hello@example.com>",
        "  To          you@example.com",
        f"  Subject     {captured.subject}",
        "  Files       none",
        f"  {identifier}",
    ]
    assert "nobody receives it" in note


@both
def test_the_test_message_says_where_it_came_from_in_text_and_in_html(script, call, fake):
    assert call(script).returncode == ACCEPTED
    [captured] = fake.messages
    kind = script.partition("_")[0]
    for words in (
        "It works!",
        f"{script}.py",
        f"sandbox.{kind}.mailtrap.io",
        "äöü, €, 你好",
        "Next",
    ):
        assert words in captured.text
        assert words in captured.html
    assert re.search(r"\d{4}-\d\d-\d\d at \d\d:\d\d:\d\d", captured.text)
    assert "white-space: pre-wrap" in captured.html, "or its lines would run together"


def test_the_same_flags_make_the_same_message(call, fake, tmp_path):
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "b.pdf").write_text("second")
    flags = ["--from", "Müller, Jörg <j@example.com>", "--subject", "Grüße 😀", "--text", "Hallo"]
    flags += ["--to", "Doe, Ann <ann@example.com>", "--to", "bob@example.org"]
    flags += ["--html", "<p>Hallo</p>"]
    flags += [f"--attach={tmp_path / name}" for name in ("a.txt", "b.pdf")]
    for script in SCRIPTS:
        result = call(script, *flags)
        assert result.returncode == ACCEPTED
        assert "  To          Doe, Ann <ann@example.com>, bob@example.org\n" in result.stdout
        assert "a.txt, " in result.stdout
    for captured in fake.messages:
        assert (captured.subject, captured.text.strip()) == ("Grüße 😀", "Hallo")
        assert (captured.html.strip(), captured.files) == ("<p>Hallo</p>", ["a.txt", "b.pdf"])
        assert captured.sender == "j@example.com"
        assert captured.recipients == ["ann@example.com", "bob@example.org"]


@both
@pytest.mark.parametrize("kind", ["text", "html"])
def test_one_body_alone_has_no_other_beside_it(script, kind, call, fake):
    assert call(script, f"--{kind}", "Only this").returncode == ACCEPTED
    [captured] = fake.messages
    other = {"text": captured.html, "html": captured.text}[kind]
    assert (getattr(captured, kind).strip(), other) == ("Only this", "")


@both
@pytest.mark.parametrize("live", [False, True], ids=["sandbox", "live"])
def test_a_dry_run_shows_the_block_the_text_and_where_it_would_go(script, live, run, fake):
    nothing_set = dict.fromkeys(fake.settings)
    result = run(script, "--dry-run", **{**nothing_set, **(LIVE if live else {})})
    assert (result.returncode, result.stderr) == (ACCEPTED, "")
    assert (fake.messages, fake.requests, fake.logins) == ([], [], [])
    first, *middle, note = result.stdout.splitlines()
    hosts = {"smtp_client": "live.smtp.mailtrap.io:2525", "api_client": "send.api.mailtrap.io"}
    place = hosts[script] if live else SENDING[script].split()[2]
    assert "dry run" in first
    assert place in first
    assert middle[:2] == [
        "  From        Mailtrap Test <hello@example.com>",
        "  To          you@example.com",
    ]
    assert any(line.startswith("It works!") for line in middle)
    assert ("real people" in note, "nobody receives" in note) == (live, not live)
    assert "captures it" not in result.stdout


@pytest.mark.parametrize(
    ("stream", "host", "path"),
    [
        ("sandbox", "sandbox.api.mailtrap.io", "/api/send/4242"),
        ("transactional", "send.api.mailtrap.io", "/api/send"),
        ("bulk", "bulk.api.mailtrap.io", "/api/send"),
    ],
)
def test_each_stream_has_its_host_and_says_whether_it_delivers(stream, host, path, call, fake):
    result = call("api_client", "--to", "a@b.c", "--to", "d@e.f", MAILTRAP_STREAM=stream)
    assert [request[:2] for request in fake.requests] == [(host, path)]
    assert result.stdout.startswith(f"Accepted by {host} in ")
    assert ("nobody receives it" in result.stdout) == (stream == "sandbox")
    assert ("real people" in result.stdout) == (stream != "sandbox")
    [ids] = re.findall("  Message id  (.*)\n", result.stdout)
    assert len(ids.split(", ")) == (1 if stream == "sandbox" else 2)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("sandbox.smtp.mailtrap.io", "nobody receives it"),
        ("live.smtp.mailtrap.io", "real people"),
        ("bulk.smtp.mailtrap.io", "real people"),
        ("sandbox.smtp.mailtrap.io.example", "up to sandbox.smtp.mailtrap.io.example"),
        ("localhost", "up to localhost"),
    ],
)
def test_smtp_says_whether_real_people_receive_it(host, words, call):
    assert words in call("smtp_client", "--dry-run", MAILTRAP_SMTP_HOST=host).stdout


def test_smtp_sends_live_with_a_token(call, fake):
    result = call("smtp_client", **LIVE, MAILTRAP_SMTP_PASSWORD=fake.token)
    assert (result.returncode, fake.messages[0].stream) == (ACCEPTED, "transactional")


@both
def test_verbose_shows_the_conversation_without_secrets(script, run):
    result = run(script, "--verbose")
    expected = ["STARTTLS", "mail FROM:<hello@example.com>", "354 Go ahead", "Ok: queued", "quit"]
    if script == "api_client":
        expected = ["sandbox.api.mailtrap.io:443", "POST /api/send/4242", '"subject":', "200"]
    assert (result.returncode, "DEBUG" in result.stderr) == (ACCEPTED, False)
    for words in expected:
        assert words.lower() in result.stderr.lower()


@both
@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", "\\u4f60 \\xe9"), ("cp1252", "\\u4f60 é")]
)
def test_a_console_that_lacks_a_character_shows_its_number(script, encoding, shown, fake):
    command = [sys.executable, str(REPOSITORY / f"{script}.py"), "--subject", "你 é"]
    environ = {**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": encoding}
    result = subprocess.run(command, env=environ, capture_output=True, encoding=encoding)
    assert result.returncode == ACCEPTED
    assert f"  Subject     {shown}\n" in result.stdout
    assert fake.messages[0].subject == "你 é"


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@both
def test_ctrl_c_while_sending_is_unknown(script, fake):
    with FaultySmtp(fake.tls, Fault("greeting", b"", "stall")) as silent:
        ports = {"MAILTRAP_SMTP_HOST": "127.0.0.1", "MAILTRAP_SMTP_PORT": str(silent.port)}
        proxy = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), f"http://127.0.0.1:{silent.port}")
        process = subprocess.Popen(
            [sys.executable, str(REPOSITORY / f"{script}.py")],
            env={**os.environ, **ports, **proxy, "NO_PROXY": "", "no_proxy": ""},
            stderr=subprocess.PIPE,
            text=True,
        )
        while not silent.steps["greeting"]:
            pass
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == UNKNOWN
    _, happened, what_to_do = errors.splitlines()
    assert happened == f"{script}: interrupted"
    assert "look for it in Mailtrap" in what_to_do


def test_a_netrc_file_does_not_replace_the_token(run, tmp_path):
    for name in (".netrc", "_netrc"):
        (tmp_path / name).write_text("default login somebody password else\n")
        (tmp_path / name).chmod(0o600)
    home = str(tmp_path)
    assert run("api_client", HOME=home, USERPROFILE=home, NETRC=None).returncode == ACCEPTED


# Where it fails


def test_who_was_refused_and_who_was_not_is_told(call, fake):
    refused = ["bounce+451+later@example.com", "bounce+550+no+such+user@example.com"]
    people = [refused[0], "Ann <ann@example.com>", refused[1], "bob@example.com"]
    result = call("smtp_client", *(flag for one in people for flag in ("--to", one)))
    assert result.returncode == NOT_SENT
    assert "  To          Ann <ann@example.com>, bob@example.com\n" in result.stdout
    happened, what_to_do = told(result, "smtp_client")
    assert happened == f"{refused[0]}: 451 later; {refused[1]}: 550 no such user"
    assert "The other recipients have it" in what_to_do
    assert fake.messages[0].recipients == ["ann@example.com", "bob@example.com"]


def test_twenty_refused_recipients_are_all_named(call, pauses):
    people = [f"bounce+451+greylisted+{number}@example.com" for number in range(20)]
    result = call("smtp_client", *(flag for one in people for flag in ("--to", one)))
    happened, what_to_do = told(result, "smtp_client")
    assert all(f"451 greylisted {number}" in happened for number in range(20))
    assert (result.returncode, "for now" in what_to_do, len(pauses)) == (NOT_SENT, True, 3)


# step, reply, exit status, tries, words of the advice
SMTP_REPLIES = [
    ("greeting", "554 5.7.1 Go away", NOT_SENT, 1, "objects to"),
    ("greeting", "421 4.7.0 Too busy", NOT_SENT, 4, "for now"),
    ("STARTTLS", "454 4.7.0 TLS not available", NOT_SENT, 4, "for now"),
    ("AUTH", "535 5.7.0 Invalid login or password", NOT_SENT, 1, "MAILTRAP_SMTP_USERNAME"),
    ("AUTH", "535 5.7.0 Monthly messages limit reached", NOT_SENT, 1, "Billing"),
    ("AUTH", "535 5.7.0 The email limit is reached. Please upgrade", NOT_SENT, 1, "used up"),
    ("AUTH", "535 5.7.8 Too many connections per account", NOT_SENT, 4, "for now"),
    ("AUTH", "454 4.7.0 Temporary authentication failure", NOT_SENT, 4, "for now"),
    ("AUTH", "334 a", NOT_SENT, 1, "MAILTRAP_SMTP_HOST"),
    ("MAIL", "550 5.7.1 Sending from domain a.b is not allowed", NOT_SENT, 1, "Sending Domains"),
    ("MAIL", "552 5.3.4 Error: message too big", NOT_SENT, 1, "5 MB"),
    ("RCPT", "550 Demo domains can only be used to send to owners", NOT_SENT, 1, "Sending Domains"),
    ("RCPT", "450 4.2.0 Greylisted", NOT_SENT, 4, "for now"),
    ("RCPT", "550 5.1.2 unknown recipient domain", NOT_SENT, 1, "objects to"),
    ("DATA", "550 5.7.0 Too many emails per second. Please upgrade", NOT_SENT, 4, "Wait a minute"),
    ("content", "550 5.7.0 From: Header does not match the sender's domain", 3, 1, "MAILTRAP_FROM"),
    ("content", "550 5.7.0 Requested action not taken: too many emails per second", 3, 4, "minute"),
    ("content", "554 5.6.0 Spam", NOT_SENT, 1, "objects to"),
    ("content", "400 4.0.0 no", NOT_SENT, 4, "for now"),
    ("content", "599 5.0.0 no", NOT_SENT, 1, "objects to"),
    ("content", "399 5.0.0 what", UNKNOWN, 1, "look for it in Mailtrap"),
    ("content", "600 5.0.0 what", UNKNOWN, 1, "look for it in Mailtrap"),
    ("content", "251 2.0.0 what", UNKNOWN, 1, "look for it in Mailtrap"),
    ("QUIT", "421 4.3.0 Going down", ACCEPTED, 1, ""),
]


@pytest.mark.parametrize(("step", "reply", "status", "tries", "advice"), SMTP_REPLIES)
def test_a_reply_of_the_smtp_server_is_told(
    step, reply, status, tries, advice, call, fake, pauses, monkeypatch
):
    with FaultySmtp(fake.tls, Fault(step, f"{reply}\r\n".encode(), at=FOREVER)) as server:
        monkeypatch.setitem(PORTS, 2525, server.port)
        result = call("smtp_client")
    assert (result.returncode, len(pauses)) == (status, tries - 1)
    if status != ACCEPTED:
        happened, what_to_do = told(result, "smtp_client")
        assert happened.removeprefix("you@example.com: ") == reply or reply == "334 a"
        assert advice in what_to_do
        assert what_to_do.endswith((".", "Mailtrap"))


# status, body, exit status, tries, words of the advice
API_ANSWERS = [
    (400, {"success": False, "errors": ["'subject' is required", "more"]}, 3, 1, "objects to"),
    (401, {"success": False, "errors": ["Unauthorized"]}, NOT_SENT, 1, "MAILTRAP_API_TOKEN"),
    (401, b"<html>no</html>", NOT_SENT, 1, "Settings > API Tokens"),
    (403, {"success": False, "errors": ["Forbidden"]}, NOT_SENT, 1, "Sending Domains"),
    (404, {"error": "Not Found"}, NOT_SENT, 1, "MAILTRAP_SANDBOX_ID"),
    (404, b"", NOT_SENT, 1, "https://mailtrap.io/sandboxes/"),
    (413, {"errors": ["Request Entity Too Large"]}, NOT_SENT, 1, "5 MB"),
    (422, {"errors": {"to": ["is invalid"]}}, NOT_SENT, 1, "objects to"),
    (429, {"success": False, "errors": ["Rate limit exceeded"]}, NOT_SENT, 4, "for now"),
    (429, {"errors": ["The email limit is reached. Please upgrade"]}, NOT_SENT, 1, "Billing"),
    (500, {"success": False, "errors": ["Internal server error"]}, NOT_SENT, 4, "for now"),
    (503, {"success": False, "errors": ["Unavailable"]}, NOT_SENT, 4, "for now"),
    (500, b"<html>no</html>", UNKNOWN, 1, "look for it in Mailtrap"),
    (502, b"<html>no</html>", UNKNOWN, 1, "look for it in Mailtrap"),
    (504, {"errors": ["Timeout"]}, UNKNOWN, 1, "look for it in Mailtrap"),
    (200, b"<html>ok</html>", UNKNOWN, 1, "look for it in Mailtrap"),
    (200, {"success": True, "message_ids": []}, UNKNOWN, 1, "look for it in Mailtrap"),
    (200, {"success": False, "message_ids": ["5"]}, UNKNOWN, 1, "look for it in Mailtrap"),
]


@pytest.mark.parametrize(("code", "body", "status", "tries", "advice"), API_ANSWERS)
def test_an_answer_of_the_api_is_told(
    code, body, status, tries, advice, call, fake, pauses, monkeypatch
):
    with FaultyApi(fake.tls, Fault("body", http(code, body), at=FOREVER)) as server:
        monkeypatch.setitem(PORTS, 443, server.port)
        result = call("api_client")
    assert (result.returncode, len(pauses)) == (status, tries - 1)
    happened, what_to_do = told(result, "api_client")
    assert advice in what_to_do
    assert what_to_do.endswith((".", "messages"))
    if isinstance(body, dict) and isinstance(body.get("errors"), list):
        assert happened == f"{code} {'; '.join(body['errors'])}"


def test_a_refusal_is_told_whatever_becomes_of_quit(call, fake, monkeypatch):
    faults = Fault("content", b"554 5.6.0 Spam\r\n"), Fault("QUIT", b"500 5.5.1 What?\r\n")
    with FaultySmtp(fake.tls, *faults) as server:
        monkeypatch.setitem(PORTS, 2525, server.port)
        result = call("smtp_client")
    assert told(result, "smtp_client")[0] == "554 5.6.0 Spam"


def test_message_ids_cannot_steer_the_terminal(call, fake, monkeypatch):
    ids = {"success": True, "message_ids": ["5\x1b[31m\r\n6", "7" * 9000]}
    with FaultyApi(fake.tls, Fault("body", http(200, ids), takes=True)) as server:
        monkeypatch.setitem(PORTS, 443, server.port)
        result = call("api_client")
    [line] = re.findall("  Message id  (.*)\n", result.stdout)
    assert line.startswith("5 [31m 6, 777")
    assert len(line) <= 400


def test_waiting_is_told_in_the_terminal(run, fake):
    busy = Fault("content", b"451 4.3.0 Wait\x1b[31m\r\n")
    with FaultySmtp(fake.tls, busy) as server:
        changes = {"MAILTRAP_SMTP_HOST": "localhost", "MAILTRAP_SMTP_PORT": str(server.port)}
        result = run("smtp_client", **changes)
    assert result.returncode == ACCEPTED
    _, waiting = result.stderr.splitlines()
    assert re.fullmatch(r"451 4\.3\.0 Wait \[31m; trying again in [23]\.\d s", waiting)


LIMITS = [("rate", "for now"), ("quota", "Billing"), ("connections", "for now"), ("size", "5 MB")]


@both
@pytest.mark.parametrize(("limit", "advice"), LIMITS)
def test_the_limits_of_mailtrap_are_told(script, limit, advice, call, fake, tmp_path, pauses):
    (tmp_path / "big.bin").write_bytes(bytes(200_000))
    setattr(fake, limit, 100_000 if limit == "size" else 0)
    result = call(script, *([f"--attach={tmp_path / 'big.bin'}"] if limit == "size" else []))
    if (script, limit) == ("api_client", "connections"):
        assert result.returncode == ACCEPTED
    else:
        assert result.returncode == NOT_SENT
        assert advice in told(result, script)[1]


@both
def test_a_wrong_password_or_token_is_sent_once_and_told_nowhere(script, call, fake):
    wrong = {"MAILTRAP_SMTP_PASSWORD": "wr0ng-canary", "MAILTRAP_API_TOKEN": "wr0ng-canary"}
    result = call(script, **wrong)
    assert result.returncode == NOT_SENT
    assert "canary" not in result.stderr
    assert fake.logins == ([("PLAIN", True)] if script == "smtp_client" else [])


@pytest.mark.parametrize(("port", "other"), [("2525", "587"), ("587", "2525"), ("1", "2525")])
def test_a_port_that_is_blocked_is_not_the_one_that_is_advised(
    port, other, call, monkeypatch, pauses
):
    monkeypatch.setitem(PORTS, int(port), 1)
    result = call("smtp_client", MAILTRAP_SMTP_PORT=port)
    happened, what_to_do = result.stderr.splitlines()[1:]
    assert (result.returncode, pauses) == (NOT_SENT, [])
    assert "refused" in happened
    assert f"MAILTRAP_SMTP_PORT={other}" in what_to_do
    assert f"MAILTRAP_SMTP_PORT={port}" not in what_to_do


def test_an_api_that_cannot_be_reached_is_told_in_few_words(call, monkeypatch, pauses):
    monkeypatch.setitem(PORTS, 443, 1)
    result = call("api_client")
    happened, what_to_do = told(result, "api_client")
    assert (result.returncode, pauses) == (NOT_SENT, [])
    assert "refused" in happened
    assert len(happened) < 150
    assert "HTTPS_PROXY" in what_to_do


def test_a_proxy_that_cannot_be_reached_or_refuses_is_told(call, fake):
    nowhere = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:1")
    assert call("api_client", **nowhere, NO_PROXY="", no_proxy="").returncode == NOT_SENT
    with FaultyApi(fake.tls, Fault("CONNECT", http(403, b"No"), "close")) as server:
        proxy = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), f"http://127.0.0.1:{server.port}")
        result = call("api_client", **proxy)
    assert result.returncode == NOT_SENT
    assert told(result, "api_client")[0] == "Tunnel connection failed: 403 Whatever"


# Errors that nobody foresaw


class OddError(smtp_client.OutcomeUnknownError, api_client.OutcomeUnknownError):
    """A subclass."""


BUGS = [("compose", KeyError), ("with_retries", KeyError), ("with_retries", ValueError)]


@both
@pytest.mark.parametrize(("place", "kind"), BUGS)
def test_a_bug_keeps_its_traceback(script, place, kind, fake, monkeypatch):
    def bug(*_: object) -> None:
        raise kind("MAILTRAP_SMTP_HOST")

    module = {"smtp_client": smtp_client, "api_client": api_client}[script]
    monkeypatch.setattr(module, place, bug)
    with pytest.raises(kind):
        module.main([])


@both
def test_a_subclass_of_outcome_unknown_is_told_as_what_it_is(script, call, monkeypatch):
    def broken(*_: object) -> None:
        raise OddError("per second many connections domain limit")

    monkeypatch.setattr(f"{script}.with_retries", broken)
    result = call(script)
    assert result.returncode == UNKNOWN
    assert "look for it in Mailtrap" in told(result, script)[1]


def test_a_time_limit_during_quit_is_no_error(fake):
    class TimeLimitError(Exception):
        """As a task queue raises it, anywhere."""

    def impatient(smtp: smtplib.SMTP, *_: object) -> None:
        raise TimeLimitError

    class Impatient(smtplib.SMTP):
        quit = impatient

    message = smtp_client.build_message("a@b.c", to=["d@e.f"], subject="x", text="x")
    with pytest.MonkeyPatch.context() as patch:
        connect = smtp_client.connect

        def connect_impatiently(*args: Any, **more: Any) -> smtplib.SMTP:
            smtp = connect(*args, **more)
            smtp.__class__ = Impatient
            return smtp

        patch.setattr(smtp_client, "connect", connect_impatiently)
        account = "localhost", fake.smtp_port, fake.username, fake.password
        assert smtp_client.connect_and_send(*account, message) == {}
    assert len(fake.messages) == 1


# Local mail catchers


def test_a_local_mail_catcher_needs_neither_tls_nor_login(call, fake, monkeypatch):
    plain = b"250-catcher\r\n250 SIZE 1000000\r\n"
    for host, status in (
        ("127.0.0.1", ACCEPTED),
        ("localhost", ACCEPTED),
        ("127.1", NOT_SENT),
        ("sandbox.smtp.mailtrap.io", NOT_SENT),
    ):
        with FaultySmtp(fake.tls, Fault("EHLO", plain)) as server:
            port = str(server.port)
            result = call("smtp_client", MAILTRAP_SMTP_HOST=host, MAILTRAP_SMTP_PORT=port)
        assert (result.returncode, len(server.taken)) == (status, int(status == ACCEPTED))
        assert not server.steps["AUTH"]


def test_a_local_mail_catcher_needs_no_credentials(run, fake):
    login = dict.fromkeys(("MAILTRAP_SMTP_USERNAME", "MAILTRAP_SMTP_PASSWORD"))
    with FaultySmtp(fake.tls, Fault("EHLO", b"250 catcher\r\n")) as server:
        here = {"MAILTRAP_SMTP_HOST": "localhost", "MAILTRAP_SMTP_PORT": str(server.port)}
        result = run("smtp_client", **login, **here)
    assert (result.returncode, len(server.taken), server.steps["AUTH"]) == (ACCEPTED, 1, 0)
    nobody_there = run("smtp_client", **login, MAILTRAP_SMTP_HOST="::1", MAILTRAP_SMTP_PORT="1")
    assert nobody_there.returncode == NOT_SENT, "but not for want of credentials"


def test_nobody_looks_up_the_name_of_this_computer(call, monkeypatch):
    monkeypatch.delattr(socket, "getfqdn")  # it may take seconds
    assert call("smtp_client").returncode == ACCEPTED


def test_a_connection_waits_30_seconds_at_most_and_without_nagle(fake):
    smtp = smtp_client.connect("localhost", fake.smtp_port, fake.username, fake.password)
    assert (smtp.timeout, smtp.sock.gettimeout()) == (30, 30)
    assert smtp.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    smtp.close()

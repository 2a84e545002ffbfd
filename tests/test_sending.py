"""Both scripts as programs: what is sent, what is said of it, and with which exit status."""

import json
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
from conftest import REPOSITORY, SANDBOX, SCRIPTS
from fake_mailtrap import FakeMailtrap
from faulty import Fault, FaultyApi, FaultySmtp, http

both = pytest.mark.parametrize("script", SCRIPTS)
posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell and signals")
CAPTURED = "The sandbox captures it, nobody receives it. Yours: https://mailtrap.io/sandboxes\n"
LIVE = "It goes to real people: see Email Logs in Mailtrap whether it arrives.\n"


def sandbox(fake: FakeMailtrap) -> dict[str, str]:
    """Return the settings that lead to the stand-in under the sandbox's own name."""
    return {**SANDBOX, "MAILTRAP_SMTP_PORT": str(fake.smtp_port)}


@both
def test_one_command_sends_one_message_and_says_what_became_of_it(script, run, fake):
    result = run(script)
    [captured] = fake.messages
    assert (result.returncode, result.stderr) == (0, "")
    assert (captured.sender, captured.recipients) == ("hello@example.com", ["you@example.com"])
    assert re.fullmatch(
        r"Mailtrap (SMTP|API) test, \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", captured.subject
    )
    first, *middle, last = result.stdout.splitlines()
    over = {"smtp_client": f"127.0.0.1:{fake.smtp_port}"}
    place = over.get(script, "sandbox.api.mailtrap.io (sandbox stream)")
    assert re.fullmatch(re.escape(f"Accepted by {place}") + r" in \d+\.\d s", first)
    identifier = f"  Message id  {captured.id}"
    if script == "smtp_client":
        identifier = (
            "  Message-ID  " + re.findall(rb"Message-ID: (\S+)", captured.source)[0].decode()
        )
    assert middle == [
        "  From        Mailtrap Test <hello@example.com>",
        "  To          you@example.com",
        f"  Subject     {captured.subject}",
        identifier,
    ]
    assert last == (
        CAPTURED.strip() if script == "api_client" else "What becomes of it is up to that server."
    )


@both
def test_the_test_message_says_where_it_came_from_in_text_and_in_html(script, call, fake):
    assert call(script, **sandbox(fake)).returncode == 0
    [captured] = fake.messages
    server = "api.mailtrap.io" if script == "api_client" else f"smtp.mailtrap.io:{fake.smtp_port}"
    for words in ("It works", f"{script}.py", f"sandbox.{server}", "äöü, €, 你好", "Next: "):
        assert words in captured.text
        assert words in captured.html
    assert re.sub("<[^>]*>", "", captured.html).split() == captured.text.split()
    assert re.search(r"\d{4}-\d\d-\d\d.{1,4}\d\d:\d\d", captured.text)


def test_the_same_flags_make_the_same_message(call, fake, tmp_path):
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "b.pdf").write_text("second")
    flags = ["--from", "Müller, Jörg <j@example.com>", "--subject", "Grüße 😀", "--text", "Hallo"]
    flags += [
        "--to",
        "Doe, Ann <ann@example.com>",
        "--to",
        "bob@example.org",
        "--html",
        "<p>Hallo</p>",
    ]
    flags += [f"--attach={tmp_path / name}" for name in ("a.txt", "b.pdf")]
    for script in SCRIPTS:
        result = call(script, *flags)
        assert result.returncode == 0
        assert "Doe, Ann" in result.stdout
        assert "bob@example.org\n" in result.stdout
    for captured in fake.messages:
        assert (captured.subject, captured.text.strip()) == ("Grüße 😀", "Hallo")
        assert (captured.html.strip(), captured.files) == ("<p>Hallo</p>", ["a.txt", "b.pdf"])
        assert captured.sender == "j@example.com"
        assert captured.recipients == ["ann@example.com", "bob@example.org"]


@both
@pytest.mark.parametrize("kind", ["text", "html"])
def test_one_body_alone_has_no_other_beside_it(script, kind, call, fake):
    assert call(script, f"--{kind}", "Only this").returncode == 0
    [captured] = fake.messages
    other = {"text": captured.html, "html": captured.text}[kind]
    assert (getattr(captured, kind).strip(), other) == ("Only this", "")
    assert script == "smtp_client" or {kind} == {"text", "html"} & set(captured.source)


@both
@pytest.mark.parametrize("live", [False, True])
def test_a_dry_run_shows_the_message_and_where_it_would_go(script, live, run, fake):
    bare = dict.fromkeys(name for name in fake.settings if name.startswith("MAILTRAP_"))
    if live:
        bare |= {"MAILTRAP_SMTP_HOST": "live.smtp.mailtrap.io", "MAILTRAP_STREAM": "transactional"}
    result = run(script, "--dry-run", **bare, HTTPS_PROXY="http://127.0.0.1:1")
    assert (result.returncode, fake.messages, fake.requests) == (0, [], [])
    hosts = {"smtp_client": "live.smtp.mailtrap.io:2525", "api_client": "send.api.mailtrap.io"}
    host = (
        hosts[script]
        if live
        else hosts[script].replace("live", "sandbox").replace("send", "sandbox")
    )
    assert result.stderr == f"Not sent to {host}. {LIVE if live else CAPTURED}"
    if script == "smtp_client":
        assert result.stdout.startswith(
            "From: Mailtrap Test <hello@example.com>\nTo: you@example.com\n"
        )
        assert "Content-Type: multipart/alternative" in result.stdout
    else:
        assert json.loads(result.stdout)["to"] == [{"email": "you@example.com"}]


STREAMS = {
    "sandbox": ("sandbox.api.mailtrap.io", "/api/send/4242"),
    "transactional": ("send.api.mailtrap.io", "/api/send"),
    "bulk": ("bulk.api.mailtrap.io", "/api/send"),
}


@pytest.mark.parametrize("stream", STREAMS)
def test_each_stream_has_its_host_and_says_whether_it_delivers(stream, call, fake):
    by_flag = call("api_client", "--stream", stream, "--to", "a@b.c", "--to", "d@e.f")
    by_setting = call("api_client", MAILTRAP_STREAM=stream)
    assert [request[:2] for request in fake.requests] == [STREAMS[stream]] * 2
    for result in (by_flag, by_setting):
        assert result.stdout.startswith(f"Accepted by {STREAMS[stream][0]} ({stream} stream) in ")
        assert result.stdout.endswith(CAPTURED if stream == "sandbox" else LIVE)
    ids = re.findall("  Message id  (.*)\n", by_flag.stdout)[0].split(", ")
    assert len(ids) == (1 if stream == "sandbox" else 2)


@pytest.mark.parametrize("host", ["sandbox.smtp.mailtrap.io", "live.smtp.mailtrap.io"])
def test_smtp_says_whether_real_people_receive_it(host, call, fake):
    live = host.startswith("live")
    login = {"MAILTRAP_SMTP_USERNAME": "api", "MAILTRAP_SMTP_PASSWORD": fake.token} if live else {}
    result = call("smtp_client", **{**sandbox(fake), "MAILTRAP_SMTP_HOST": host}, **login)
    assert result.stdout.endswith(LIVE if live else CAPTURED)
    assert fake.messages[0].stream == ("transactional" if live else "sandbox")


def test_a_template_is_sent_with_its_variables_and_nothing_beside(call, fake, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    uuid = "2f45b0aa-bbed-432f-95e4-e145e1965ba2"
    flags = ["--template", uuid, "--var", "name=Jörg = ok", "--var", "empty="]
    result = call("api_client", *flags)
    assert (
        result.returncode
        == call("api_client", *flags, f"--attach={tmp_path / 'a.txt'}").returncode
        == 0
    )
    assert "  Subject     as in the template\n" in result.stdout
    assert fake.messages[0].source == {
        "from": {"email": "hello@example.com", "name": "Mailtrap Test"},
        "to": [{"email": "you@example.com"}],
        "template_uuid": uuid,
        "template_variables": {"name": "Jörg = ok", "empty": ""},
    }
    assert fake.messages[1].files == ["a.txt"]


@both
def test_verbose_shows_the_conversation_without_secrets(script, run):
    result = run(script, "--verbose")
    expected = ["STARTTLS", "mail FROM:<hello@example.com>", "354 Go ahead", "Ok: queued", "quit"]
    if script == "api_client":
        expected = [
            "sandbox.api.mailtrap.io:443",
            '"POST /api/send/4242 HTTP/1.1" 200',
            '"subject":',
        ]
    assert (result.returncode, "DEBUG" in result.stderr) == (0, False)
    for words in expected:
        assert words.lower() in result.stderr.lower()


@both
def test_a_reader_that_has_gone_away_is_no_failure(script, fake):
    if os.name != "posix":
        pytest.skip("needs a POSIX shell")
    for sink in ("| true", "2>&1 | true", ">&-", "> /dev/full"):
        fake.reset()
        command = f"'{sys.executable}' '{REPOSITORY / script}.py' {sink}"
        result = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True
        )
        assert (result.returncode, result.stderr, len(fake.messages)) == (0, "", 1)
        refused = command.replace(".py'", ".py' --to nobody")
        assert (
            subprocess.run(
                ["bash", "-o", "pipefail", "-c", refused], capture_output=True
            ).returncode
            == 78
        )


@both
@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", "\\u4f60 \\xe9"), ("cp1252", "\\u4f60 é")]
)
def test_a_console_that_lacks_a_character_shows_its_number(script, encoding, shown, fake):
    command = [sys.executable, str(REPOSITORY / f"{script}.py"), "--subject", "你 é"]
    environ = {**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": encoding}
    result = subprocess.run(command, env=environ, capture_output=True, encoding=encoding)
    assert result.returncode == 0
    assert f"  Subject     {shown}\n" in result.stdout
    assert fake.messages[0].subject == "你 é"


@posix
@both
def test_ctrl_c_while_sending_is_two_lines_and_status_130(script, fake):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        proxy = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), f"http://127.0.0.1:{port}")
        process = subprocess.Popen(
            [sys.executable, str(REPOSITORY / f"{script}.py")],
            env={**os.environ, **proxy, "MAILTRAP_SMTP_PORT": str(port)},
            stderr=subprocess.PIPE,
            text=True,
        )
        connection, _ = silent.accept()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
        connection.close()
    assert process.returncode == 130
    happened, advice = errors.splitlines()
    assert happened == f"{script}: interrupted"
    assert "Look in Mailtrap" in advice


def test_a_netrc_file_does_not_replace_the_token(run, tmp_path):
    for name in (".netrc", "_netrc"):
        (tmp_path / name).write_text("default login somebody password else\n")
        (tmp_path / name).chmod(0o600)
    home = str(tmp_path)
    assert run("api_client", HOME=home, USERPROFILE=home, NETRC=None).returncode == 0


# Where some are refused, and where all are


def test_who_was_refused_and_who_was_not_is_told(call, fake):
    refused = ["bounce+550+no+such+user@example.com", "bounce+451+later@example.com"]
    people = [*refused, "Ann <ann@example.com>", "bob@example.com"]
    result = call("smtp_client", *(flag for one in people for flag in ("--to", one)))
    assert result.returncode == 65
    assert "\n  To          Ann <ann@example.com>, bob@example.com\n" in result.stdout
    assert f"{refused[0]}, {refused[1]}: 550 no such user; 451 later (" in result.stderr
    assert fake.messages[0].recipients == ["ann@example.com", "bob@example.com"]


# step, reply, exit status, tries, words of the advice
SMTP_REPLIES = [
    ("greeting", "554 5.7.1 Go away", 69, 1, "MAILTRAP_SMTP_HOST"),
    ("greeting", "421 4.7.0 Too busy", 75, 4, "later"),
    ("STARTTLS", "454 4.7.0 TLS not available", 75, 4, "later"),
    ("AUTH", "535 5.7.0 Invalid login or password", 77, 1, "login"),
    ("AUTH", "535 5.7.0 Monthly messages limit reached", 69, 1, "Billing"),
    ("AUTH", "535 5.7.0 The email limit is reached. Please upgrade your plan", 69, 1, "quota"),
    ("AUTH", "535 5.7.8 Too many connections per account", 75, 4, "10 connections"),
    ("AUTH", "454 4.7.0 Temporary authentication failure", 75, 4, "later"),
    ("MAIL", "530 5.7.1 Authentication required", 77, 1, "login"),
    ("MAIL", "550 5.7.1 Sending from domain example.com is not allowed", 65, 1, "Sending Domains"),
    ("MAIL", "552 5.3.4 Error: message too big", 65, 1, "5 MB"),
    ("RCPT", "550 5.1.1 no such user", 65, 1, "Change what it objects to"),
    ("RCPT", "450 4.2.0 Greylisted", 75, 4, "later"),
    ("RCPT", "550 Demo domains can only be used to send emails to account owners", 65, 1, "demo"),
    ("DATA", "550 5.7.0 Too many emails per second. Please upgrade your plan", 75, 4, "10 s"),
    ("content", "550 5.7.0 Requested action not taken: too many emails per second", 75, 4, "10 s"),
    ("content", "550 5.7.1 From: Header does not match the sender's domain", 65, 1, "domain"),
    ("content", "421 4.3.2 Shutting down", 75, 4, "later"),
    ("content", "554 5.6.0 Spam", 65, 1, "Change what it objects to"),
    ("content", "400 4.0.0 no", 75, 4, "later"),
    ("content", "399 5.0.0 what", 74, 1, "look in Mailtrap"),
    ("content", "600 5.0.0 what", 74, 1, "look in Mailtrap"),
    ("QUIT", "421 4.3.0 Going down", 0, 1, ""),
]


def judge(result: Any, status: int, advice: str, pauses: list[float], tries: int) -> str:
    """Return what happened; fail if it was not tried so often, or ended otherwise."""
    assert len(pauses) == tries - 1
    for pause, least in zip(pauses, (2, 4, 8), strict=False):
        assert least <= pause <= 1.5 * least
    happened, what_to_do = (result.stderr or "\n\n").splitlines()
    assert result.returncode == status
    assert advice in what_to_do
    return str(happened)


@pytest.mark.parametrize(("step", "reply", "status", "tries", "advice"), SMTP_REPLIES)
def test_a_reply_of_the_smtp_server_is_explained(
    step, reply, status, tries, advice, call, fake, pauses
):
    with FaultySmtp(fake.tls, Fault(step, f"{reply}\r\n".encode()), forever=True) as server:
        result = call("smtp_client", **SANDBOX, MAILTRAP_SMTP_PORT=str(server.port))
    happened = judge(result, status, advice, pauses, tries)
    if status not in (0, 74):
        assert happened == f"smtp_client: {reply} (sandbox.smtp.mailtrap.io:{server.port})"


# status, body, exit status, tries, words of the advice
API_ANSWERS = [
    (400, {"success": False, "errors": ["'subject' is required", "more"]}, 65, 1, "Change what"),
    (400, {"errors": ["Demo domains can only be used to send to account owners"]}, 65, 1, "Change"),
    (401, {"success": False, "errors": ["Unauthorized"]}, 77, 1, "API_TOKEN"),
    (401, b"<html>no</html>", 77, 1, "API_TOKEN"),
    (403, {"success": False, "errors": ["Forbidden"]}, 77, 1, "Sending Domains"),
    (403, b"<html>no</html>", 69, 1, "HTTPS_PROXY"),
    (404, {"error": "Not Found"}, 78, 1, "MAILTRAP_SANDBOX_ID"),
    (404, b"", 78, 1, "MAILTRAP_SANDBOX_ID"),
    (413, {"errors": ["Request Entity Too Large"]}, 65, 1, "5 MB"),
    (413, b"<html>no</html>", 65, 1, "5 MB"),
    (422, {"errors": {"to": ["is invalid"]}}, 65, 1, "Change what"),
    (429, {"success": False, "errors": ["Rate limit exceeded"]}, 75, 4, "150 times"),
    (429, {"errors": ["The email limit is reached. Please upgrade your plan"]}, 69, 1, "Billing"),
    (500, {"success": False, "errors": ["Internal server error"]}, 75, 4, "later"),
    (503, {"success": False, "errors": ["Unavailable"]}, 75, 4, "later"),
    (500, b"<html>no</html>", 74, 1, "look in Mailtrap"),
    (502, b"<html>no</html>", 74, 1, "look in Mailtrap"),
    (504, {"errors": ["Timeout"]}, 74, 1, "look in Mailtrap"),
    (200, b"<html>ok</html>", 74, 1, "look in Mailtrap"),
    (200, {"success": True, "message_ids": []}, 74, 1, "look in Mailtrap"),
    (200, {"success": False, "message_ids": ["5"]}, 74, 1, "look in Mailtrap"),
]


@pytest.mark.parametrize(("code", "body", "status", "tries", "advice"), API_ANSWERS)
def test_an_answer_of_the_api_is_explained(code, body, status, tries, advice, call, fake, pauses):
    with FaultyApi(fake.tls, Fault("body", http(code, body)), forever=True) as server:
        proxy = f"http://127.0.0.1:{server.port}"
        result = call("api_client", HTTPS_PROXY=proxy, https_proxy=proxy)
    happened = judge(result, status, advice, pauses, tries)
    assert happened.endswith("(sandbox.api.mailtrap.io)") or status == 78
    if isinstance(body, dict) and isinstance(body.get("errors"), list):
        assert happened.startswith(f"api_client: {code} {'; '.join(body['errors'])}")


def test_waiting_is_told_in_the_terminal(run, fake):
    busy = Fault("content", b"451 4.3.0 Wait\x1b[31m\r\n")
    with FaultySmtp(fake.tls, busy) as server:
        changes = {"MAILTRAP_SMTP_HOST": "localhost", "MAILTRAP_SMTP_PORT": str(server.port)}
        result = run("smtp_client", **changes)
    assert result.returncode == 0
    assert re.fullmatch(r"451 4\.3\.0 Wait ?\[31m; retry in [23]\.\d s\n", result.stderr)


def test_pauses_outlast_the_10_seconds_over_which_mailtrap_counts(pauses):
    def attempt() -> None:
        raise smtplib.SMTPDataError(450, b"busy")

    with pytest.raises(smtplib.SMTPDataError):
        smtp_client.with_retries(attempt)
    assert sum(pauses) > 10
    assert smtp_client.with_retries(lambda: "taken", pauses=[1]) == "taken"


LIMITS = [("rate", 75), ("quota", 69), ("connections", 75), ("size", 65)]


@both
@pytest.mark.parametrize(("limit", "status"), LIMITS)
def test_the_limits_of_mailtrap_lead_to_the_right_status(
    script, limit, status, call, fake, tmp_path, pauses
):
    (tmp_path / "big.bin").write_bytes(bytes(200_000))
    setattr(fake, limit, 100_000 if limit == "size" else 0)
    flags = [f"--attach={tmp_path / 'big.bin'}"] if limit == "size" else []
    result = call(script, *flags)
    assert result.returncode == (0 if (script, limit) == ("api_client", "connections") else status)


@both
def test_wrong_credentials_have_status_77(script, call, fake):
    wrong = {"MAILTRAP_SMTP_PASSWORD": "wrong", "MAILTRAP_API_TOKEN": "wrong"}
    assert call(script, **wrong).returncode == 77
    assert fake.logins == ([("PLAIN", True)] if script == "smtp_client" else [])


def test_a_server_that_cannot_be_reached_is_named(call, pauses):
    nowhere = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:1")
    for result in (call("smtp_client", MAILTRAP_SMTP_PORT="1"), call("api_client", **nowhere)):
        assert (result.returncode, pauses) == (69, [])
        assert "refused" in result.stderr
    assert "2525" in call("smtp_client", MAILTRAP_SMTP_PORT="1").stderr
    assert "HTTPS_PROXY" in call("api_client", **nowhere).stderr
    unknown = call("smtp_client", MAILTRAP_SMTP_HOST="https://sandbox.smtp.mailtrap.io.invalid")
    assert (unknown.returncode, "check MAILTRAP_SMTP_HOST" in unknown.stderr) == (69, True)
    assert call("smtp_client", MAILTRAP_SMTP_HOST="a..b").returncode == 78


# Local mail catchers


def test_a_local_mail_catcher_needs_neither_tls_nor_login(call, fake):
    plain = b"250-catcher\r\n250 SIZE 1000000\r\n"
    for host, status in (("127.0.0.1", 0), ("localhost", 0), ("sandbox.smtp.mailtrap.io", 69)):
        with FaultySmtp(fake.tls, Fault("EHLO", plain)) as server:
            port = str(server.port)
            result = call("smtp_client", MAILTRAP_SMTP_HOST=host, MAILTRAP_SMTP_PORT=port)
        assert (result.returncode, server.taken) == (status, 1 - bool(status))
        assert "AUTH" not in server.steps


def test_a_local_mail_catcher_needs_no_credentials(run, fake):
    with FaultySmtp(fake.tls, Fault("EHLO", b"250 catcher\r\n")) as server:
        login = dict.fromkeys(("MAILTRAP_SMTP_USERNAME", "MAILTRAP_SMTP_PASSWORD"))
        result = run("smtp_client", **login, MAILTRAP_SMTP_PORT=str(server.port))
    assert (result.returncode, server.taken, "AUTH" in server.steps) == (0, 1, False)
    nobody_there = run("smtp_client", **login, MAILTRAP_SMTP_HOST="::1", MAILTRAP_SMTP_PORT="1")
    assert nobody_there.returncode == 69, "but not for want of credentials"


def test_nobody_looks_up_the_name_of_this_machine(call, monkeypatch):
    monkeypatch.delattr(socket, "getfqdn")  # it may take seconds
    assert call("smtp_client").returncode == 0


def test_only_known_streams_are_opened():
    with pytest.raises(ValueError, match="not sandbox, transactional or bulk"):
        api_client.open_api("token", "live", "1")

"""What was asked for is what arrives, over both transports."""

import inspect
import json
import logging
import os
import re
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from pathlib import Path

import mailtrap as mt
import pytest

import api_client
import smtp_client
from conftest import SCRIPTS, Run
from fake_mailtrap import Captured, FakeMailtrap

FILES = {
    "report.pdf": (b"%PDF-1.7\n" + bytes(range(256)), "application/pdf"),
    "naïve café — 报告.txt": ("Grüße\n".encode(), "text/plain"),
    "photo.png": (b"\x89PNG\r\n\x1a\n", "image/png"),
    "letter.eml": (b"From: a@example.com\r\n\r\nHello\r\n", "application/octet-stream"),
    "logs.tar.gz": (b"\x1f\x8b\x08\x00", "application/octet-stream"),
    "no extension": (b"\0\xff\r\n.\r\n", "application/octet-stream"),
}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Files of several types, with names from several scripts."""
    for name, (content, _) in FILES.items():
        (tmp_path / name).write_bytes(content)
    return [tmp_path / name for name in FILES]


def addresses(message: EmailMessage, field: str) -> list[tuple[str, str]]:
    return [(one.display_name, one.addr_spec) for one in message[field].addresses] if message[field] else []


def parts(message: EmailMessage) -> dict[str, str]:
    found = {"plain": message.get_body(("plain",)), "html": message.get_body(("html",))}
    return {name: part.get_content().replace("\r\n", "\n").rstrip("\n") for name, part in found.items() if part}


def attachments(message: EmailMessage) -> list[tuple[str | None, str, bytes]]:
    return [
        (part.get_filename(), part.get_content_type(), part.get_payload(decode=True))
        for part in message.iter_attachments()
    ]


def only(fake: FakeMailtrap) -> Captured:
    [captured] = fake.messages
    return captured


@pytest.mark.parametrize("script", SCRIPTS)
def test_one_command_sends_one_message_and_says_what_became_of_it(script: str, run: Run, fake: FakeMailtrap) -> None:
    result = run(script)
    captured = only(fake)
    assert (result.returncode, result.stderr) == (0, "")
    assert captured.recipients == ["you@example.com"]
    assert captured.sender == "hello@example.com"
    assert addresses(captured.message, "From") == [("Mailtrap Test", "hello@example.com")]
    assert f"  Subject     {captured.message['Subject']}\n" in result.stdout
    assert "  To          you@example.com\n" in result.stdout
    transport = "SMTP" if script == "smtp_client" else "API"
    assert re.fullmatch(rf"Mailtrap {transport} test, \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d", captured.message["Subject"])
    if script == "smtp_client":
        assert result.stdout.startswith(f"Accepted by 127.0.0.1:{fake.smtp_port} (TLSv1.3) in ")
        assert captured.message["Message-ID"] in result.stdout
        assert parsedate_to_datetime(captured.message["Date"]).tzinfo
    else:
        assert result.stdout.startswith("Accepted by sandbox.api.mailtrap.io (sandbox stream) in ")
        assert f"  Message id  {captured.id}\n" in result.stdout
        assert result.stdout.endswith("nobody received it. See it at https://mailtrap.io/sandboxes\n")


@pytest.mark.parametrize("script", SCRIPTS)
def test_text_and_html_of_the_built_in_message_say_the_same(script: str, call: Run, fake: FakeMailtrap) -> None:
    assert call(script).returncode == 0
    bodies = parts(only(fake).message)
    visible = re.sub(r"<[^>]*>", " ", bodies["html"].replace("</p>", "\n"))
    assert visible.split() == bodies["plain"].split()
    assert "äöü, €, 你好" in bodies["plain"]
    assert "color-scheme" in bodies["html"]
    assert not re.search(r"(src|href)=", bodies["html"])


def test_both_scripts_send_the_same_message_from_the_same_flags(
    call: Run, fake: FakeMailtrap, files: list[Path]
) -> None:
    flags = [
        "--from",
        '"Müller, Jörg" <jörg'.replace("jörg", "joerg") + "@example.com>",
        "--subject",
        "Grüße — 你好 😀",
    ]
    flags += ["--to", "Ann O'Neil <ann@example.com>", "--to", "bob@example.org"]
    flags += ["--text", "Zeile 1\n.\n..\n\nFrom here\n" + "ä" * 2000, "--html", "<p>Zeile 1 &amp; 2</p>"]
    flags += [f"--attach={path}" for path in files]
    outputs = []
    for script in SCRIPTS:
        result = call(script, *flags)
        assert result.returncode == 0
        outputs.append(result.stdout)
    over_smtp, over_api = (captured.message for captured in fake.messages)
    assert over_smtp["Subject"] == over_api["Subject"] == "Grüße — 你好 😀"
    assert addresses(over_smtp, "From") == addresses(over_api, "From") == [("Müller, Jörg", "joerg@example.com")]
    expected = [("Ann O'Neil", "ann@example.com"), ("", "bob@example.org")]
    assert addresses(over_smtp, "To") == addresses(over_api, "To") == expected
    assert parts(over_smtp) == parts(over_api)
    assert parts(over_smtp)["plain"] == flags[9].rstrip("\n")
    expected_files = [(name, kind, content) for name, (content, kind) in FILES.items()]
    assert attachments(over_smtp) == attachments(over_api) == expected_files
    assert fake.messages[0].recipients == fake.messages[1].recipients
    for output in outputs:
        assert "  To          Ann O'Neil <ann@example.com>, bob@example.org\n" in output


def test_copies_and_reply_address_are_the_same_over_both_transports(fake: FakeMailtrap, call: Run) -> None:
    call("smtp_client", "--dry-run")  # sets the environment
    asked = {
        "to": ["to@example.com"],
        "cc": ["Ç C <cc@example.com>", "cc2@example.com"],
        "bcc": ["secret@example.com"],
        "reply_to": "Réply <reply@example.com>",
        "subject": "Copies",
        "text": "Hello",
    }
    with smtp_client.connect("127.0.0.1", fake.smtp_port, fake.username, fake.password) as smtp:
        assert smtp_client.send(smtp, smtp_client.build_message("me@example.com", **asked)) == {}
    api_client.send(
        api_client.open_api(fake.token, "sandbox", "4242"), api_client.build_mail("me@example.com", **asked)
    )
    recipients = ["to@example.com", "cc@example.com", "cc2@example.com", "secret@example.com"]
    for captured in fake.messages:
        assert sorted(captured.recipients) == sorted(recipients)
        assert addresses(captured.message, "Cc") == [("Ç C", "cc@example.com"), ("", "cc2@example.com")]
        assert addresses(captured.message, "Reply-To") == [("Réply", "reply@example.com")]
        assert list(parts(captured.message)) == ["plain"]
    assert b"secret@example.com" not in fake.messages[0].source


def test_each_recipient_is_named_once_in_the_envelope(fake: FakeMailtrap, call: Run) -> None:
    call("smtp_client", "--dry-run")
    message = smtp_client.build_message(
        "me@example.com", to=["a@example.com"], cc=["A <a@example.com>"], subject="Twice", text="Hello"
    )
    with smtp_client.connect("127.0.0.1", fake.smtp_port, fake.username, fake.password) as smtp:
        smtp_client.send(smtp, message)
    assert only(fake).recipients == ["a@example.com"]


@pytest.mark.parametrize("kind", ["text", "html"])
def test_a_message_of_text_or_html_alone_has_no_other_body(kind: str, call: Run, fake: FakeMailtrap) -> None:
    for script in SCRIPTS:
        assert call(script, f"--{kind}", "Only this").returncode == 0
    for captured in fake.messages:
        assert parts(captured.message) == {"plain" if kind == "text" else "html": "Only this"}


def test_lines_arrive_as_they_are_whatever_they_begin_with(call: Run, fake: FakeMailtrap) -> None:
    text = "a\nFrom next\n.\n..dots\n>From\n  \nend"
    for script in SCRIPTS:
        assert call(script, "--text", text).returncode == 0
    assert [parts(captured.message)["plain"] for captured in fake.messages] == [text, text]


def test_over_smtp_all_is_seven_bit_and_short_lined(call: Run, fake: FakeMailtrap) -> None:
    call("smtp_client", "--text", "ü" * 5000, "--subject", "Sehr läng " * 100)
    source = only(fake).source
    assert source.isascii()
    assert max(map(len, source.split(b"\r\n"))) <= 78
    assert b"\n" not in source.replace(b"\r\n", b"")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_prints_the_message_and_touches_no_network(
    script: str, run: Run, call: Run, fake: FakeMailtrap
) -> None:
    result = run(
        script,
        "--dry-run",
        MAILTRAP_SMTP_USERNAME=None,
        MAILTRAP_SMTP_PASSWORD=None,
        MAILTRAP_SMTP_PORT="1",
        MAILTRAP_API_TOKEN=None,
        MAILTRAP_SANDBOX_ID=None,
        HTTPS_PROXY="http://127.0.0.1:1",
    )
    assert (result.returncode, result.stderr, fake.messages) == (0, "", [])
    bare = dict.fromkeys(("MAILTRAP_SMTP_USERNAME", "MAILTRAP_SMTP_PASSWORD", "MAILTRAP_API_TOKEN"))
    bare["MAILTRAP_SANDBOX_ID"] = None
    assert call(script, "--dry-run", MAILTRAP_SMTP_HOST="live.smtp.mailtrap.io", **bare).returncode == 0
    if script == "smtp_client":
        assert "\nFrom: Mailtrap Test <hello@example.com>\nTo: you@example.com\n" in result.stdout
        assert "Content-Type: multipart/alternative" in result.stdout
    else:
        request = json.loads(result.stdout)
        assert request["from"] == {"email": "hello@example.com", "name": "Mailtrap Test"}
        assert sorted(request) == ["from", "html", "subject", "text", "to"]


@pytest.mark.parametrize(
    ("stream", "host", "path"),
    [
        ("sandbox", "sandbox.api.mailtrap.io", "/api/send/4242"),
        ("transactional", "send.api.mailtrap.io", "/api/send"),
        ("bulk", "bulk.api.mailtrap.io", "/api/send"),
    ],
)
def test_each_stream_has_its_host_and_path(stream: str, host: str, path: str, call: Run, fake: FakeMailtrap) -> None:
    by_flag = call("api_client", "--stream", stream)
    by_setting = call("api_client", MAILTRAP_STREAM=stream)
    assert [by_flag.returncode, by_setting.returncode] == [0, 0]
    assert [request[:3] for request in fake.requests] == [(host, "POST", path)] * 2
    assert only_captured(by_flag.stdout) == (stream == "sandbox")
    assert f"Accepted by {host} ({stream} stream)" in by_flag.stdout
    several = call("api_client", "--stream", stream, "--to", "a@example.com", "--to", "b@example.com")
    ids = re.findall("  Message id  (.*)\n", several.stdout)[0].split(", ")
    assert [re.fullmatch(r"\d+(-\d)?", one) is not None for one in ids] == [True] * (1 if stream == "sandbox" else 2)


def only_captured(output: str) -> bool:
    """Say which of its two fates a message had, by what the script said of it."""
    captured = "The sandbox captured it; nobody received it. See it at https://mailtrap.io/sandboxes\n"
    live = "It is on its way to real people: accepted is not yet delivered, so see Email Logs in Mailtrap.\n"
    assert output.splitlines(keepends=True)[-1] in (captured, live)
    return output.endswith(captured)


def test_a_template_is_sent_with_its_variables_and_nothing_beside(call: Run, fake: FakeMailtrap) -> None:
    uuid = "2f45b0aa-bbed-432f-95e4-e145e1965ba2"
    result = call("api_client", "--template", uuid, "--var", "name=Jörg = ok", "--var", "empty=")
    assert result.returncode == 0, result.stderr
    [(_, _, _, request)] = fake.requests
    assert request["template_uuid"] == uuid
    assert request["template_variables"] == {"name": "Jörg = ok", "empty": ""}
    assert not {"subject", "text", "html", "category"} & set(request)
    assert "  Subject     as in the template\n" in result.stdout
    assert "  To          you@example.com\n" in result.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_verbose_shows_the_conversation(script: str, run: Run, fake: FakeMailtrap) -> None:
    result = run(script, "--verbose")
    assert result.returncode == 0
    expected = ["STARTTLS", "mail from:<hello@example.com>", "354 Go ahead"]
    if script == "api_client":
        expected = ["sandbox.api.mailtrap.io:443", '"POST /api/send/4242 HTTP/1.1" 200', '"subject":']
    for words in expected:
        assert words.lower() in result.stderr.lower()
    if script == "api_client":
        last = result.stderr.splitlines()[-1]
        assert re.fullmatch(r'https://sandbox\.api\.mailtrap\.io:443 "POST /api/send/4242 HTTP/1\.1" 200 \d+', last)


def test_sending_goes_on_over_one_connection(call: Run, fake: FakeMailtrap) -> None:
    call("smtp_client", "--dry-run")
    with smtp_client.connect("127.0.0.1", fake.smtp_port, fake.username, fake.password) as smtp:
        for number in range(3):
            smtp_client.send(
                smtp, smtp_client.build_message("a@example.com", to=["b@example.com"], subject=f"{number}", text="x")
            )
    api = api_client.open_api(fake.token, "sandbox", fake.sandbox_id)
    for number in range(3):
        mail = api_client.build_mail("a@example.com", to=["b@example.com"], subject=f"{number}", text="x")
        assert len(api_client.send(api, mail)) == 1
    assert [captured.message["Subject"] for captured in fake.messages] == ["0", "1", "2"] * 2
    assert len(fake.logins) == 1
    assert len(api._client._session.adapters["https://"].proxy_manager) == 1


def test_one_login_by_plain_although_the_server_names_others_first(call: Run, fake: FakeMailtrap) -> None:
    fake.mechanisms = "CRAM-MD5 LOGIN PLAIN"
    assert call("smtp_client").returncode == 0
    assert fake.logins == [("PLAIN", True)]


def test_a_server_without_plain_is_logged_in_to_all_the_same(call: Run, fake: FakeMailtrap) -> None:
    fake.mechanisms = "LOGIN"
    assert call("smtp_client").returncode == 0
    assert fake.logins == [("LOGIN", True)]


def test_a_local_mail_catcher_needs_neither_tls_nor_login(run: Run, fake: FakeMailtrap) -> None:
    fake.starttls, fake.mechanisms = False, ""
    result = run("smtp_client", MAILTRAP_SMTP_USERNAME=None, MAILTRAP_SMTP_PASSWORD=None)
    assert result.returncode == 0
    assert "(no TLS)" in result.stdout
    assert only(fake).recipients == ["you@example.com"]


def test_a_local_mail_catcher_is_not_bothered_with_credentials(call: Run, fake: FakeMailtrap) -> None:
    fake.starttls, fake.mechanisms = False, ""
    assert call("smtp_client").returncode == 0
    assert not any(command.startswith("AUTH") for command in fake.commands)


@pytest.mark.parametrize("missing", ["starttls", "mechanisms"])
def test_any_other_host_needs_tls_and_login(missing: str, call: Run, fake: FakeMailtrap, smtp_names: None) -> None:
    setattr(fake, missing, "")
    result = call("smtp_client", MAILTRAP_SMTP_HOST="sandbox.smtp.mailtrap.io")
    assert result.returncode == 69
    assert ("STARTTLS" if missing == "starttls" else "AUTH") in result.stderr
    assert "MAILTRAP_SMTP_HOST" in result.stderr
    assert (fake.messages, fake.logins) == ([], [])


@pytest.mark.parametrize(("host", "sandbox"), [("sandbox.smtp.mailtrap.io", True), ("live.smtp.mailtrap.io", False)])
def test_smtp_says_whether_real_people_receive_it(
    host: str, sandbox: bool, call: Run, fake: FakeMailtrap, smtp_names: None
) -> None:
    login = {} if sandbox else {"MAILTRAP_SMTP_USERNAME": "api", "MAILTRAP_SMTP_PASSWORD": fake.token}
    result = call("smtp_client", MAILTRAP_SMTP_HOST=host, **login)
    assert result.returncode == 0, result.stderr
    assert f"Accepted by {host}:{fake.smtp_port} (TLSv1.3)" in result.stdout
    assert only_captured(result.stdout) == sandbox


def test_some_recipients_refused_names_both_sorts(call: Run, fake: FakeMailtrap) -> None:
    gone = "bounce+550+no+such+user+here@example.com"
    result = call("smtp_client", "--to", "good@example.com", "--to", gone)
    assert result.returncode == 65
    assert only(fake).recipients == ["good@example.com"]
    assert "  To          good@example.com\n" in result.stdout
    assert result.stderr.startswith(f"smtp_client: refused for {gone}: 550 no such user here\n")
    assert len(result.stderr.splitlines()) == 2


def test_a_failing_quit_after_acceptance_is_a_success(call: Run, fake: FakeMailtrap) -> None:
    fake.smtp_replies["QUIT"] = ["451 4.3.0 something broke"]
    assert call("smtp_client").returncode == 0
    assert len(fake.messages) == 1


def test_any_message_of_the_email_package_goes_out_with_proper_line_ends(fake: FakeMailtrap, call: Run) -> None:
    call("smtp_client", "--dry-run")  # sets the environment
    message = EmailMessage()  # whose policy ends lines otherwise
    message["From"], message["To"], message["Subject"] = "a@example.com", "b@example.com", "Hello"
    message.set_content("One.\nTwo.\n")
    with smtp_client.connect("127.0.0.1", fake.smtp_port, fake.username, fake.password) as smtp:
        smtp_client.send(smtp, message)
    source = fake.messages[0].source
    assert source.count(b"\n") == source.count(b"\r\n") > 5


def test_what_was_not_clearly_taken_is_told_in_full(fake: FakeMailtrap, call: Run) -> None:
    call("api_client", "--dry-run")  # sets the environment
    api = api_client.open_api(fake.token, sandbox_id=fake.sandbox_id)
    mail = api_client.build_mail("a@example.com", to=["b@example.com"], subject="Hello", text="It works.")
    fake.api_replies = [(200, {"success": False, "message_ids": []}), (200, {"success": True, "message_ids": []})]
    for success in (False, True):
        with pytest.raises(mt.APIError) as raised:
            api_client.send(api, mail)
        assert raised.value.status == 200
        assert api_client.explain(raised.value) == (
            f"200 success: {success}, message_ids: []",
            "It may have been taken: look in Mailtrap before you send it again.",
            74,
            False,
        )
    fake.api_replies = [(200, {"success": True})]
    with pytest.raises(ValueError, match="message_ids") as misread:
        api_client.send(api, mail)
    assert api_client.explain(misread.value)[0] == "request or answer not understood (ValidationError)"


def test_the_sandbox_is_the_default_everywhere(fake: FakeMailtrap) -> None:
    with pytest.raises(mt.ClientConfigurationError):
        api_client.open_api(fake.token)
    _, advice, _, _ = api_client.explain(mt.APIError(401, ["Unauthorized"]))
    assert "allowed into the sandbox" in advice
    connect, open_api = inspect.signature(smtp_client.connect), inspect.signature(api_client.open_api)
    assert connect.parameters["timeout"].default == open_api.parameters["timeout"].default == 30


def test_an_error_from_code_without_a_module_is_explained() -> None:
    names: dict[str, object] = {}
    exec("def fail():\n    try:\n        1 / 0\n    except ZeroDivisionError:\n        raise OSError('no')", names)
    del names["__builtins__"]
    for explain in (smtp_client.explain, api_client.explain):
        with pytest.raises(OSError, match="no") as raised:
            names["fail"]()  # type: ignore[operator]
        assert explain(raised.value)[0] == "no"


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_prints_what_would_be_sent(script: str, call: Run, fake: FakeMailtrap, tmp_path: Path) -> None:
    path = tmp_path / f"{'long name ' * 9}.txt"
    path.write_text("x")
    flags = ("--subject", "Grüße", "--text", "One.\nTwo.", "--attach", str(path))
    dry = call(script, "--dry-run", *flags)
    assert (call(script, *flags).returncode, dry.stderr) == (0, "")
    if script == "api_client":
        assert dry.stdout == json.dumps(only(fake).source, indent=2) + "\n"
        return

    def comparable(text: str) -> list[str]:
        return re.sub(r"(?m)^(Date|Message-ID): .*|=+\d+==", "", text).splitlines()

    assert comparable(dry.stdout.removesuffix("\n")) == comparable(only(fake).source.decode())


@pytest.mark.parametrize("script", SCRIPTS)
def test_only_verbose_shows_the_conversation(
    script: str, call: Run, fake: FakeMailtrap, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = logging.getLogger("urllib3")
    monkeypatch.setattr(library, "level", library.level)  # to have it restored
    root = logging.getLogger().level
    quiet, verbose = call(script), call(script, "--verbose")
    assert (quiet.stderr, verbose.returncode, logging.getLogger().level) == ("", 0, root)
    if script == "smtp_client":
        assert "354" in verbose.stderr
    else:
        assert verbose.stderr == json.dumps(fake.messages[1].source, indent=2) + "\n"
        assert '"POST /api/send/4242 HTTP/1.1" 200' in caplog.text
    library.setLevel(logging.NOTSET)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--var", "a=b"], "--var needs --template"),
        (["--template", "2f45b0aa-bbed-432f-95e4-e145e1965ba2", "--var", "a"], "--var takes NAME=VALUE"),
        *(
            (
                ["--template", "2f45b0aa-bbed-432f-95e4-e145e1965ba2", flag, "x"],
                "--template goes without --subject, --text and --html, as it brings its own",
            )
            for flag in ("--subject", "--text", "--html")
        ),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags: list[str], says: str, call: Run, fake: FakeMailtrap) -> None:
    result = call("api_client", *flags)
    assert (result.returncode, fake.requests) == (2, [])
    assert result.stderr.endswith(f": error: {says}\n")


def test_netrc_is_left_alone(call: Run) -> None:
    call("api_client")
    assert os.environ["NETRC"] == os.devnull

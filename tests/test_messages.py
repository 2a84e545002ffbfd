"""Whatever text goes in: the same text comes out of the message, or a ValueError says why not."""

import base64
import email.header
import email.policy
import email.utils
import mimetypes
import re
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import api_client
import smtp_client

UNSAFE = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]|=\\?[^ ?]+\\?[BbQq]\\?")
TRICKY = st.sampled_from(list("\r\n\0\t\x0b\x0c\x1c\x85\u2028\u2029\ud800\udcff\"'\\,;:<>()[]@=? .äß漢😀\u200d\u202e"))
TEXT = st.text(st.one_of(st.characters(codec="utf-8"), TRICKY, st.sampled_from("abc  ")), max_size=200)
LINE = TEXT.filter(lambda text: not UNSAFE.search(text)).map(lambda text: " ".join(text.split()))
LONG = st.builds(lambda text, times: text * times, LINE.filter(bool), st.integers(1, 60)).map(str.strip)
BASIC = {"to": ["you@example.com"], "subject": "Test", "text": "Test"}


def parsed(raw: bytes) -> email.message.EmailMessage:
    """Parse what goes over the wire, after the checks that hold for every message."""
    assert raw.isascii()
    assert b"\n" not in raw.replace(b"\r\n", b"")
    assert max(map(len, raw.split(b"\r\n"))) <= 998
    head = raw.split(b"\r\n\r\n")[0].split(b"\r\n")
    assert all(len(line) <= 76 for line in head if b"=?utf-8?" in line)  # RFC 2047, section 2
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert not message.defects
    return message


def names(header: str) -> list[tuple[str, str]]:
    """Return the names and addresses in a raw header, as the older of Python's two parsers reads them."""
    unfolded = re.sub(r"\r?\n(?=[ \t])", "", header)
    pairs = email.utils.getaddresses([unfolded])
    return [(str(email.header.make_header(email.header.decode_header(name))), address) for name, address in pairs]


@given(LONG | LINE)
@example("x" * 10_000)
@example("ä" * 10_000)
@example("What is this =? It is not encoded ?=")
def test_a_subject_arrives_as_it_is(subject: str) -> None:
    assume(subject)
    message = smtp_client.build_message("me@example.com", **{**BASIC, "subject": subject})
    assert parsed(message.as_bytes())["Subject"] == subject
    assert api_client.build_mail("me@example.com", **{**BASIC, "subject": subject}).api_data["subject"] == subject


def test_the_date_is_the_time_of_building() -> None:
    message = smtp_client.build_message("me@example.com", **BASIC)
    date = parsed(message.as_bytes())["Date"].datetime
    assert date.tzinfo
    assert abs(datetime.now(timezone.utc) - date) < timedelta(minutes=1)


@given(st.lists(LINE.map(lambda name: name.replace('"', "")), min_size=1, max_size=8))
@example(["Müller, Jörg", "a\\b", "O'Neil (Sales)", "x@y", "=?utf-8?", "J. Doe", ""])
@example(["漢" * 300, "x" * 500, "word " * 100 + "end"])
@example(["0 000¡¡ࠀࠀࠀࠀࠀࠀࠀࠀࠀࠀࠀࠀ ¡"])
def test_names_arrive_as_they_are(people: list[str]) -> None:
    assume(not any(UNSAFE.search(name) for name in people))
    to = [f"{name} <user{number}@example.com>" for number, name in enumerate(people)]
    expected = [(name, f"user{number}@example.com") for number, name in enumerate(people)]
    sent = api_client.build_mail("me@example.com", **{**BASIC, "to": to}).api_data["to"]
    assert [(one.get("name", ""), one["email"]) for one in sent] == expected
    raw = smtp_client.build_message("me@example.com", **{**BASIC, "to": to}).as_bytes()
    assert len(parsed(raw)["To"].addresses) == len(expected)
    assert names(email.message_from_bytes(raw, policy=email.policy.compat32)["To"]) == expected


@given(TEXT, TEXT)
@example(".\n..\nFrom me\n", "<p>" + "x" * 10_000)
@example("a\rb\r\nc\nd  ", "\x85\u2028")
@example("x" * 10_000 + "\n", " ")
def test_bodies_arrive_as_they_are(text: str, html: str) -> None:
    asked = {**BASIC, "text": text, "html": html}
    if "\0" in text + html:
        for build in (smtp_client.build_message, api_client.build_mail):
            with pytest.raises(ValueError, match="NUL"):
                build("me@example.com", **asked)
        return
    try:
        (text + html).encode()
    except UnicodeEncodeError:
        for build in (smtp_client.build_message, api_client.build_mail):
            with pytest.raises(ValueError, match="surrogates"):
                build("me@example.com", **asked)
        return
    assume(text or html)
    message = parsed(smtp_client.build_message("me@example.com", **asked).as_bytes())
    mail = api_client.build_mail("me@example.com", **asked).api_data
    for kind, body in (("plain", text), ("html", html)):
        part = message.get_body((kind,))
        assert mail.get("text" if kind == "plain" else kind, "") == body
        if body:
            received = part.get_payload(decode=True).decode().replace("\r\n", "\n")
            assert received.rstrip("\n") == re.sub("\r\n?", "\n", body).rstrip("\n")
        else:
            assert part is None


@given(
    st.text(st.characters(codec="utf-8", exclude_characters='/\\\0:*?"<>|') | st.sampled_from("äß漢😀 .'"), max_size=50)
)
@example("a" * 200)
@example("naïve café — 报告.pdf")
@example("tab\there")
@example("line\nbreak")
def test_file_names_arrive_as_they_are(name: str) -> None:
    assume(name.strip(" .") and len(name.encode()) < 250)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        try:
            path.write_bytes(b"content")
        except OSError:
            assume(False)
        asked = {**BASIC, "attachments": [path]}
        if UNSAFE.search(path.name):
            for build in (smtp_client.build_message, api_client.build_mail):
                with pytest.raises(ValueError, match="control character or encoded word"):
                    build("me@example.com", **asked)
            return
        message = parsed(smtp_client.build_message("me@example.com", **asked).as_bytes())
        [file] = api_client.build_mail("me@example.com", **asked).api_data["attachments"]
    [part] = message.iter_attachments()
    assert file["filename"] == path.name
    assert part.get_filename() == path.name.strip()  # the parser strips it
    assert part.get_payload(decode=True) == base64.b64decode(file["content"]) == b"content"
    assert part.get_content_type() == file["type"]


@given(TEXT, st.sampled_from(["sender", "to", "cc", "bcc", "reply_to", "subject"]))
@example("x\r\nBcc: evil@example.com", "subject")
@example("x <a@example.com>\r\nBcc: evil@example.com", "reply_to")
def test_nothing_unsafe_gets_into_a_header(text: str, field: str) -> None:
    assume(UNSAFE.search(text))
    value = text if field == "subject" else f"{text} <a@example.com>"
    asked = {"sender": "me@example.com", **BASIC, field: [value] if field in ("to", "cc", "bcc") else value}
    for build in (smtp_client.build_message, api_client.build_mail):
        with pytest.raises(ValueError, match="control character or encoded word"):
            build(**asked)


@given(TEXT)
def test_both_scripts_take_and_refuse_the_same_addresses(text: str) -> None:
    verdicts = []
    for build in (smtp_client.build_message, api_client.build_mail):
        try:
            build(text, **BASIC)
        except ValueError as error:
            verdicts.append(str(error))
        else:
            verdicts.append("")
    assert verdicts[0] == verdicts[1]


@pytest.mark.parametrize("missing", [{"to": []}, {"subject": ""}, {"text": ""}])
def test_a_message_without_recipient_subject_or_body_is_refused(missing: dict[str, object]) -> None:
    for build in (smtp_client.build_message, api_client.build_mail):
        with pytest.raises(ValueError, match="a message needs"):
            build("me@example.com", **{**BASIC, **missing})


def test_a_template_is_not_mixed_with_subject_or_body() -> None:
    for field in ("subject", "text", "html"):
        with pytest.raises(ValueError, match="a template brings its own"):
            api_client.build_mail("me@example.com", to=["you@example.com"], template_uuid="x", **{field: "x"})


@pytest.mark.parametrize("name", ['Jo "X"', '"Jo', '"Jo \\"X\\" Doe"', 'a"b'])
def test_a_name_with_quotes_inside_is_refused(name: str) -> None:
    for build in (smtp_client.build_message, api_client.build_mail):
        with pytest.raises(ValueError, match="not an email address"):
            build(f"{name} <a@example.com>", **BASIC)


def test_many_recipients_with_names_all_arrive() -> None:
    people = [("Jörg Müller", "firstname.lastname@example-company.com"), ("O'Brien", "info@example.com")] * 100
    people += [("Ana María López (Ventas)", "ana@example.com"), ("", "x" * 64 + "@" + "y" * 60 + ".example")] * 50
    raw = smtp_client.build_message("me@example.com", **{**BASIC, "to": [f"{n} <{a}>" for n, a in people]}).as_bytes()
    parsed(raw)
    assert names(email.message_from_bytes(raw, policy=email.policy.compat32)["To"]) == people


LONG_LINE = "x" * 100
NOTHING = "a message needs a recipient, a subject, and text or HTML"


@pytest.mark.parametrize("build", [smtp_client.build_message, api_client.build_mail])
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"subject": f"{LONG_LINE}\n"}, f"control character or encoded word in {LONG_LINE[:80]!r}"),
        *(
            ({"subject": f"=?utf-8?{letter}?aGk=?="}, f"control character or encoded word in '=?utf-8?{letter}?aGk=?='")
            for letter in "bBqQ"
        ),
        ({"to": [LONG_LINE]}, f"not an email address: {LONG_LINE[:80]!r}"),
        *(({"to": [email]}, f"not an email address: {email!r}") for email in ("a@münchen.de", "ä@b.de", "a@\u0661.de")),
        ({"to": []}, NOTHING),
        ({"subject": " "}, NOTHING),
        ({"text": ""}, NOTHING),
        ({"text": "a\0b"}, "NUL character in text or HTML"),
        ({"html": "a\0b"}, "NUL character in text or HTML"),
    ],
)
def test_what_no_message_can_carry_is_named(build: Callable[..., object], changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as raised:
        build("me@example.com", **{**BASIC, **changes})
    assert str(raised.value) == says


def test_a_template_needs_no_more_than_a_recipient() -> None:
    mail = api_client.build_mail("me@example.com", to=["you@example.com"], template_uuid="x")
    assert mail.api_data == {
        "from": {"email": "me@example.com"},
        "to": [{"email": "you@example.com"}],
        "template_uuid": "x",
        "template_variables": {},
    }
    with pytest.raises(ValueError, match=r"^a template brings its own subject, text and HTML$"):
        api_client.build_mail("me@example.com", to=["you@example.com"], template_uuid="x", text="x")


def test_files_that_are_messages_themselves_are_attached_as_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guesses = {"a.one": "message/rfc822", "a.two": "multipart/mixed", "a.three": "text/x-own"}
    monkeypatch.setattr(mimetypes, "guess_type", lambda name: (guesses[name], None))
    for name, guessed in guesses.items():
        (tmp_path / name).write_bytes(b"x")
        expected = guessed if guessed.startswith("text/") else "application/octet-stream"
        message = smtp_client.build_message("me@example.com", **BASIC, attachments=[tmp_path / name])
        [part] = message.iter_attachments()
        mail = api_client.build_mail("me@example.com", **BASIC, attachments=[tmp_path / name])
        assert part.get_content_type() == mail.attachments[0].mimetype == expected

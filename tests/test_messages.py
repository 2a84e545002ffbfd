"""Whatever goes in, the same comes out of the message, or a ValueError says why not."""

import base64
import contextlib
import email.header
import email.policy
import email.utils
import re
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import api_client
import smtp_client
from fake_mailtrap import FakeMailtrap

BUILDERS = [smtp_client.build_message, api_client.build_mail]
BASIC: dict[str, Any] = {"to": ["you@example.com"], "subject": "Test", "text": "Test"}
TRICKY = st.sampled_from(list("\"'\\,;:()[]@=?. .äß漢😀\u200d\u202e\u3000\xa0"))
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0") | TRICKY, max_size=200)
LINE = st.text(st.characters(exclude_categories=["C", "Z"]) | TRICKY, max_size=200).map(
    lambda text: " ".join(text.split())
)
LONG = st.builds(lambda text, times: (text * times).strip(), LINE, st.integers(1, 60))
encoded_word = re.compile(r"=\?.*\?=")
NAME = LINE.filter(
    lambda name: '"' not in name and "\\" not in name and not encoded_word.search(name)
)


def over_the_wire(fake: FakeMailtrap, message: EmailMessage) -> EmailMessage:
    """Send a message over SMTP; return it as the server got it, after checks of its form."""
    fake.reset()
    account = "127.0.0.1", fake.smtp_port, fake.username, fake.password
    assert smtp_client.connect_and_send(*account, message) == {}
    source = fake.messages[0].source
    assert source.isascii()
    assert b"\n" not in source.replace(b"\r\n", b"")
    assert max(map(len, source.split(b"\r\n"))) <= 998
    return email.message_from_bytes(source, policy=email.policy.default)


def addresses(message: EmailMessage, field: str) -> list[tuple[str, str]]:
    return [(one.display_name, one.addr_spec) for one in message[field].addresses]


def raw_names(source: bytes) -> list[tuple[str, str]]:
    """Return To as the older of Python's two parsers reads it."""
    raw = email.message_from_bytes(source, policy=email.policy.compat32)["To"]
    pairs = email.utils.getaddresses([re.sub(r"\r?\n(?=[ \t])", "", raw)])
    decode = email.header.decode_header
    return [(str(email.header.make_header(decode(name))), address) for name, address in pairs]


@given(LONG)
@example("Съешь ещё этих мягких французских булок, да выпей же чаю. " * 2)
@example("ä" * 3_000)
@example("Read from a file\n")
def test_a_subject_arrives_as_it_is(fake, subject):
    assume(subject.strip() and not encoded_word.search(subject))
    message = smtp_client.build_message("me@example.com", **{**BASIC, "subject": subject})
    assert over_the_wire(fake, message)["Subject"] == subject.strip()
    mail = api_client.build_mail("me@example.com", **{**BASIC, "subject": subject})
    assert mail.api_data["subject"] == subject.strip()


@given(st.lists(NAME, min_size=1, max_size=6))
@example(["Müller, Jörg", "O'Neil (Sales)", "x@y", "J. Doe", "", "山田\u3000太郎", "👨‍👩‍👧 Family"])
@example(["Александра Константинопольская-Вознесенская"] * 5)
def test_names_arrive_as_they_are(fake, names):
    names = [name.strip() for name in names if "<" not in name]
    assume(names)
    to = [f"{name} <user{number}@example.com>" for number, name in enumerate(names)]
    expected = [(name, f"user{number}@example.com") for number, name in enumerate(names)]
    sent = api_client.build_mail("me@example.com", **{**BASIC, "to": to}).api_data["to"]
    assert [(one.get("name", ""), one["email"]) for one in sent] == expected
    message = smtp_client.build_message("me@example.com", **{**BASIC, "to": to})
    received = over_the_wire(fake, message)
    assert [one for _, one in addresses(received, "To")] == [one for _, one in expected]
    shown = [(" ".join(name.split()), one) for name, one in raw_names(fake.messages[0].source)]
    assert shown == [(" ".join(name.split()), one) for name, one in expected]


@given(TEXT, TEXT)
@example(".\n..\nFrom me\n>From\nFrom: you", "<p>" + "x" * 5_000)
@example("a\rb\r\nc\nd  ", "\x85\u2028")
def test_bodies_arrive_as_they_are(fake, text, html):
    assume(text or html)
    asked = {**BASIC, "text": text, "html": html}
    received = over_the_wire(fake, smtp_client.build_message("me@example.com", **asked))
    mail = api_client.build_mail("me@example.com", **asked).api_data
    for kind, field, body in (("plain", "text", text), ("html", "html", html)):
        assert mail.get(field, "") == body
        part = received.get_body((kind,))
        assert (part is not None) == bool(body)
        if part:
            arrived = part.get_payload(decode=True).decode().replace("\r\n", "\n")
            assert arrived.rstrip("\n") == re.sub("\r\n?", "\n", body).rstrip("\n")


FILES = {
    "report.pdf": (b"%PDF-1.7\n" + bytes(range(256)), "application/pdf"),
    "naïve café — 报告.txt": ("Grüße\n".encode(), "text/plain"),
    "photo.png": (b"\x89PNG\r\n\x1a\n", "image/png"),
    "letter.eml": (b"From: a@example.com\r\n\r\nHello\r\n", "application/octet-stream"),
    "logs.tar.gz": (b"\x1f\x8b\x08\x00", "application/octet-stream"),
    "no extension": (b"\0\xff\r\n.\r\n", "application/octet-stream"),
    "empty.bin": (b"", "application/octet-stream"),
}


@pytest.mark.parametrize("name", FILES)
def test_an_attachment_arrives_as_it_is(name, fake, tmp_path):
    content, mimetype = FILES[name]
    (tmp_path / name).write_bytes(content)
    asked = {**BASIC, "attachments": [tmp_path / name]}
    message = smtp_client.build_message("me@example.com", **asked)
    [part] = over_the_wire(fake, message).iter_attachments()
    [file] = api_client.build_mail("me@example.com", **asked).api_data["attachments"]
    assert (part.get_filename(), part.get_content_type()) == (name, mimetype)
    assert (file["filename"], file["type"]) == (name, mimetype)
    assert part.get_payload(decode=True) == base64.b64decode(file["content"]) == content


def test_copies_and_reply_address_are_the_same_over_both(fake):
    asked = {
        **BASIC,
        "to": ["to@example.com", "to@example.com"],
        "cc": ["Ç C <cc@example.com>", "To <to@example.com>"],
        "bcc": ["secret@example.com"],
        "reply_to": "Réply <reply@example.com>",
    }
    message = smtp_client.build_message("Me <me@example.com>", **asked)
    received = over_the_wire(fake, message)
    api = api_client.open_api(fake.token, "sandbox", fake.sandbox_id)
    api_client.send(api, api_client.build_mail("Me <me@example.com>", **asked))
    over_smtp, over_api = fake.messages
    assert over_smtp.sender == over_api.sender == "me@example.com"
    assert over_smtp.recipients == ["to@example.com", "cc@example.com", "secret@example.com"]
    assert set(over_api.recipients) == set(over_smtp.recipients)
    assert b"secret" not in over_smtp.source
    assert message["Bcc"] == "secret@example.com", "the caller's message is left alone"
    assert addresses(received, "From") == [("Me", "me@example.com")]
    assert addresses(received, "Cc") == [("Ç C", "cc@example.com"), ("To", "to@example.com")]
    assert addresses(received, "Reply-To") == [("Réply", "reply@example.com")]
    assert over_api.source["from"] == {"email": "me@example.com", "name": "Me"}
    assert over_api.source["cc"][0] == {"email": "cc@example.com", "name": "Ç C"}
    assert over_api.source["reply_to"] == {"email": "reply@example.com", "name": "Réply"}
    assert set(over_api.source) == {"from", "to", "cc", "bcc", "reply_to", "subject", "text"}


def test_a_message_carries_date_and_id(fake):
    received = over_the_wire(fake, smtp_client.build_message("me@my.example.com", **BASIC))
    assert re.fullmatch(r"<[^@]+@my\.example\.com>", received["Message-ID"])
    age = email.utils.localtime() - received["Date"].datetime
    assert abs(age.total_seconds()) < 60
    assert "Reply-To" not in received
    assert "Cc" not in received


SPELLINGS = {
    "a@example.com": ("", "a@example.com"),
    " <a@example.com> ": ("", "a@example.com"),
    "Jane<a@example.com>": ("Jane", "a@example.com"),
    '"Doe, Jane" <a@example.com>': ("Doe, Jane", "a@example.com"),
    "Doe, Jane <a@example.com>": ("Doe, Jane", "a@example.com"),
    "ann@home <a@example.com>": ("ann@home", "a@example.com"),
    "O'Neil & Söhne: 你好 <a@example.com>": ("O'Neil & Söhne: 你好", "a@example.com"),
    "first.last+tag@sub.example.co.uk": ("", "first.last+tag@sub.example.co.uk"),
    "root@localhost": ("", "root@localhost"),
}


@pytest.mark.parametrize("text", SPELLINGS)
def test_an_address_may_be_spelled_in_all_usual_ways(text):
    address = smtp_client.parse_address(text)
    assert (address.display_name, address.addr_spec) == SPELLINGS[text]
    also = api_client.parse_address(text)
    assert (also.name or "", also.email) == SPELLINGS[text]


INCOMPLETE = ["", "you", "you@", "@example.com", "<>"]
MALFORMED = ["a b@example.com", "a@b@c.de", ".a@example.com", "a..b@example.com", "a@example..com"]
NOT_ASCII = ["ü@example.com", "u@bücher.example"]
TWO = ["a@e.com, b@e.com", "a@e.com,b@e.com", "Ann <a@e.com>, Bob <b@e.com>", "a@e.com;b@e.com"]
MORE = ["a@b.c x", "a@example.com\r\nBcc: b@example.com", "A\nBcc: b@e.com <a@example.com>"]
NOT_ONE_ADDRESS = INCOMPLETE + MALFORMED + NOT_ASCII + TWO + MORE


@pytest.mark.parametrize("text", NOT_ONE_ADDRESS)
@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("field", ["sender", "to", "cc", "bcc", "reply_to"])
def test_what_is_not_exactly_one_address_is_refused(text, build, field):
    value = [text] if field in ("to", "cc", "bcc") else text
    if (field, text) == ("reply_to", ""):
        return
    with pytest.raises(ValueError, match="not an email address") as raised:
        build(**{"sender": "me@example.com", **BASIC, field: value})
    assert repr(text) in str(raised.value)


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("asked", [{"to": []}, {"subject": ""}, {"text": ""}])
def test_a_message_needs_recipient_subject_and_body(build, asked):
    with pytest.raises(ValueError, match="a message needs"):
        build("me@example.com", **{**BASIC, **asked})


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("end", ["\r\n", "\n", "\r", "\u2028"])
def test_a_subject_cannot_add_a_header(build, end):
    with pytest.raises(ValueError, match=r"line"):
        build("me@example.com", **{**BASIC, "subject": f"x{end}Bcc: evil@example.com"})


@pytest.mark.parametrize("build", BUILDERS)
def test_a_name_that_takes_long_to_encode_is_refused_at_once(build):
    to = ["😀" * 5000 + " <you@example.com>"]
    with pytest.raises(ValueError, match="not an email address") as raised:
        build("me@example.com", **{**BASIC, "to": to})
    assert len(str(raised.value)) < 400


def test_an_address_object_passes_as_it_is():
    address = smtp_client.Address("Ann <3", addr_spec="ann@example.com")
    message = smtp_client.build_message("me@example.com", **{**BASIC, "to": [address]})
    assert message["To"].addresses[0].display_name == "Ann <3"
    mail = api_client.build_mail(
        "me@example.com", **{**BASIC, "to": [api_client.mt.Address("ann@example.com", "Ann <3")]}
    )
    assert mail.to[0].name == "Ann <3"


SMUGGLED = "=?utf-8?q?hi=0d=0aReply-To:_evil=40example.com=0d=0aX:_1?="


@pytest.mark.parametrize("field", ["subject", "name", "file"])
def test_an_encoded_word_cannot_add_a_header(field, fake, tmp_path):
    """Python before 3.13 decodes it, line breaks and all."""
    asked = dict(BASIC)
    if field == "subject":
        asked["subject"] = SMUGGLED
    elif field == "name":
        asked["to"] = [f"{SMUGGLED} <you@example.com>"]
    else:
        (tmp_path / f"{SMUGGLED}.txt").write_text("x")
        asked["attachments"] = [tmp_path / f"{SMUGGLED}.txt"]
    with contextlib.suppress(ValueError):  # if it is refused, nothing can happen
        message = smtp_client.build_message("me@example.com", **asked)
        received = over_the_wire(fake, message)
        assert all({"Reply-To", "X"}.isdisjoint(part.keys()) for part in received.walk())


def test_long_custom_variables_arrive_unfolded(fake):
    message = smtp_client.build_message("me@example.com", **BASIC)
    message["X-MT-Custom-Variables"] = variables = '{"key": "' + "two words " * 90 + '"}'
    over_the_wire(fake, message)
    assert f"\r\nX-MT-Custom-Variables: {variables}\r\n".encode() in fake.messages[0].source

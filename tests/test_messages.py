"""What goes into a message comes out at the other end, and nothing else does."""

import base64
import contextlib
import re
import smtplib
import time
from email import message_from_bytes
from email.header import decode_header, make_header
from email.utils import getaddresses, parsedate_to_datetime
from typing import Any

import mailtrap as mt
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import api_client
from conftest import api_of, connected, new_mail
from fake_mailtrap import FakeMailtrap
from smtp_client import build_message, header_address, header_text

ME, YOU = ("", "me@example.com"), ("", "you@example.com")
EVIL = "=?utf-8?q?x=0d=0aBcc:_evil=40example.com?="
TRICKY = [EVIL, "=?utf-8?q?x?=", '"', "\\", ", ", "<e@e.com>", "\x1b", "ä", "漢字", "😀", "Юрий "]
PIECES = st.sampled_from(TRICKY) | st.text(st.characters(codec="utf-8"), max_size=9)
TEXT = st.lists(PIECES, max_size=30).map("".join)
often = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def arrived(fake: FakeMailtrap, message: Any, to: tuple[str, ...] = (YOU[1],)) -> Any:
    """Send a message; return it as it was taken, after checks of its form."""
    fake.reset()
    with connected(fake) as smtp:
        assert smtp.sendmail(ME[1], to, message.as_string()) == {}
    source = fake.messages[0].source
    assert re.fullmatch(rb"[\r\n\t -~]*", source)
    assert max(map(len, source.split(b"\r\n"))) <= 989
    words = re.findall(rb"=\?utf-8\?[bq]\?[^?\s]*\?=", source.partition(b"\r\n\r\n")[0])
    assert max(map(len, words), default=0) <= 75
    return message_from_bytes(source)


def seen(text: str) -> str:
    """Return a text as it is seen, in which a line break is a blank."""
    return " ".join(text.split())


def decoded(header: str) -> str:
    """Return what is seen of a header."""
    return seen(str(make_header(decode_header(header.replace("\r\n", "")))))


@often
@given(TEXT, st.lists(TEXT, min_size=1, max_size=8))
@example("x" * 5000, ["😀" * 5000, "x " * 3000, "\\" * 600])
@example("Съешь ещё этих мягких французских булок, да выпей же чаю. " * 9, ["", "O'Neil (Sales)"])
def test_subjects_and_names(fake, subject, names):
    people = [(name, f"user{number}@example.com") for number, name in enumerate(names)]
    message = arrived(fake, build_message(people[0], people, subject, "x"))
    assert decoded(message["Subject"]) == seen(subject)
    pairs = getaddresses([message["To"].replace("\r\n", "")])
    shown = [(decoded(name), address) for name, address in pairs]
    assert shown == [(seen(name), address) for name, address in people]
    assert set(message.keys()) == set(build_message(ME, [YOU], "x", "x").keys())
    assert message.get_content_type() == "text/plain"


def test_a_long_subject_does_not_begin_with_an_empty_line():
    message = build_message(ME, [YOU], "Grüße " * 20, "x")
    assert "\nSubject: =?utf-8?" in message.as_string()


def test_many_long_names_take_no_time():
    started = time.perf_counter()
    build_message(ME, [("😀" * 5000, YOU[1])] * 20, "x", "x").as_string()
    assert time.perf_counter() - started < 2


ENDS = ["\n", "\r\n", "\r", "\f", "\u2028", "\n\n"]
BREAKS = [f"x{end}{line}" for end in ENDS for line in ("Bcc: e@e.com", "Bcc : e@e.com", "evil")]
LATER = ["X-MT-Custom-Variables", "X-MT-Category", "Reply-To", "Cc", "Comments"]
PLACES = ["subject", "name", "address", "file", "header_text", *LATER]


@pytest.mark.parametrize("text", [*BREAKS, EVIL])
@pytest.mark.parametrize("place", PLACES)
def test_nothing_becomes_a_header_of_its_own(place, text, fake):
    with contextlib.suppress(ValueError):  # if it raises, nothing can happen
        sender = (text if place == "name" else "", text if place == "address" else ME[1])
        message = build_message(sender, [YOU], text if place == "subject" else "x", "x")
        if place == "file":
            message.add_attachment(b"x", "text", "plain", filename=text)
        elif place in LATER:
            message[place] = text
        elif place == "header_text":
            message["Comments"] = header_text(text)
        received = arrived(fake, message)
        for part in received.walk():
            assert {"Bcc", "Bcc "}.isdisjoint(part.keys())
            assert "evil" not in str(part.get_payload())


NO_ADDRESSES = ["", "@", "you", "you@", "@e.com", "<a@b>", "a@b@c.d", "a b@x.com", "a@b.c\n"]
NO_ADDRESSES += ["a@b.c, d@e.f", "a@b.c,d@e.f", "a@b.c\r\nBcc: d@e.f", "ü@e.com", "a@bü.de", EVIL]
NO_ADDRESSES += ["=?us-ascii?q?a?=@b.c", "a" * 99 + "@b.c", "a@" + "b" * 256]


@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_what_is_no_address_is_refused_and_quoted(address):
    for arguments in (((("", address), [YOU])), (ME, [YOU, ("", address)])):
        with pytest.raises(ValueError, match="not an email address") as raised:
            build_message(*arguments, "x", "x")
        assert repr(address) in str(raised.value)


TEXTS = [".\n..\n.x", "From me\n>From you", "x" * 5000, "ä" * 5000, "tab\t \n  blank ", "a\r\nb\rc"]


@pytest.mark.parametrize("text", TEXTS)
def test_bodies(text, fake):
    message = arrived(fake, build_message(ME, [YOU], "x", text, html=f"<p>{text}</p>"))
    plain, html = (part.get_payload(decode=True).decode() for part in message.get_payload())
    assert plain.splitlines() == text.splitlines()
    assert html.splitlines() == f"<p>{text}</p>".splitlines()


def test_an_attachment_a_copy_a_blind_copy_the_date_and_the_id(fake):
    content = bytes(range(256)) * 99
    message = build_message(("", "me@my.example.com"), [YOU], "x", "x")
    message["Cc"] = header_address("Zoë", "cc@example.com")
    message["Reply-To"] = header_address("", "reply@example.com")
    message.add_attachment(content, "application", "pdf", filename="für Zoë.pdf")
    recipients = (YOU[1], "cc@example.com", "bcc@example.com")
    received = arrived(fake, message, recipients)
    assert tuple(fake.messages[0].recipients) == recipients
    assert b"bcc@" not in fake.messages[0].source
    assert decoded(received["Cc"]) == "Zoë <cc@example.com>"
    assert received["Reply-To"] == "reply@example.com"
    assert re.fullmatch(r"<[^@]+@my\.example\.com>", received["Message-ID"])
    assert abs(parsedate_to_datetime(received["Date"]).timestamp() - time.time()) < 60
    _, file = received.get_payload()
    assert (file.get_filename(), file.get_content_type()) == ("für Zoë.pdf", "application/pdf")
    assert file.get_payload(decode=True) == content


def test_five_megabytes_as_sent_are_the_limit_over_both(fake):
    for size in (3_600_000, 4_000_000):
        message, mail = build_message(ME, [YOU], "x", "x"), new_mail()
        message.add_attachment(b"x" * size, "application", "pdf", filename="a.pdf")
        mail.attachments = [mt.Attachment(base64.b64encode(b"x" * size), "a.pdf")]
        if size == 3_600_000:
            arrived(fake, message)
            api_client.send(api_of(fake), mail)
    with pytest.raises(smtplib.SMTPSenderRefused, match="552"):
        arrived(fake, message)
    with pytest.raises(mt.APIError, match="Too Large"):
        api_client.send(api_of(fake), mail)

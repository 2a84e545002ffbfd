"""Wherever it breaks, what is told is true, and as exact as can be known.

No exception: the server took the message, once. OutcomeUnknownError: nobody can know. Any other:
it took nothing. The server says what it took.
"""

import os
import signal
import smtplib
import socket
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import mailtrap as mt
import pytest
from urllib3.exceptions import NewConnectionError

import api_client
import smtp_client
from conftest import ME, MESSAGE, PROXY, YOU, api_of, connected, new_mail
from fake_mailtrap import FakeMailtrap, Fault, http

STEPS = ("MAIL", "RCPT", "DATA", "content")
BREAKS = ("close", "reset", "silence")
REFUSED = [b"450 4.2.0 Later", b"421 4.3.2 Bye", b"550 5.7.1 No", b"554-5.5.1 No\r\n554 Never"]
GARBAGE = [b"", b"what?", b"\xff\0", b"HTTP/1.1 400 Bad", b"2x0 Ok", b"333 Go on", b"250-Ok\r\n25"]
YES = {"success": True, "message_ids": ["5000001"]}
NO = {"success": False, "errors": ["so it is"]}
NOT_YES = [NO, "", "Hi", [], None, {"success": True}, {**YES, "success": False}]
NOT_YES += [{**YES, "message_ids": []}, {**YES, "message_ids": None}]
CUT_SHORT = [b"what?\r\n\r\n", b"HTTP/1.1 200", http(200, YES)[:-1], http(400, NO)[:-1]]
CUT_SHORT += [b"Tunnel connection failed: 403 Forbidden\r\n\r\n"]  # which urllib3 says of a proxy


def smtp_rows() -> list[tuple[Fault, str]]:
    """Return all faults, and what is to be told of each."""
    rows = []
    for step in ("greeting", "EHLO", "STARTTLS", "TLS", "AUTH", *STEPS, "QUIT"):
        by_default = "sent" if step == "QUIT" else "not sent"
        # smtplib does not tell a break at the command DATA from one at the content.
        broken = "unknown" if step in ("DATA", "content") else by_default
        garbled = "unknown" if step == "content" else by_default
        rows += [(Fault(step, b"", then), broken) for then in BREAKS]
        rows += [(Fault(step, reply + b"\r\n"), by_default) for reply in REFUSED]
        rows += [(Fault(step, reply + b"\r\n"), garbled) for reply in GARBAGE]
        rows += [(Fault(step, b"x" * 9000 + b"\r\n"), broken)]
    taken = [(replace(fault, takes=True), told) for fault, told in rows if fault.step == "content"]
    rows += [row for row in taken if row[1] == "unknown"]
    return [*rows, (Fault("EHLO", b"250 AUTH PLAIN\r\n"), "not sent")]  # and no TLS


def api_rows() -> list[tuple[Fault, str]]:
    """Return all faults, and what is to be told of each; at CONNECT, those of a proxy."""
    steps = ("TLS", "headers", "content")
    rows = [(Fault(step, b"", then), "unknown") for step in steps for then in BREAKS]
    bodies = [http(status, NO) for status in (302, 500, 502, 503)] + [http(502, "<h1>No</h1>")]
    bodies += [http(200, content) for content in NOT_YES]
    rows += [(Fault("content", body), "unknown") for body in bodies]
    rows += [(Fault("content", body, "close"), "unknown") for body in CUT_SHORT]
    rows += [(replace(fault, takes=True), told) for fault, told in rows if fault.step == "content"]
    for status in (400, 401, 403, 404, 413, 422, 429, 499):
        rows += [(Fault("content", http(status, body)), "not sent") for body in (NO, "<h1>No</h1>")]
    rows += [(Fault("CONNECT", http(status, "")), "not sent") for status in (403, 407, 502)]
    return rows + [(Fault("CONNECT", None, then), "unknown") for then in BREAKS]


def over_smtp(fake: FakeMailtrap) -> None:
    with connected(fake, timeout=0.3) as smtp:
        assert smtp.sendmail(ME, [YOU], MESSAGE) == {}


def over_api(fake: FakeMailtrap) -> None:
    api = api_of(fake)
    api._client._timeout = 0.3
    assert api_client.send(api, new_mail()) == ["5000001"]


def outcome(fake: FakeMailtrap, fault: Fault, send: Any, unknown: type[Exception]) -> str:
    """Send; return what is told of it, which must be true."""
    fake.reset(fault)
    try:
        send(fake)
    except unknown:
        return "unknown"
    except (smtplib.SMTPException, mt.APIError, OSError):
        assert fake.messages == []
        return "not sent"
    assert len(fake.messages) == 1
    return "sent"


@pytest.mark.parametrize(("fault", "told"), smtp_rows(), ids=lambda it: str(it)[:60])
def test_over_smtp(fault, told, fake):
    assert outcome(fake, fault, over_smtp, smtp_client.OutcomeUnknownError) == told
    assert fake.steps["AUTH"] <= fake.steps["TLS"] <= 1  # the password: once, and over TLS


@pytest.mark.parametrize(("fault", "told"), api_rows(), ids=lambda it: str(it)[:60])
def test_over_the_api_directly_and_through_a_proxy(fault, told, fake, monkeypatch):
    if fault.step != "CONNECT":
        assert outcome(fake, fault, over_api, api_client.OutcomeUnknownError) == told
    for name, value in PROXY.items():
        monkeypatch.setenv(name, value)
    assert outcome(fake, fault, over_api, api_client.OutcomeUnknownError) == told
    assert fake.steps["CONNECT"] == 1


REFUSALS = [Fault(step, reply) for step in STEPS for reply in (b"450 Later\r\n", b"550 No\r\n")]
CLOSING = [Fault(step, b"421 4.3.2 Bye\r\n", "close") for step in STEPS]


@pytest.mark.parametrize("fault", [*REFUSALS, *CLOSING, Fault("content", b"222 x\r\n")], ids=str)
def test_the_next_message_after_a_refusal_or_the_connection_is_closed(fault, fake):
    fake.reset(fault)
    with connected(fake) as smtp:
        with pytest.raises((smtplib.SMTPException, smtp_client.OutcomeUnknownError)) as raised:
            smtp.sendmail(ME, [YOU], MESSAGE)
        assert fault.reply[:3].decode() in str(raised.value)
        if fault in REFUSALS:
            assert smtp.sendmail(ME, [YOU], MESSAGE) == {}
        else:
            assert smtp.sock is None
    assert len(fake.messages) == (fault in REFUSALS)


@pytest.mark.parametrize("fault", [Fault("content", b"550 No\r\n"), Fault("AUTH", b"535 No\r\n")])
def test_the_reply_that_decided_is_told(fault, fake):
    fake.reset(fault, Fault("RSET", b"", "close"), Fault("QUIT", b"421 Bye\r\n"))
    with pytest.raises(smtplib.SMTPResponseException, match=fault.reply[:3].decode()):
        over_smtp(fake)
    assert fake.steps["QUIT"] == 0


@pytest.mark.skipif(os.name == "nt", reason="needs SIGALRM")
@pytest.mark.parametrize("step", ["content", "QUIT"])
def test_a_time_limit_that_strikes(step, fake):
    fake.reset(Fault(step, b"", "silence", takes=True))
    signal.signal(signal.SIGALRM, lambda *_: 1 / 0)  # raises an error that is not of smtplib
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    unknown = pytest.raises(smtp_client.OutcomeUnknownError, match="division")
    with unknown if step == "content" else nullcontext(), connected(fake) as smtp:
        assert smtp.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        smtp.sendmail(ME, [YOU], MESSAGE)
    assert (len(fake.messages), fake.names) == (1, {"[127.0.0.1]"})


def test_an_older_error_of_the_caller_changes_no_verdict(fake):
    fake.reset(Fault("content", http(503, NO), takes=True))
    try:
        raise NewConnectionError(None, "")
    except NewConnectionError:
        with pytest.raises(api_client.OutcomeUnknownError):
            over_api(fake)


NOW, NEVER = (450, b"later"), (550, b"no such user")
FOR_NOW = [  # those that advise in test_program.py tells apart are not repeated here
    (smtplib.SMTPDataError(450, b"4.2.0 Later"), True),
    (smtplib.SMTPDataError(421, b""), True),
    (smtplib.SMTPDataError(550, b"5.7.0 Not taken:\ntoo many emails per second"), True),
    (smtplib.SMTPDataError(550, b"5.7.1 450 too few"), False),
    (smtplib.SMTPDataError(554, b"5.7.0 too many emails"), False),
    (smtplib.SMTPResponseException(500, "Line too long."), False),
    (smtplib.SMTPRecipientsRefused({ME: NOW, YOU: NOW}), True),
    (smtplib.SMTPRecipientsRefused({ME: NOW, YOU: NEVER}), False),
    (smtplib.SMTPRecipientsRefused({}), False),
    (OSError("450 x"), False),
    (mt.APIError(400, ["429"]), False),
    (mt.APIError(503, ["x"]), False),
]


@pytest.mark.parametrize(("error", "expected"), FOR_NOW, ids=repr)
def test_is_temporary(error, expected):
    script = api_client if isinstance(error, mt.APIError) else smtp_client
    assert script.is_temporary(error) is expected

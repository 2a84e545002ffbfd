"""Whatever breaks, and wherever: the outcome that is told is what happened, as exactly as possible.

No error if and only if the server took the message, once. Any error but OutcomeUnknownError only if
it took nothing, and OutcomeUnknownError only if nobody could know. The server says what it took.
"""

import contextlib
import gzip
import itertools
import pickle
import re
import smtplib
import ssl
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import api_client
import smtp_client
from conftest import PORTS
from faulty import API_STEPS, SMTP_STEPS, Fault, FaultyApi, FaultySmtp, Server, http

MESSAGE = smtp_client.build_message("a@example.com", to=["b@example.com"], subject="x", text="x")
MAIL = api_client.build_mail("a@example.com", to=["b@example.com"], subject="x", text="x")
PATIENCE = 0.2  # seconds that the clients wait at each step

CUTS = [(reply, then) for reply in (None, b"") for then in ("close", "reset", "stall")]
LONG = b"x" * 9000 + b"\r\n"
SMTP_REFUSALS = [
    b"421 4.3.2 Shutting down\r\n",
    b"450 4.2.0 Try later\r\n",
    b"454 4.7.0 Not now\r\n",
    b"550 5.7.1 No\r\n",
    b"552 5.3.4 Error: message too big\r\n",
    b"554 5.5.1 No sandbox\r\n",
    b"550 5.7.0 Too many emails per second\r\n",
    b"535 5.7.8 Too many connections\r\n",
    b"550-5.7.1 No,\r\n550 5.7.1 and never\r\n",
]
SMTP_FOR_NOW = [reply for reply in SMTP_REFUSALS if reply[:1] == b"4" or b"Too many" in reply]
# Neither yes nor no.
SMTP_GARBAGE = [b"\r\n", b"what?\r\n", b"\xff\xfe\0\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", LONG]
SMTP_CUT_SHORT = [b"2", b"25", b"4", b"55", b"250-and\r\n", b"250-and\r\nwhat?\r\n"]
SMTP_NO_CODES = [b"4\r\n", b"2x0 Ok\r\n", b"-50 Ok\r\n"]
SMTP_ODD_CODES = [b"100 Wait\r\n", b"333 Go on\r\n", b"354 Go on\r\n", b"600 Ok\r\n"]
SMTP_PUZZLES = SMTP_GARBAGE + SMTP_CUT_SHORT + SMTP_NO_CODES + SMTP_ODD_CODES
SUCCESS = {"success": True, "message_ids": ["5000001"]}
ERRORS = {"success": False, "errors": ["so it is"]}
API_STATUSES = [200, 202, 204, 400, 401, 403, 404, 413, 429, 500, 502, 503, 504]
NO_IDS = [{"success": True}, {"success": True, "message_ids": []}, {}, [], None]
NO_SUCCESS = [{"success": False, "message_ids": ["5"]}, {"errors": {"to": ["is wrong"]}}, "errors"]
NO_JSON = [b"<h1>Whatever</h1>", b"", b"[[[["]
API_BODIES = [SUCCESS, ERRORS, *NO_IDS, *NO_SUCCESS, *NO_JSON]
# No whole answer.
API_GARBAGE = [b"\r\n", b"what?\r\n\r\n", b"220 smtp.mailtrap.io\r\n", b"HTTP/1.1 " + LONG * 8]
API_CUT_LINES = [b"HTTP/1.1", b"HTTP/1.1 200", b"HTTP/1.1 200 Ok\r\nContent-"]
API_ODD_LINES = [b"HTTP/1.1 2x0 Ok\r\n\r\n", b"HTTP/7 200 Ok\r\n\r\n"]
API_CUT_BODIES = [http(200, SUCCESS)[:-1], http(429, ERRORS)[:-1], http(401, ERRORS)[:-40]]
API_ODD_BODIES = [
    http(200, SUCCESS, "Content-Length: 9"),
    http(200, gzip.compress(b"{}")[:-9], "Content-Encoding: gzip"),
    b"HTTP/1.1 200 Ok\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{",
]
TUNNEL = b"Tunnel connection failed: 403 Forbidden\r\n\r\n"  # as requests says it of a proxy
API_PUZZLES = API_GARBAGE + API_CUT_LINES + API_ODD_LINES + API_CUT_BODIES + API_ODD_BODIES
API_PUZZLES += [TUNNEL]


def over_smtp(server: Server, host: str = "sandbox.smtp.mailtrap.io") -> None:
    """Send MESSAGE."""
    smtp = smtp_client.connect(host, server.port, "user", "password", timeout=PATIENCE)
    with contextlib.closing(smtp):
        smtp_client.send(smtp, MESSAGE)


def over_api(server: Server, *, proxy: bool = True) -> None:
    """Send MAIL, through the server as a proxy or not."""
    with pytest.MonkeyPatch.context() as patch:
        if proxy:
            for name in ("HTTPS_PROXY", "https_proxy"):
                patch.setenv(name, f"http://127.0.0.1:{server.port}")
            patch.setenv("NO_PROXY", "")
            patch.setenv("no_proxy", "")
        patch.setitem(PORTS, 443, server.port)
        api = api_client.open_api("token", "sandbox", "4242")
        api._client._timeout = PATIENCE  # type: ignore[assignment]
        api_client.send(api, MAIL)


def bare(error: Exception) -> Iterator[Exception]:
    """Yield the error as it is, as it comes out of a task queue, and out of a process pool."""
    yield error
    stripped = error.with_traceback(None)
    stripped.__cause__ = stripped.__context__ = None
    yield stripped
    with contextlib.suppress(Exception):
        yield pickle.loads(pickle.dumps(stripped))


def outcome(tls: ssl.SSLContext, *faults: Fault, smtp: bool, tries: int = 1, **how: bool) -> str:
    """Send once against a server with these faults; fail if what is told is not true.

    Returns "accepted", "unsent" or "unknown".
    """
    script: Any = smtp_client if smtp else api_client
    kind, send = (FaultySmtp, over_smtp) if smtp else (FaultyApi, partial(over_api, **how))
    error, for_now = None, set()
    with kind(tls, *faults) as server:
        try:
            script.with_retries(partial(send, server), pauses=[0] * (tries - 1))
        except Exception as raised:
            for_now = {script.is_temporary(one) for one in bare(raised)}
            error = raised
    if error is None:
        assert len(server.taken) == 1
        return "accepted"
    assert len(for_now) == 1, "the traceback changes what is told"
    no_for_now = rb"(4\d\d|550.*per second|535.*many connections)|HTTP/1.1 (429|50[03]) "
    if for_now == {True}:
        assert any(re.match(no_for_now, fault.reply or b"") for fault in faults)
    if isinstance(error, script.OutcomeUnknownError):
        # Nobody knows what became of a DATA that met a dead connection, but of all before it.
        answered = any(fault.step == "RCPT" and fault.reply != b"" for fault in faults)
        assert not smtp or server.steps["DATA"] or answered, "nothing was handed over yet"
        assert for_now == {False}
        return "unknown"
    assert server.taken == []
    return "unsent"


def name_of(value: object) -> str:
    """Return a short name for a parameter."""
    return repr(value[:40]) if isinstance(value, bytes) else str(value)


def both_ways(fault: Fault) -> list[Fault]:
    """Return the fault on a server that takes the message, and on one that does not."""
    return [replace(fault, takes=True), replace(fault, takes=False)]


Case = tuple[str, bytes | None, str]
steps = [step for step in SMTP_STEPS if step != "RSET"]
SMTP_TABLE: list[Case] = [(step, *cut) for step in steps for cut in CUTS]
SMTP_TABLE += [(step, reply, "close") for step in steps for reply in SMTP_REFUSALS + SMTP_PUZZLES]
SMTP_TABLE += [(step, reply, "go on") for step in steps if step != "TLS" for reply in SMTP_REFUSALS]


@pytest.mark.parametrize(("step", "reply", "then"), SMTP_TABLE, ids=name_of)
def test_smtp_tells_what_happened(step, reply, then, fake):
    refused = reply in SMTP_REFUSALS and then == "go on"
    open_end = step == "content" and reply is not None and reply not in SMTP_REFUSALS
    fault = Fault(step, reply, then)
    for one in both_ways(fault) if open_end else [fault]:
        told = outcome(fake.tls, one, smtp=True)
        if step == "QUIT":
            assert told == "accepted"
        elif refused and step == "EHLO over TLS":
            assert told == "accepted", "there is HELO, too"
        elif refused:
            assert told == "unsent", "the server said no"
        elif open_end:
            assert told == "unknown"


API_TABLE: list[Case] = [(step, *cut) for step in API_STEPS for cut in CUTS]
API_TABLE += [
    (step, reply, "close") for step in ("TLS", "headers", "body") for reply in API_PUZZLES
]
API_TABLE += [("CONNECT", reply, "close") for reply in API_PUZZLES[:4]]


@pytest.mark.parametrize(("step", "reply", "then"), API_TABLE, ids=name_of)
def test_the_api_tells_what_happened(step, reply, then, fake):
    open_end = step == "body" and reply is not None
    fault = Fault(step, reply, then)
    for one in both_ways(fault) if open_end else [fault]:
        told = outcome(fake.tls, one, smtp=False)
        assert told == "unknown" if open_end else told in ("accepted", "unsent", "unknown")
        if step not in ("accept", "CONNECT"):
            assert outcome(fake.tls, one, smtp=False, proxy=False) == told


def says_no(status: int, body: object) -> bool:
    """Say whether an answer is the API's own no."""
    in_json = isinstance(body, dict) and "errors" in body
    return 400 <= status <= 499 or (status in (500, 503) and in_json)


@pytest.mark.parametrize(
    ("status", "body"), list(itertools.product(API_STATUSES, API_BODIES)), ids=name_of
)
def test_the_api_tells_what_an_answer_means(status, body, fake):
    fault = Fault("body", http(status, body))
    if says_no(status, body):
        told = outcome(fake.tls, fault, smtp=False)
        assert told == "unsent" or not isinstance(body, dict), "the server said no"
    elif (status, body) == (200, SUCCESS):
        assert outcome(fake.tls, replace(fault, takes=True), smtp=False) == "accepted"
    else:
        for one in both_ways(fault) if body != SUCCESS else [replace(fault, takes=True)]:
            outcome(fake.tls, one, smtp=False)


@pytest.mark.parametrize("status", [301, 403, 407, 429, 500, 503])
def test_a_proxy_that_refuses_the_tunnel_has_sent_nothing(status, fake):
    refusal = Fault("CONNECT", http(status, b"<h1>No</h1>"), "close")
    assert outcome(fake.tls, refusal, smtp=False) == "unsent"


@st.composite
def smtp_trouble(draw: st.DrawFn) -> list[Fault]:
    """One fault or two, on a server that does what it says."""
    words = st.sampled_from(["Ok", "not allowed", "many connections limit", "emails per second"])
    made_up = st.builds(
        lambda code, text: f"{code} {text}\r\n".encode(), st.integers(0, 1099), words
    )
    faults = []
    for step in draw(st.lists(st.sampled_from(SMTP_STEPS), min_size=1, max_size=2, unique=True)):
        reply = draw(st.sampled_from([None, b"", *SMTP_REFUSALS, *SMTP_PUZZLES]) | made_up)
        says = re.match(rb"([45])\d\d[ -]|(250) ", reply or b"")
        takes = bool(says[2]) if says else draw(st.booleans())
        then = draw(st.sampled_from(["go on", "close", "reset"] if reply else ["close", "reset"]))
        faults.append(Fault(step, reply, then, takes))
    return faults


def beginning(whole: bytes, length: int) -> bytes:
    return whole[:length]


@st.composite
def api_trouble(draw: st.DrawFn) -> list[Fault]:
    """One fault or two, on a server that does what it says; answers may be cut short."""
    faults = []
    for step in draw(st.lists(st.sampled_from(API_STEPS), min_size=1, max_size=2, unique=True)):
        status, body = draw(st.integers(100, 699)), draw(st.sampled_from(API_BODIES))
        whole = http(status, body)
        part = st.integers(0, len(whole)).map(partial(beginning, whole))
        reply = draw(st.none() | st.just(whole) | part | st.sampled_from(API_PUZZLES))
        takes = not says_no(status, body) and draw(st.booleans())
        takes = takes or (reply == whole and body == SUCCESS and not says_no(status, body))
        faults.append(Fault(step, reply, draw(st.sampled_from(["close", "reset"])), takes))
    return faults


@given(smtp_trouble(), st.integers(1, 3))
def test_smtp_tells_the_truth_in_any_trouble(fake, faults, tries):
    outcome(fake.tls, *faults, smtp=True, tries=tries)


@given(api_trouble(), st.integers(1, 3))
def test_the_api_tells_the_truth_in_any_trouble(fake, faults, tries):
    outcome(fake.tls, *faults, smtp=False, tries=tries)


# A kept connection


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA", "content"])
@pytest.mark.parametrize("reply", SMTP_REFUSALS[1:], ids=name_of)
def test_after_a_refusal_the_connection_takes_the_next_message(step, reply, fake):
    with FaultySmtp(fake.tls, Fault(step, reply)) as server:
        smtp = smtp_client.connect("localhost", server.port, "user", "password")
        with contextlib.closing(smtp):
            with pytest.raises(smtp_client.REFUSALS) as refused:
                smtp_client.send(smtp, MESSAGE)
            assert smtp_client.is_temporary(refused.value) == (reply in SMTP_FOR_NOW)
            assert smtp_client.send(smtp, MESSAGE) == {}
    assert server.taken == [["b@example.com"]]


@pytest.mark.parametrize("then", ["close", "reset", "stall"])
def test_a_connection_that_died_between_two_messages_has_sent_nothing(then, fake):
    """A server that stalls has been silent to MAIL; one that closes did so before."""
    fault = Fault("MAIL", b"", then, at=(2,)) if then == "stall" else Fault("content", None, then)
    with FaultySmtp(fake.tls, fault) as server:
        smtp = smtp_client.connect("localhost", server.port, "user", "password", timeout=PATIENCE)
        with contextlib.closing(smtp):
            assert smtp_client.send(smtp, MESSAGE) == {}
            with pytest.raises(smtplib.SMTPServerDisconnected):
                smtp_client.send(smtp, MESSAGE)
    assert len(server.taken) == 1


class Interrupted(smtplib.SMTP):
    """As a task queue's time limit strikes, anywhere."""

    def rcpt(self, *_: object) -> Any:
        raise ZeroDivisionError


def test_a_broken_off_message_leaves_no_reply_for_the_next_one(fake):
    with FaultySmtp(fake.tls) as server, Interrupted("127.0.0.1", server.port) as smtp:
        with pytest.raises(ZeroDivisionError):
            smtp_client.send(smtp, MESSAGE)
        assert smtp.sock is None


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA", "content"])
def test_a_refusal_that_also_ends_the_connection_is_told_as_what_it_is(step, fake):
    with FaultySmtp(fake.tls, Fault(step, b"421 4.3.2 Shutting down\r\n", "close")) as server:
        smtp = smtp_client.connect("localhost", server.port, "user", "password")
        with contextlib.closing(smtp), pytest.raises(smtp_client.REFUSALS) as refused:
            smtp_client.send(smtp, MESSAGE)
    assert smtp_client.is_temporary(refused.value)


def test_421_to_one_of_three_recipients_ends_the_message(fake):
    people = ["x@b.c", "y@b.c", "z@b.c"]
    message = smtp_client.build_message("a@b.c", to=people, subject="x", text="x")
    bye = Fault("RCPT", b"421 4.3.2 Shutting down\r\n", at=(2,))
    with FaultySmtp(fake.tls, bye) as server:
        smtp = smtp_client.connect("localhost", server.port, "user", "password")
        with contextlib.closing(smtp), pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
            smtp_client.send(smtp, message)
    assert refused.value.recipients == {"y@b.c": (421, b"4.3.2 Shutting down")}
    assert (server.steps["RCPT"], server.steps["DATA"]) == (2, 0)


def test_the_size_is_announced_where_the_server_wants_to_know_it(fake):
    no_size = Fault("EHLO over TLS", b"250-smtp.mailtrap.io\r\n250 AUTH PLAIN\r\n")
    for faults, announced in (([], True), ([no_size], False)):
        with FaultySmtp(fake.tls, *faults) as server:
            over_smtp(server, "localhost")
        [command] = [one for one in server.commands if one.upper().startswith("MAIL")]
        assert ("size=" in command) is announced


# What is told of several recipients, and of a batch

LATER, NEVER = b"451 4.3.0 Later\r\n", b"550 5.1.1 No such user\r\n"


@pytest.mark.parametrize(
    ("first", "second", "for_now"),
    [(LATER, NEVER, False), (NEVER, LATER, False), (LATER, LATER, True), (NEVER, NEVER, False)],
)
def test_each_recipient_is_named_with_its_own_reply(first, second, for_now, fake):
    message = smtp_client.build_message("a@b.c", to=["x@b.c", "y@b.c"], subject="x", text="x")
    replies = {b"x@b.c": first, b"y@b.c": second}

    class Choosy(FaultySmtp):
        def answer(self, peer: Any, fault: Fault, right: bytes) -> bytes:
            if fault.step == "RCPT":
                right = list(replies.values())[self.steps["RCPT"] - 1]
            return super().answer(peer, fault, right)

    with Choosy(fake.tls) as server:
        smtp = smtp_client.connect("localhost", server.port, "user", "password")
        with (
            contextlib.closing(smtp),
            pytest.raises(smtplib.SMTPRecipientsRefused) as refused,
        ):
            smtp_client.send(smtp, message)
    told = [reply.decode().strip() for reply in (first, second)]
    assert smtp_client.reply_of(refused.value) == f"x@b.c: {told[0]}; y@b.c: {told[1]}"
    assert smtp_client.is_temporary(refused.value) is for_now
    assert ("for now" in smtp_client.advice(refused.value)) is for_now


BATCH_TROUBLE = {
    "a reset after it was handed over": (Fault("body", b"", "reset", takes=True), "unknown"),
    "502": (Fault("body", http(502, b"<h1>No</h1>"), takes=True), "unknown"),
    "fewer answers than mails": (
        Fault("body", http(200, {"success": True, "responses": []}), takes=True),
        "unknown",
    ),
    "no success": (
        Fault("body", http(200, {"success": False, "responses": [SUCCESS] * 2}), takes=True),
        "unknown",
    ),
    "401": (Fault("body", http(401, ERRORS)), "unsent"),
    "nothing": (Fault("body", None), "accepted"),
}


@pytest.mark.parametrize(("fault", "expected"), BATCH_TROUBLE.values(), ids=list(BATCH_TROUBLE))
def test_a_batch_has_the_same_outcomes(fault, expected, fake, monkeypatch):
    base = api_client.mt.BatchMail(sender=MAIL.sender, subject="x", text="x")
    requests = [api_client.mt.BatchEmailRequest(to=MAIL.to)] * 2
    batch = api_client.mt.BatchSendEmailParams(base, requests)
    with FaultyApi(fake.tls, fault) as server:
        monkeypatch.setitem(PORTS, 443, server.port)
        api = api_client.open_api("token", "sandbox", "4242")
        try:
            told = "accepted" if len(api_client.send_batch(api, batch)) == 2 else "?"
        except Exception as error:
            told = "unknown" if isinstance(error, api_client.OutcomeUnknownError) else "unsent"
        api._client._session.close()
    assert told == expected
    assert len(server.taken) == (0 if expected == "unsent" else 2)


def test_a_mail_that_json_cannot_hold_is_an_ordinary_error(fake):
    mail = api_client.build_mail("a@example.com", to=["b@example.com"], subject="x", text="x")
    api = api_client.open_api(fake.token, "sandbox", fake.sandbox_id)
    for value in (object(), float("nan")):
        mail.custom_variables = {"key": value}
        with pytest.raises((TypeError, ValueError)):
            api_client.send(api, mail)
    assert fake.requests == []


NASTY = b"x\x1b[31m\r\n\x9b\xc2\x85\xe2\x80\xae y" + b"z" * 60_000


@pytest.mark.parametrize(
    ("script", "error", "told"),
    [
        (smtp_client, smtplib.SMTPDataError(554, NASTY), "554 x [31m"),
        (smtp_client, smtplib.SMTPRecipientsRefused({"a@b.c": (550, NASTY)}), "a@b.c: 550 x [31m"),
        (smtp_client, smtplib.SMTPResponseException(500, "Line too long."), "500 Line too long."),
        (smtp_client, OSError("x"), ""),
        (api_client, api_client.mt.APIError(422, [NASTY.decode("latin-1")]), "422 x [31m"),
        (api_client, OSError("x"), ""),
    ],
    ids=["content", "recipient", "made up by smtplib", "no reply", "the API", "no answer"],
)
def test_a_reply_of_any_length_and_kind_is_told_on_one_line(script, error, told):
    reply = script.reply_of(error)
    assert reply.startswith(told)
    assert len(reply) <= 400
    assert reply.isprintable()


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (smtp_client, smtplib.SMTPDataError(450, b"busy")),
        (api_client, api_client.mt.APIError(429, ["Rate limit exceeded"])),
    ],
)
def test_pauses_outlast_the_10_seconds_over_which_mailtrap_counts(script, error, pauses):
    def attempt() -> None:
        raise error

    with pytest.raises(type(error)):
        script.with_retries(attempt)
    assert sum(pauses) > 10
    for least, pause in zip((2, 4, 8), pauses, strict=True):
        assert least < pause < 1.5 * least, "clients must not come back all at once"
    assert script.with_retries(lambda: "taken", pauses=[1]) == "taken"


def test_only_a_refusal_for_now_is_temporary():
    for error in (
        smtplib.SMTPRecipientsRefused({}),
        smtplib.SMTPDataError(554, b"too many emails per second"),
        smtplib.SMTPServerDisconnected("451 later"),
        smtp_client.OutcomeUnknownError("451 later"),
    ):
        assert not smtp_client.is_temporary(error)
    for status, words in (
        (500, "Invalid JSON"),
        (502, "later"),
        (429, "The email Limit is reached"),
    ):
        assert not api_client.is_temporary(api_client.mt.APIError(status, [words]))
    assert not api_client.is_temporary(api_client.OutcomeUnknownError("429 later"))

"""Whatever breaks, and wherever: the outcome that is reported is what really happened.

Success if and only if the server took the message, once; any status but 0 and 74 only if it took
nothing; "temporary" only if the server said no. An error says the same without its traceback.
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
from types import ModuleType

import mailtrap as mt
import pytest
from hypothesis import given
from hypothesis import strategies as st

import api_client
import smtp_client
from faulty import API_STEPS, SMTP_STEPS, Fault, FaultyApi, FaultySmtp, Server, http

MESSAGE = smtp_client.build_message("a@example.com", to=["b@example.com"], subject="x", text="x")
MAIL = api_client.build_mail("a@example.com", to=["b@example.com"], subject="x", text="x")
PATIENCE = 0.2  # seconds that the clients wait at each step

CUTS = [(reply, then) for reply in (None, b"") for then in ("close", "reset", "stall")]
LONG = b"x" * 9000 + b"\r\n"
SMTP_REFUSALS = (
    *(b"421 4.3.2 Shutting down\r\n", b"450 4.2.0 Try later\r\n", b"454 4.7.0 Not now\r\n"),
    *(b"550 5.7.1 No\r\n", b"552 5.3.4 Error: message too big\r\n", b"554 5.5.1 No sandbox\r\n"),
    *(b"550 5.7.0 Too many emails per second\r\n", b"535 5.7.8 Too many connections\r\n"),
    b"550-5.7.1 No,\r\n550 5.7.1 and never\r\n",
)
SMTP_PUZZLES = (  # neither yes nor no
    *(b"\r\n", b"what?\r\n", b"\xff\xfe\0\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", LONG),
    *(
        b"2",
        b"25",
        b"4",
        b"55",
        b"2x0 Ok\r\n",
        b"-50 Ok\r\n",
        b"250-and\r\n",
        b"250-and\r\nwhat?\r\n",
    ),
    *(b"100 Wait\r\n", b"200 Ok\r\n", b"333 Go on\r\n", b"354 Go on\r\n", b"600 Ok\r\n"),
)
SUCCESS = {"success": True, "message_ids": ["5000001"]}
ERRORS = {"success": False, "errors": ["so it is"]}
API_STATUSES = (200, 202, 204, 400, 401, 403, 404, 413, 429, 500, 502, 503, 504)
API_BODIES = (
    *(SUCCESS, ERRORS, {"success": True}, {"success": True, "message_ids": []}, {}, [], None),
    *({"success": False, "message_ids": ["5"]}, {"errors": {"to": ["is wrong"]}}, "errors"),
    *(b"<h1>Whatever</h1>", b"", b"[[[["),
)
API_PUZZLES = (  # no whole answer
    *(b"\r\n", b"what?\r\n\r\n", b"HTTP/1.1", b"HTTP/1.1 200", b"HTTP/1.1 2x0 Ok\r\n\r\n"),
    *(b"HTTP/7 200 Ok\r\n\r\n", b"220 smtp.mailtrap.io\r\n", b"HTTP/1.1 " + LONG * 8),
    *(b"HTTP/1.1 200 Ok\r\nContent-", b"HTTP/1.1 401 No\r\nContent-Length: 50\r\n\r\n{"),
    *(http(200, SUCCESS)[:-1], http(429, ERRORS)[:-1], http(200, SUCCESS, "Content-Length: 9")),
    http(200, gzip.compress(b"{}")[:-9], "Content-Encoding: gzip"),
    b"HTTP/1.1 200 Ok\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{",
)
PROXY_ANSWERS = [http(status, b"<h1>No</h1>") for status in (301, 403, 407, 429, 500, 503)]


def over_smtp(server: Server) -> None:
    """Send MESSAGE as connect_and_send() does, with less patience."""
    login = "sandbox.smtp.mailtrap.io", server.port, "user", "password"
    try:
        smtp = smtp_client.connect(*login, timeout=PATIENCE)
    except Exception as error:
        if smtp_client.explain(error).status == 74:
            raise AssertionError("nothing had been handed over") from error
        raise
    with contextlib.closing(smtp):
        smtp_client.send(smtp, MESSAGE)


def over_api(server: Server) -> None:
    """Send MAIL."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.port}")
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.port}")
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


def judge(script: ModuleType, tls: ssl.SSLContext, *faults: Fault, tries: int = 1) -> int:
    """Send once against a server with these faults; fail if what is told is not true."""
    kind, send = (FaultySmtp, over_smtp) if script is smtp_client else (FaultyApi, over_api)
    errors: list[Exception] = []
    with kind(tls, *faults) as server:
        try:
            script.with_retries(partial(send, server), pauses=[0] * (tries - 1))
        except Exception as error:
            errors += bare(error)
    verdicts = {(script.explain(one).status, script.is_temporary(one)) for one in errors}
    assert len(verdicts) <= 1, "the traceback changes the verdict"
    [(status, temporary)] = verdicts or {(0, False)}
    if status == 74:
        assert [type(one) for one in errors] == [script.OutcomeUnknownError] * 3
    no = rb"[45]\d\d[ -]|HTTP/1.1 (4\d\d|50[03]) "
    said_no = any(re.match(no, fault.reply or b"") for fault in faults)
    assert status in (0, 65, 69, 74, 75, 77, 78)
    assert server.taken == 1 if status == 0 else status == 74 or server.taken == 0
    assert temporary == (status == 75)
    assert not temporary or said_no
    return status


def variants(fault: Fault, takes: bool | None) -> list[Fault]:
    """Return the fault on a server that takes the message or not; both if that is open."""
    return [replace(fault, takes=taken) for taken in ((True, False) if takes is None else (takes,))]


def name_of(value: object) -> str:
    """Return a short name for a parameter."""
    return repr(value[:40]) if isinstance(value, bytes) else str(value)


Case = tuple[str, bytes | None, str]
steps = [step for step in SMTP_STEPS if step != "RSET"]
SMTP_TABLE: list[Case] = [(step, *cut) for step in steps for cut in CUTS]
SMTP_TABLE += [(step, reply, "close") for step in steps for reply in SMTP_REFUSALS + SMTP_PUZZLES]
SMTP_TABLE += [(step, reply, "go on") for step in steps if step != "TLS" for reply in SMTP_REFUSALS]


@pytest.mark.parametrize(("step", "reply", "then"), SMTP_TABLE, ids=name_of)
def test_smtp_tells_what_happened(step, reply, then, fake):
    refused = reply in SMTP_REFUSALS
    takes = None if step == "content" and reply is not None and not refused else False
    for fault in variants(Fault(step, reply, then), takes):
        status = judge(smtp_client, fake.tls, fault)
        if refused and then == "go on":
            assert status != 74, "the server said no"


def says_no(status: int, body: object) -> bool:
    """Say whether an answer is the API's own no."""
    in_json = isinstance(body, dict) and "errors" in body
    return 400 <= status <= 499 or (status in (500, 503) and in_json)


API_TABLE: list[Case] = [(step, *cut) for step in API_STEPS for cut in CUTS]
API_TABLE += [
    (step, reply, "close") for step in ("TLS", "headers", "body") for reply in API_PUZZLES
]
API_TABLE += [("CONNECT", reply, "close") for reply in (*PROXY_ANSWERS, *API_PUZZLES[:4])]


@pytest.mark.parametrize(("step", "reply", "then"), API_TABLE, ids=name_of)
def test_the_api_tells_what_happened(step, reply, then, fake):
    for fault in variants(
        Fault(step, reply, then), None if (step, reply is None) == ("body", False) else False
    ):
        judge(api_client, fake.tls, fault)


@pytest.mark.parametrize(
    ("status", "body"), list(itertools.product(API_STATUSES, API_BODIES)), ids=name_of
)
def test_the_api_tells_what_an_answer_means(status, body, fake):
    takes = False if says_no(status, body) else True if body == SUCCESS else None
    for fault in variants(Fault("body", http(status, body)), takes):
        told = judge(api_client, fake.tls, fault)
        if takes is False and isinstance(body, dict):
            assert told != 74, "the server said no"


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


def cut(whole: bytes, length: int) -> bytes:
    """Return the beginning."""
    return whole[:length]


@st.composite
def api_trouble(draw: st.DrawFn) -> list[Fault]:
    """One fault or two, on a server that does what it says; answers may be cut short."""
    faults = []
    for step in draw(st.lists(st.sampled_from(API_STEPS), min_size=1, max_size=2, unique=True)):
        status, body = draw(st.integers(100, 699)), draw(st.sampled_from(API_BODIES))
        whole = http(status, body)
        part = st.integers(0, len(whole)).map(partial(cut, whole))
        reply = draw(st.none() | st.just(whole) | part | st.sampled_from(API_PUZZLES))
        takes = not says_no(status, body) and draw(st.booleans())
        takes = takes or (reply == whole and body == SUCCESS and not says_no(status, body))
        faults.append(Fault(step, reply, draw(st.sampled_from(["close", "reset"])), takes))
    return faults


@given(smtp_trouble(), st.integers(1, 3))
def test_smtp_tells_the_truth_in_any_trouble(fake, faults, tries):
    judge(smtp_client, fake.tls, *faults, tries=tries)


@given(api_trouble(), st.integers(1, 3))
def test_the_api_tells_the_truth_in_any_trouble(fake, faults, tries):
    judge(api_client, fake.tls, *faults, tries=tries)


UNLUCKY = ["is missing", "not an email address: 'x'", "[Errno 2] x: 'x'", "OutcomeUnknown", "limit"]


@pytest.mark.parametrize("words", UNLUCKY)
def test_what_a_server_says_does_not_change_the_verdict(words):
    for script in (smtp_client, api_client):
        assert script.explain(script.OutcomeUnknownError(f"502 {words}")).status == 74
    assert smtp_client.explain(smtplib.SMTPDataError(554, words.encode())).status == 65
    assert api_client.explain(mt.APIError(422, [words])).status == 65
    assert api_client.explain(mt.APIError(502, [words])).status == 74
    assert api_client.explain(mt.ClientConfigurationError("x")).status == 78
    assert len(smtp_client.reply_of(smtplib.SMTPDataError(554, b"x" * 7000))) == 400
    assert len(api_client.reply_of(mt.APIError(422, ["x" * 7000]))) == 400


def test_an_interruption_inside_of_sending_is_an_unknown_outcome(fake):
    """As a task queue's time limit may be raised anywhere."""
    with contextlib.closing(smtplib.SMTP("127.0.0.1", fake.smtp_port)) as smtp:
        smtp.getreply = lambda: 1 / 0
        with pytest.raises(smtp_client.OutcomeUnknownError):
            smtp_client.send(smtp, MESSAGE)

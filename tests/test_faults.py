"""Whatever breaks, and wherever: the outcome that is reported is what really happened.

Success if and only if the server took the message, once; 74 where nobody can know; any other status only
if nothing was taken; and "safe to repeat" only if the server itself said that it took nothing.
"""

import contextlib
import gzip
import os
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

import api_client
import smtp_client
from faulty import API_HOST, API_STEPS, REMOTE, SMTP_STEPS, Cut, Fault, FaultyApi, FaultySmtp, Server, Way, http

MESSAGE = smtp_client.build_message("hello@example.com", to=["you@example.com"], subject="Fault", text="Hello")
MAIL = api_client.build_mail("hello@example.com", to=["you@example.com"], subject="Fault", text="Hello")
PATIENCE = 0.2
"""How long the clients wait at each step, in seconds."""

CUTS = ("close", "reset", "stall")
LONG = b"x" * 9000 + b"\r\n"

SMTP_REFUSALS = (
    *(b"421 4.3.2 Shutting down\r\n", b"450 4.2.0 Try later\r\n", b"454 4.7.0 Not now\r\n"),
    *(b"550 5.7.1 No\r\n", b"552 5.3.4 Error: message too big\r\n", b"554 5.5.1 Error: no sandbox for this email\r\n"),
    *(b"550 5.7.0 Too many emails per second\r\n", b"535 5.7.8 Too many connections per account\r\n"),
    b"550-5.7.1 No,\r\n550 5.7.1 and never\r\n",
)
SMTP_PUZZLES = (  # neither yes nor no
    *(b"\r\n", b"what?\r\n", b"\xff\xfe\0\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", LONG, b"250 " + LONG),
    *(b"2", b"25", b"4", b"55", b"2x0 Ok\r\n", b"-50 Ok\r\n", b"250-and\r\n", b"250-and\r\nwhat?\r\n"),
    *(b"100 Wait\r\n", b"200 Ok\r\n", b"252 Perhaps\r\n", b"299 Ok\r\n", b"333 Go on\r\n", b"354 Go on\r\n"),
    *(b"600 Ok\r\n", b"999 Ok\r\n"),
)

SUCCESS = {"success": True, "message_ids": ["5000001"]}
ERRORS = {"success": False, "errors": ["so it is"]}
API_STATUSES = (200, 202, 204, 400, 401, 403, 404, 413, 429, 500, 502, 503, 504)
API_BODIES = (
    *(SUCCESS, ERRORS, {"success": True}, {"success": True, "message_ids": []}),
    *({"success": False, "message_ids": ["5000001"]}, {"errors": {"to": ["is wrong"]}}, {}),
    *([], None, "errors", b"<h1>Whatever</h1>", b"", b"[" * 100_000),
)
API_PUZZLES = (  # no whole answer
    *(b"", b"\r\n", b"what?\r\n\r\n", b"HTTP/1.1", b"HTTP/1.1 200", b"HTTP/1.1 2x0 Ok\r\n\r\n"),
    *(b"HTTP/7 200 Ok\r\n\r\n", b"220 smtp.mailtrap.io\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
    *(b"HTTP/1.1 " + LONG * 8, http(200, SUCCESS, "X: " + "x" * 70_000), http(200, SUCCESS, *["X: x"] * 200)),
    *(b"HTTP/1.1 200 Ok\r\nContent-", b"HTTP/1.1 200 Ok\r\n\r\n", b"HTTP/1.1 401 No\r\nContent-Length: 50\r\n\r\n{"),
    *(http(200, SUCCESS)[:-1], http(429, ERRORS)[:-1], http(500, ERRORS)[:-1]),
    *(http(200, SUCCESS, "Content-Encoding: gzip"), http(200, gzip.compress(b"{}")[:-9], "Content-Encoding: gzip")),
    http(200, SUCCESS).replace(b"Content-Length: ", b"Content-Length: 1\r\nX: "),
    *(http(200, SUCCESS).replace(b"Content-Length: ", b"Content-Length: 1, "), http(200, SUCCESS, "Content-Length: 9")),
    http(200, SUCCESS)[:-1].replace(b"Content-Length: ", b"Content-Length: -"),
    b"HTTP/1.1 200 Ok\r\nTransfer-Encoding: chunked\r\n\r\nwhat?\r\n",
    b"HTTP/1.1 200 Ok\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{",
)
PROXY_ANSWERS = (
    *(http(status, b"<h1>Proxy</h1>") for status in (301, 400, 403, 407, 429, 500, 502, 503, 504)),
    *(b"what?\r\n\r\n", b"HTTP/1.1", b"HTTP/1.1 200 Ok\r\n", b"HTTP/1.1 200 Ok\r\nX: " + LONG * 8),
    b"HTTP/1.1 200 Ok\r\n\r\nwhat?",
)


@dataclass(frozen=True)
class Outcome:
    """What became of one message: what was reported, and what the server knows."""

    status: int
    safe: bool
    happened: str
    taken: int


Attempt = Callable[..., Outcome]


def tell(script: ModuleType, once: Callable[[], object], tries: int) -> tuple[int, bool, str]:
    """Return the status, whether it is safe to repeat, and what happened, as the script reports them."""
    try:
        script.send_with_retries(once, explain=script.explain, waits=[0.0] * (tries - 1))
    except Exception as error:
        happened, _, status, safe = script.explain(error)
        return status, safe, happened
    return 0, False, "accepted"


def way_to(server: Server, cut: Cut | None) -> contextlib.AbstractContextManager[Server]:
    """Return the way to a server: a straight one, or one with a cut."""
    return Way(server.port, cut) if cut else contextlib.nullcontext(server)


def certify(folder: Path, *names: str) -> ssl.SSLContext:
    """Return a server's TLS; the certificate of its authority is in folder/ca.pem."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(tls)
    return tls


@pytest.fixture(scope="module")
def ca_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trusted")


@pytest.fixture(scope="module")
def trusted(ca_folder: Path) -> ssl.SSLContext:
    return certify(ca_folder, REMOTE, API_HOST)


@pytest.fixture(scope="module")
def over_smtp(ca_folder: Path, trusted: ssl.SSLContext) -> Attempt:
    """Return what sends a message to a server with these faults, and says what became of it."""

    def attempt(
        *faults: Fault,
        tries: int = 1,
        tls: ssl.SSLContext = trusted,
        message: object = MESSAGE,
        messages: int = 1,
        cut: Cut | None = None,
    ) -> Outcome:
        def once() -> None:
            smtp = smtp_client.connect(REMOTE, way.port, "user", "password", timeout=PATIENCE)
            with contextlib.closing(smtp):
                for _ in range(messages):
                    smtp_client.send(smtp, message)
                with contextlib.suppress(OSError):
                    smtp.quit()

        with pytest.MonkeyPatch.context() as environ, FaultySmtp(tls, faults) as server, way_to(server, cut) as way:
            environ.setenv("SSL_CERT_FILE", str(ca_folder / "ca.pem"))
            told = tell(smtp_client, once, tries)
        return Outcome(*told, server.taken)

    return attempt


@pytest.fixture(scope="module")
def over_api(ca_folder: Path, trusted: ssl.SSLContext) -> Attempt:
    """Return what sends a mail to an API with these faults, and says what became of it."""

    def attempt(
        *faults: Fault,
        tries: int = 1,
        tls: ssl.SSLContext = trusted,
        mail: object = MAIL,
        mails: int = 1,
        cut: Cut | None = None,
    ) -> Outcome:
        with pytest.MonkeyPatch.context() as environ, FaultyApi(tls, faults) as server, way_to(server, cut) as way:
            for name in ("http_proxy", "all_proxy", "no_proxy"):
                environ.setenv(name, "")
            environ.setenv("https_proxy", f"http://127.0.0.1:{way.port}")
            environ.setenv("REQUESTS_CA_BUNDLE", str(ca_folder / "ca.pem"))
            environ.setenv("NETRC", os.devnull)
            api = api_client.open_api("token", sandbox_id="4242", timeout=PATIENCE)
            for _ in range(mails):
                told = tell(api_client, lambda: api_client.send(api, mail), tries)
            api._client._session.close()
        return Outcome(*told, server.taken)

    return attempt


def assert_true(outcome: Outcome, *, said_no: bool) -> None:
    """Fail if what was reported is not what happened, or is more than anybody can know."""
    assert outcome.status in {0, 65, 69, 74, 75, 77, 78}
    assert outcome.taken <= 1, "sent twice"
    if outcome.status == 0:
        assert outcome.taken, "reported as a success, but not taken"
    elif outcome.status != 74:
        assert not outcome.taken, "reported as a failure, but taken"
    assert said_no or not outcome.safe, "to repeat it is not safe"


def variants(fault: Fault, takes: bool | None) -> list[Fault]:
    """Return the fault on a server that takes the message, or not; both if its answer leaves that open."""
    return [replace(fault, takes=taken) for taken in ((True, False) if takes is None else (takes,))]


def name_of(value: object) -> str:
    """Return a short name for a parameter."""
    return f"{value[:40]!r}" if isinstance(value, bytes) else str(value)


# SMTP


def smtp_faults(step: str, reply: bytes | None, then: str) -> list[Fault]:
    """Return the fault, in both variants if the reply leaves open whether the message is taken."""
    takes = True if reply is None else False if reply in SMTP_REFUSALS or step != "content" else None
    return variants(Fault(step, reply, then), takes)


def check_smtp(attempt: Attempt, *faults: Fault, tries: int = 1) -> Outcome:
    """Fail if the outcome is not true, or says less than can be known."""
    outcome = attempt(*faults, tries=tries)
    no = rb"4\d\d |\d+ .*emails per second|535 .*connections"
    assert_true(outcome, said_no=any(re.match(no, fault.reply or b"") for fault in faults))
    # The content is handed over once DATA is answered with 354.
    # After a disturbed RSET nobody can tell any more which command it was that had failed.
    if not any(
        fault.step in ("content", "RSET") or (fault.step == "DATA" and (fault.reply or b"354").startswith(b"354"))
        for fault in faults
    ):
        assert outcome.status != 74, "nothing had been handed over"
    return outcome


def test_without_fault_both_succeed(over_smtp: Attempt, over_api: Attempt) -> None:
    assert over_smtp() == over_api() == Outcome(0, False, "accepted", 1)


@pytest.mark.parametrize("then", CUTS)
@pytest.mark.parametrize("reply", [None, b""], ids=["answered", "unanswered"])
@pytest.mark.parametrize("step", [step for step in SMTP_STEPS if step != "RSET"])
def test_smtp_connection_breaks(over_smtp: Attempt, step: str, reply: bytes | None, then: str) -> None:
    for fault in smtp_faults(step, reply, then):
        check_smtp(over_smtp, fault)


@pytest.mark.parametrize("reply", SMTP_REFUSALS, ids=name_of)
@pytest.mark.parametrize("step", [step for step in SMTP_STEPS if step not in ("TLS", "RSET")])
def test_smtp_refusal(over_smtp: Attempt, step: str, reply: bytes) -> None:
    outcome = check_smtp(over_smtp, Fault(step, reply, "close" if reply.startswith(b"421") else "go on"))
    assert outcome.status != 74, "the server said no"
    assert (outcome.status == 0) == (step == "QUIT")


@pytest.mark.parametrize("reply", SMTP_PUZZLES, ids=name_of)
@pytest.mark.parametrize("step", [step for step in SMTP_STEPS if step != "RSET"])
def test_smtp_puzzling_reply(over_smtp: Attempt, step: str, reply: bytes) -> None:
    for fault in smtp_faults(step, reply, "close"):
        check_smtp(over_smtp, fault)


@pytest.mark.parametrize(
    "first", [b"550 5.7.1 No\r\n", b"450 4.2.0 Try later\r\n", b"299 Ok\r\n", b"what?\r\n"], ids=name_of
)
@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA", "content"])
@pytest.mark.parametrize(
    "second", [b"", LONG, b"250 " + LONG, b"421 Bye\r\n", b"what?\r\n", b"354 Go\r\n"], ids=name_of
)
def test_smtp_trouble_while_giving_up(over_smtp: Attempt, step: str, first: bytes, second: bytes) -> None:
    for fault in smtp_faults(step, first, "go on"):
        check_smtp(over_smtp, fault, Fault("RSET", second))


@pytest.mark.parametrize("extra", [*SMTP_REFUSALS, b"250 2.1.0 Ok\r\n", b"354 Go ahead\r\n", b"what?\r\n"], ids=name_of)
@pytest.mark.parametrize("step", ["greeting", "EHLO", "STARTTLS", "EHLO over TLS", "AUTH", "MAIL", "RCPT"])
def test_smtp_one_reply_too_many(over_smtp: Attempt, step: str, extra: bytes) -> None:
    right = {
        "greeting": b"220 Ready\r\n",
        "STARTTLS": b"220 Go\r\n",
        "AUTH": b"235 Ok\r\n",
        "EHLO": b"250 STARTTLS\r\n",
    }
    reply = right.get(step, b"250 AUTH PLAIN\r\n") + extra
    outcome = over_smtp(Fault(step, reply, "go on"))
    assert_true(outcome, said_no=bool(re.match(rb"4|550 .*per second|535 .*connections", extra)))
    if step == "STARTTLS":
        assert outcome.status == 69, "a reply injected before TLS was believed"


@pytest.mark.parametrize("then", CUTS)
def test_smtp_server_stops_reading_a_long_message(over_smtp: Attempt, then: str) -> None:
    long = smtp_client.build_message("hello@example.com", to=["you@example.com"], subject="Long", text="long\n" * 10**6)
    outcome = over_smtp(Fault("DATA", None, then), message=long)
    assert_true(outcome, said_no=False)
    assert outcome.status in (69, 74)


@pytest.mark.parametrize("reply", [b"250 Ok\r\n", b"250 Ok\r\n421 4.4.2 Idle for too long\r\n"], ids=name_of)
@pytest.mark.parametrize("then", ["close", "reset"])
def test_smtp_second_message_on_a_connection_that_has_gone(over_smtp: Attempt, reply: bytes, then: str) -> None:
    outcome = over_smtp(Fault("content", reply, then, takes=True), messages=2)
    assert outcome.status in (69, 75)
    assert outcome.taken == 1


smtp_replies = st.sampled_from([None, b"", *SMTP_REFUSALS, *SMTP_PUZZLES]) | st.builds(
    lambda code, text: f"{code} {text}\r\n".encode(),
    st.integers(0, 1099),
    st.sampled_from(["", "Ok", "not allowed", "connections limit", "timed out", "emails per second"]),
)


@st.composite
def smtp_trouble(draw: st.DrawFn) -> list[Fault]:
    """One fault or two, on a server that does what it says."""
    faults = []
    for step in draw(st.lists(st.sampled_from(SMTP_STEPS), min_size=1, max_size=2, unique=True)):
        reply = draw(smtp_replies)
        says = re.match(rb"([245])\d\d ", reply or b"250 ")
        takes = draw(st.booleans())
        if says and (says[1] in b"45" or says[0] == b"250 "):
            takes = says[1] == b"2"
        faults.append(
            Fault(step, reply, draw(st.sampled_from(["go on", "close", "reset"] if reply else CUTS[:2])), takes)
        )
    return faults


@settings(max_examples=150)
@given(smtp_trouble(), st.integers(1, 3))
def test_smtp_any_trouble(over_smtp: Attempt, faults: list[Fault], tries: int) -> None:
    check_smtp(over_smtp, *faults, tries=tries)


# API


def api_takes(status: int, body: object) -> bool | None:
    """Say whether a server that gives this answer has taken the message, if that is certain."""
    if 400 <= status <= 499 or (status in (500, 503) and says_error(body)):
        return False
    return True if body == SUCCESS else None


def says_error(body: object) -> bool:
    return isinstance(body, dict) and ("errors" in body or "error" in body)


def check_api(attempt: Attempt, *faults: Fault, tries: int = 1) -> Outcome:
    """Fail if the outcome is not true, or says less than can be known."""
    outcome = attempt(*faults, tries=tries)
    no = rb'HTTP/1.1 (429|50[03] .*"errors?":)'
    assert_true(outcome, said_no=any(re.match(no, fault.reply or b"", re.DOTALL) for fault in faults))
    if all(
        fault.step in ("accept", "CONNECT") or (fault.step == "TLS" and fault.reply is not None) for fault in faults
    ):
        # Reset between the yes to CONNECT and the TLS handshake, the connection is unconnected to ssl, so it leaves
        # the handshake out, and urllib3 finds it dead only where the answer should come.
        granted = any(
            (fault.reply or b"").startswith(b"HTTP/1.1 200") or (fault.step, fault.reply) == ("CONNECT", None)
            for fault in faults
        )
        assert outcome.status == 69 or (outcome.status == 74 and granted), "nothing had been handed over"
    return outcome


@pytest.mark.parametrize("then", CUTS)
@pytest.mark.parametrize("reply", [None, b""], ids=["answered", "unanswered"])
@pytest.mark.parametrize("step", API_STEPS)
def test_api_connection_breaks(over_api: Attempt, step: str, reply: bytes | None, then: str) -> None:
    for fault in variants(Fault(step, reply, then), True if reply is None and step == "body" else None):
        check_api(over_api, fault)


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize("reply", PROXY_ANSWERS, ids=name_of)
def test_api_proxy_that_does_not_connect(over_api: Attempt, reply: bytes, then: str) -> None:
    check_api(over_api, Fault("CONNECT", reply, then))


@pytest.mark.parametrize("body", API_BODIES, ids=name_of)
@pytest.mark.parametrize("status", API_STATUSES)
def test_api_answer(over_api: Attempt, status: int, body: object) -> None:
    takes = api_takes(status, body)
    for fault in variants(Fault("body", http(status, body), "go on"), takes):
        outcome = check_api(over_api, fault)
        if takes is False and isinstance(body, dict):
            assert outcome.status != 74, "the server said no"


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize("reply", API_PUZZLES, ids=name_of)
@pytest.mark.parametrize("step", ["TLS", "headers", "body"])
def test_api_puzzling_answer(over_api: Attempt, step: str, reply: bytes, then: str) -> None:
    for fault in variants(Fault(step, reply, then), None if step == "body" else False):
        check_api(over_api, fault)


PLACES = ("https://example.com/", "http://127.0.0.1:1/", "https://[", "ftp://example.com/", "")


@pytest.mark.parametrize("place", [f"https://{API_HOST}/api/send/4242", "/elsewhere", "https://", *PLACES])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_api_redirect(over_api: Attempt, status: int, place: str) -> None:
    reply = http(status, b"<h1>Over there</h1>", f"Location: {place}")
    assert_true(over_api(Fault("body", reply, "close")), said_no=False)


@pytest.mark.parametrize("place", [f"https://{API_HOST}/api/send/4242", "/elsewhere", "https://", *PLACES])
def test_api_redirect_after_taking(over_api: Attempt, place: str) -> None:
    for then in ("close", "go on"):
        reply = http(303, b"<h1>Over there</h1>", f"Location: {place}")
        assert over_api(Fault("body", reply, then, takes=True)).status == 74


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize(
    "reply", [b"", http(413, ERRORS), http(429, ERRORS), http(413, b"<h1>Too big</h1>")], ids=name_of
)
def test_api_server_stops_reading_a_long_mail(over_api: Attempt, reply: bytes, then: str) -> None:
    long = api_client.build_mail("hello@example.com", to=["you@example.com"], subject="Long", text="long\n" * 10**6)
    outcome = over_api(Fault("headers", reply, then), mail=long)
    assert_true(outcome, said_no=b" 429 " in reply)


def test_patience_has_an_end(over_smtp: Attempt, over_api: Attempt) -> None:
    assert "timed out" in over_smtp(Fault("EHLO", b"", "stall")).happened
    assert "timed out" in over_api(Fault("body", b"", "stall")).happened


@pytest.mark.parametrize("then", ["close", "reset"])
def test_api_second_mail_on_a_connection_that_has_gone(over_api: Attempt, then: str) -> None:
    outcome = over_api(Fault("body", None, then), mails=2)
    assert outcome.taken == 2 if outcome.status == 0 else (outcome.status, outcome.taken) == (74, 1)


def whole_or_part(reply: bytes) -> st.SearchStrategy[bytes]:
    """Return a strategy for the reply, whole or cut short."""
    return st.just(reply) | st.integers(0, len(reply)).map(lambda length: reply[:length])


@st.composite
def api_trouble(draw: st.DrawFn) -> list[Fault]:
    """One fault or two, on a server that does what it says."""
    faults = []
    for step in draw(st.lists(st.sampled_from(API_STEPS), min_size=1, max_size=2, unique=True)):
        status, body = draw(st.sampled_from(API_STATUSES) | st.integers(100, 699)), draw(st.sampled_from(API_BODIES))
        whole = http(status, body)
        reply = draw(st.none() | whole_or_part(whole) | st.sampled_from(API_PUZZLES))
        takes = api_takes(status, body) if reply == whole or 400 <= status <= 499 else None
        fault = Fault(step, reply, draw(st.sampled_from(["close", "reset"])))
        faults.append(draw(st.sampled_from(variants(fault, takes))))
    return faults


@settings(max_examples=150)
@given(api_trouble(), st.integers(1, 3))
def test_api_any_trouble(over_api: Attempt, faults: list[Fault], tries: int) -> None:
    check_api(over_api, *faults, tries=tries)


# Both


@pytest.mark.parametrize(
    ("arrives", "then"),
    [(slice(end), then) for end in (0, 1, -1, None) for then in CUTS[:2]] + [(slice(None), "stall")],
)
@pytest.mark.parametrize("piece", range(14))
@pytest.mark.parametrize("sender", ["client", "server"])
@pytest.mark.parametrize("script", ["over_smtp", "over_api"])
def test_the_way_is_cut(
    script: str, sender: str, piece: int, arrives: slice, then: str, request: pytest.FixtureRequest
) -> None:
    outcome = request.getfixturevalue(script)(cut=Cut(sender, piece, arrives, then))
    assert_true(outcome, said_no=False)


@settings(max_examples=150)
@given(st.sampled_from(["client", "server"]), st.integers(0, 14), st.integers(0, 1500), st.sampled_from(CUTS[:2]))
def test_the_way_is_cut_anywhere(
    over_smtp: Attempt, over_api: Attempt, sender: str, piece: int, length: int, then: str
) -> None:
    for attempt in (over_smtp, over_api):
        assert_true(attempt(cut=Cut(sender, piece, slice(length), then)), said_no=False)


@pytest.mark.parametrize("script", ["over_smtp", "over_api"])
def test_certificate_that_is_not_to_be_trusted(script: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    attempt = request.getfixturevalue(script)
    for names in ((REMOTE, API_HOST), ("example.com",)):
        outcome = attempt(tls=certify(tmp_path, *names))
        assert (outcome.status, outcome.safe, outcome.taken) == (69, False, 0)


@pytest.mark.parametrize("script", ["over_smtp", "over_api"])
def test_certificate_that_the_server_wants_from_the_client(
    script: str, request: pytest.FixtureRequest, tmp_path: Path, ca_folder: Path
) -> None:
    tls = certify(tmp_path, REMOTE, API_HOST)
    tls.verify_mode = ssl.CERT_REQUIRED
    assert_true(request.getfixturevalue(script)(tls=tls), said_no=False)


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault("content", b""), 74),
        (Fault("content", b"", takes=True), 74),
        (Fault("content", b"552 5.3.4 Error: message too big\r\n"), 65),
        *((Fault("QUIT", reply), 0) for reply in (b"", LONG, b"what?\r\n", b"421 Bye\r\n")),
    ],
)
def test_smtp_exit_status_is_as_true(
    fault: Fault, status: int, trusted: ssl.SSLContext, ca_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultySmtp(trusted, [fault]) as server:
        for name, value in {
            "SSL_CERT_FILE": str(ca_folder / "ca.pem"),
            "PYTHON_DOTENV_DISABLED": "1",
            "MAILTRAP_SMTP_HOST": REMOTE,
            "MAILTRAP_SMTP_PORT": str(server.port),
            "MAILTRAP_SMTP_USERNAME": "user",
            "MAILTRAP_SMTP_PASSWORD": "password",
            "MAILTRAP_FROM_EMAIL": "hello@example.com",
            "MAILTRAP_TO_EMAIL": "you@example.com",
        }.items():
            monkeypatch.setenv(name, value)
        assert smtp_client.main([]) == status
    assert_true(Outcome(status, False, "", server.taken), said_no=False)

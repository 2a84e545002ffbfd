"""The recipes for many messages: nobody twice, nobody forgotten, whatever happens in between."""

import os
import sqlite3
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from typing import Any

import mailtrap as mt
import pytest

import api_client
import smtp_client
from conftest import PORTS, REPOSITORY, recipe, snippet
from fake_mailtrap import LOOK_UP
from faulty import Fault, FaultyApi, FaultySmtp, http

OutcomeUnknownErrors = (smtp_client.OutcomeUnknownError, api_client.OutcomeUnknownError)
SMTP, API = "Many messages over SMTP", "A batch over the API"


pytestmark = pytest.mark.usefixtures("folder")


def messages(count: int) -> Iterator[tuple[str, Any]]:
    """Yield messages to user0@example.com and so on; the last has two recipients."""
    for number in range(count):
        to = [f"user{number}@example.com"]
        to += ["second@example.com"] * (number == count - 1)
        yield f"user{number}", smtp_client.build_message("a@b.c", to=to, subject="x", text="x")


def mails(count: int) -> Iterator[tuple[str, Any]]:
    for number in range(count):
        to = [mt.Address("invalid" if number == 700 else f"user{number}@example.com")]
        yield f"user{number}", mt.BatchEmailRequest(to=to)


def run_until_through(send: Any, pairs: Any) -> int:
    """Run again after each error, up to three times; return how many errors there were."""
    for errors in range(4):
        try:
            send(pairs())
            return errors
        except Exception as error:
            traceback.clear_frames(error.__traceback__)  # or they keep the connection
    return 4


def judge(
    ledger: sqlite3.Connection, taken: list[list[str]], count: int, output: str
) -> Counter[str]:
    """Check the ledger against what the server took; return how often each state is there."""
    states = dict(ledger.execute("SELECT id, state FROM mails"))
    ledger.close()
    assert set(states) == {f"user{number}" for number in range(count)}
    mailed = Counter(email.partition("@")[0] for people in taken for email in people)
    assert set(mailed.values()) == {1}, "nobody is mailed twice"
    for mail_id, state in states.items():
        assert state == "unknown" or (mail_id in mailed) == (state == "sent" or "second" in state)
    unsettled = {mail_id: state for mail_id, state in states.items() if state != "sent"}
    assert output.splitlines()[-1] == f"Unsettled: {unsettled}"
    return Counter(state.partition(":")[0] for state in states.values())


def after(step: str, reply: bytes | None, then: str = "go on", *, takes: bool = False) -> Fault:
    return Fault(step, reply, then, takes, at=(120,))


# what happens, the faults, how many are refused and unknown, how often it has to be run
SMTP_TROUBLE = {
    "nothing": ([], 0, 0, 1),
    "the server closes between two messages": ([after("content", None, "close")], 0, 0, 1),
    "the server resets between two messages": ([after("content", None, "reset")], 0, 0, 1),
    "the server closes after every 50": (
        [Fault("content", None, "close", at=range(50, 250, 50))],
        0,
        0,
        1,
    ),
    "a recipient is refused": ([after("RCPT", b"550 5.1.1 No such user\r\n")], 1, 0, 1),
    "the content is refused": ([after("content", b"554 5.6.0 Spam\r\n")], 1, 0, 1),
    "one of two is refused": (
        [Fault("RCPT", b"550 5.1.1 No such user\r\n", at=(251,))],
        1,
        0,
        1,
    ),
    "451 to RCPT": ([after("RCPT", b"451 4.3.0 Later\r\n")], 0, 0, 1),
    "451 to DATA": ([after("DATA", b"451 4.3.0 Later\r\n")], 0, 0, 1),
    "421 to MAIL": ([after("MAIL", b"421 4.3.0 Bye\r\n", "close")], 0, 0, 1),
    "454 at a later login": ([Fault("AUTH", b"454 4.7.0 Later\r\n", at=(2,))], 0, 0, 1),
    "535 5.7.8 at a later login": (
        [Fault("AUTH", b"535 5.7.8 Too many connections per account\r\n", at=(2,))],
        0,
        0,
        1,
    ),
    "a wrong login": ([Fault("AUTH", b"535 5.7.0 Invalid login or password\r\n")], 0, 0, 2),
    "the quota at a later login": (
        [Fault("AUTH", b"535 5.7.0 The email limit is reached\r\n", at=(2,))],
        0,
        0,
        2,
    ),
    "an unverified domain": (
        [after("MAIL", b"550 5.7.1 Sending from domain b.c is not allowed\r\n")],
        0,
        0,
        2,
    ),
    "a cut after the content, which was taken": (
        [after("content", b"", "close", takes=True)],
        0,
        1,
        4,
    ),
    "a cut after the content, which was not taken": ([after("content", b"", "close")], 0, 1, 4),
    "a reset inside the content": ([after("content", None, "reset inside")], 0, 1, 4),
    "a server that is busy for long": (
        [Fault("MAIL", b"451 4.3.0 Busy\r\n", at=range(120, 125))],
        0,
        0,
        2,
    ),
}


@pytest.mark.parametrize(
    ("faults", "refused", "unknown", "runs"), SMTP_TROUBLE.values(), ids=list(SMTP_TROUBLE)
)
def test_many_messages_over_smtp(faults, refused, unknown, runs, fake, monkeypatch, pauses, capsys):
    names = recipe(SMTP)
    with FaultySmtp(fake.tls, *faults) as server:
        monkeypatch.setitem(PORTS, 2525, server.port)
        server.per_connection = 100
        errors = run_until_through(names.send_many, lambda: messages(250))
    assert errors == (runs if unknown else runs - 1)
    found = judge(names.ledger, server.taken, 250, capsys.readouterr().out)
    assert found == Counter(sent=250 - refused - unknown, refused=refused, unknown=unknown)


def test_the_rate_limit_slows_it_down(fake, pauses, capsys):
    names = recipe(SMTP)
    fake.rate = 60
    names.send_many(messages(250))
    taken = [captured.recipients for captured in fake.messages]
    assert judge(names.ledger, taken, 250, capsys.readouterr().out) == {"sent": 250}
    assert sum(pauses) >= 30, "250 messages, of which 60 may be sent in 10 s"


def test_the_limit_of_a_connection_is_respected_without_waiting(fake, monkeypatch, pauses):
    names = recipe(SMTP)
    with FaultySmtp(fake.tls) as server:
        monkeypatch.setitem(PORTS, 2525, server.port)
        server.per_connection = 100
        names.send_many(messages(250))
    names.ledger.close()
    assert (server.steps["AUTH"], pauses) == (3, [])


NO = {"errors": ["Unauthorized"]}
BUSY = http(429, {"errors": ["Rate limit exceeded"]})
FEWER = http(200, {"success": True, "responses": [{"success": True, "message_ids": ["1"]}]})


def second(reply: bytes | None, then: str = "go on", *, takes: bool = False) -> Fault:
    return Fault("body", reply, then, takes, at=(2,))


# what happens in the second of three calls, the fault, how many are unknown, errors of four runs
API_TROUBLE = {
    "nothing": ([], 0, 0),
    "429 twice": ([Fault("body", BUSY, at=(2, 3))], 0, 0),
    "500 once": ([second(http(500, {"errors": ["Internal server error"]}))], 0, 0),
    "401 once": ([second(http(401, NO))], 0, 1),
    "the quota": ([second(http(429, {"errors": ["The email limit is reached."]}))], 0, 1),
    "502 after it was taken": ([second(http(502, b"<h1>Bad gateway</h1>"), takes=True)], 500, 4),
    "502 before it was taken": ([second(http(502, b"<h1>Bad gateway</h1>"))], 500, 4),
    "a reset after it was taken": ([second(b"", "reset", takes=True)], 500, 4),
    "a reset before it was taken": ([second(b"", "reset")], 500, 4),
    "fewer answers than mails": ([second(FEWER, takes=True)], 500, 4),
    "a closed connection between two calls": ([Fault("body", None, "close")], 0, 0),
}


@pytest.mark.parametrize(
    ("faults", "unknown", "errors"), API_TROUBLE.values(), ids=list(API_TROUBLE)
)
def test_many_mails_over_the_api(faults, unknown, errors, fake, monkeypatch, pauses, capsys):
    names = recipe(API)
    with FaultyApi(fake.tls, *faults) as server:
        monkeypatch.setitem(PORTS, 443, server.port)
        assert run_until_through(names.send_batches, lambda: mails(1200)) == errors
        names.api._client._session.close()
    refused = 0 if unknown else 1  # the invalid address is in the second call
    found = judge(names.ledger, server.taken, 1200, capsys.readouterr().out)
    assert found == Counter(sent=1200 - unknown - refused, refused=refused, unknown=unknown)


def test_an_unreachable_network_at_the_first_run_marks_nobody(fake, monkeypatch, capsys):
    names = recipe(API)
    with monkeypatch.context() as unreachable:
        unreachable.setitem(PORTS, 443, 1)
        with pytest.raises(OSError, match="refused"):
            names.send_batches(mails(1200))
    assert names.ledger.execute("SELECT * FROM mails").fetchall() == []
    names.send_batches(mails(1200))
    taken = [captured.recipients for captured in fake.messages]
    found = judge(names.ledger, taken, 1200, capsys.readouterr().out)
    assert found == {"sent": 1199, "refused": 1}


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize(
    ("title", "kind", "call", "pairs", "count", "unknown"),
    [
        (SMTP, FaultySmtp, "send_many(test_recipes.messages(250))", messages, 250, 1),
        (API, FaultyApi, "send_batches(test_recipes.mails(1200))", mails, 1200, 500),
    ],
    ids=["SMTP", "API"],
)
def test_it_can_be_killed_and_run_again(
    title, kind, call, pairs, count, unknown, fake, tmp_path, monkeypatch, capsys
):
    (tmp_path / "recipe.py").write_text(snippet(title))
    step, at = ("content", 120) if kind is FaultySmtp else ("body", 2)
    with kind(fake.tls, Fault(step, b"", "stall", takes=True, at=(at,))) as server:
        look_up = LOOK_UP.format(smtp_port=server.port, api_port=server.port)
        (tmp_path / "sitecustomize.py").write_text(look_up)
        path = os.pathsep.join([str(tmp_path), str(REPOSITORY), str(REPOSITORY / "tests")])
        program = [sys.executable, "-c", f"import recipe, test_recipes; recipe.{call}"]
        with subprocess.Popen(program, env={**os.environ, "PYTHONPATH": path}) as process:
            while server.steps[step] < at:
                time.sleep(0.01)
            process.kill()
        monkeypatch.setitem(PORTS, 2525, server.port)
        monkeypatch.setitem(PORTS, 443, server.port)
        names = recipe(title)
        with pytest.raises(OutcomeUnknownErrors):
            (names.send_many if kind is FaultySmtp else names.send_batches)(pairs(count))
    found = judge(names.ledger, server.taken, count, capsys.readouterr().out)
    assert found["unknown"] == unknown


def test_the_demonstrations_run_as_printed(fake, tmp_path, capsys):
    for title in (SMTP, API):
        recipe(title, name="__main__")
    assert capsys.readouterr().out == "Unsettled: {}\n" * 2
    assert fake.messages[0].recipients == ["ann@e.com"]
    assert [one.recipients for one in fake.messages[1:]] == [["ann@e.com"], ["bob@e.com"]]

"""The recipes for many messages: nobody twice, nobody forgotten, whatever happens in between."""

import os
import sqlite3
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
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


def at(number: int, step: str, reply: bytes | None, then: str = "go on", **more: bool) -> Fault:
    """Return a fault that happens when the step is reached for that time."""
    return Fault(step, reply, then, at=(number,), **more)


LATER = b"451 4.3.0 Later\r\n"
NO_LOGIN_YET = b"454 4.7.0 Later\r\n"
NO_MORE_LOGINS = b"535 5.7.8 Too many connections per account\r\n"
WRONG_LOGIN = b"535 5.7.0 Invalid login or password\r\n"
QUOTA = b"535 5.7.0 The email limit is reached. Please upgrade\r\n"
NO_SUCH_USER = b"550 5.1.1 No such user\r\n"
UNVERIFIED = b"550 5.7.1 Sending from domain b.c is not allowed\r\n"

# what happens: the faults, how many are refused and how many unknown, how often it is run
SMTP_TROUBLE = {
    "nothing": ([], 0, 0, 1),
    "a close between two messages": ([at(120, "content", None, "close")], 0, 0, 1),
    "a reset between two messages": ([at(120, "content", None, "reset")], 0, 0, 1),
    "a close after every 50": ([Fault("content", None, "close", at=range(50, 250, 50))], 0, 0, 1),
    "a recipient is refused": ([at(120, "RCPT", NO_SUCH_USER)], 1, 0, 1),
    "the content is refused": ([at(120, "content", b"554 5.6.0 Spam\r\n")], 1, 0, 1),
    "a message is too big": ([at(120, "MAIL", b"552 5.3.4 Error: message too big\r\n")], 1, 0, 1),
    "one of two is refused": ([at(251, "RCPT", NO_SUCH_USER)], 1, 0, 1),
    "one of two is refused for now": ([at(251, "RCPT", LATER)], 1, 0, 1),
    "451 to RCPT": ([at(120, "RCPT", LATER)], 0, 0, 1),
    "451 to DATA": ([at(120, "DATA", LATER)], 0, 0, 1),
    "421 to MAIL": ([at(120, "MAIL", b"421 4.3.0 Bye\r\n", "close")], 0, 0, 1),
    "454 at a later login": ([at(2, "AUTH", NO_LOGIN_YET)], 0, 0, 1),
    "535 5.7.8 at a later login": ([at(2, "AUTH", NO_MORE_LOGINS)], 0, 0, 1),
    "a wrong login": ([at(1, "AUTH", WRONG_LOGIN)], 0, 0, 2),
    "the quota at a later login": ([at(2, "AUTH", QUOTA)], 0, 0, 2),
    "an unverified domain": ([at(120, "MAIL", UNVERIFIED)], 0, 0, 2),
    "a busy server": ([Fault("MAIL", LATER, at=range(120, 125))], 0, 0, 2),
    "a cut after the content that was taken": (
        [at(120, "content", b"", "close", takes=True)],
        0,
        1,
        4,
    ),
    "a cut after the content that was not": ([at(120, "content", b"", "close")], 0, 1, 4),
    "a reset inside the content": ([at(120, "content", None, "reset inside")], 0, 1, 4),
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


NO = http(401, {"errors": ["Unauthorized"]})
BUSY = http(429, {"errors": ["Rate limit exceeded"]})
BROKEN = http(500, {"errors": ["Internal server error"]})
USED_UP = http(429, {"errors": ["The email limit is reached. Please upgrade"]})
GATEWAY = http(502, b"<h1>Bad gateway</h1>")
FEWER = http(200, {"success": True, "responses": [{"success": True, "message_ids": ["1"]}]})

# what happens in the second of three calls: the fault, how many are unknown, errors of four runs
API_TROUBLE = {
    "nothing": ([], 0, 0),
    "429 twice": ([Fault("body", BUSY, at=(2, 3))], 0, 0),
    "500 once": ([at(2, "body", BROKEN)], 0, 0),
    "401 once": ([at(2, "body", NO)], 0, 1),
    "the quota": ([at(2, "body", USED_UP)], 0, 1),
    "502 after it was taken": ([at(2, "body", GATEWAY, takes=True)], 500, 4),
    "502 before it was taken": ([at(2, "body", GATEWAY)], 500, 4),
    "a reset after it was taken": ([at(2, "body", b"", "reset", takes=True)], 500, 4),
    "a reset before it was taken": ([at(2, "body", b"", "reset")], 500, 4),
    "fewer answers than mails": ([at(2, "body", FEWER, takes=True)], 500, 4),
    "a close between two calls": ([at(1, "body", None, "close")], 0, 0),
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


def test_mails_that_need_a_verified_domain_first_are_not_marked(fake, monkeypatch, capsys):
    """Live, Mailtrap says so for each mail of a batch that it has accepted as a whole."""
    answers = [
        {"success": True, "message_ids": ["1"]},
        {"success": False, "errors": ["Unauthorized"]},
    ]
    partly = http(200, {"success": True, "responses": answers})
    names = recipe(API)
    with FaultyApi(fake.tls, Fault("body", partly)) as server:
        monkeypatch.setitem(PORTS, 443, server.port)
        with pytest.raises(RuntimeError, match="verify the domain"):
            names.send_batches(mails(2))
        names.api._client._session.close()
    assert names.ledger.execute("SELECT * FROM mails").fetchall() == [("user0", "sent")]
    names.ledger.close()


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
        if kind is FaultyApi:
            names.api._client._session.close()
    found = judge(names.ledger, server.taken, count, capsys.readouterr().out)
    assert found["unknown"] == unknown


def test_the_demonstrations_run_as_printed(fake, tmp_path, capsys):
    for title in (SMTP, API):
        fake.reset()
        recipe(title, name="__main__")
        assert capsys.readouterr().out == "Unsettled: {}\n"
        assert len(snippet(title).splitlines()) <= 60
        Path("sent.db").unlink()
    assert [one.recipients for one in fake.messages] == [["ann@e.com"]]

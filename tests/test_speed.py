"""No time is asserted: round trips are counted, memory is watched, and the benchmark runs once, small."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import api_client
import benchmark
import smtp_client
from benchmark import Distance
from conftest import REPOSITORY, Run
from fake_mailtrap import FakeMailtrap

AT_ONCE = ["connect", "greeting", "EHLO", "STARTTLS", "TLS handshake", "EHLO", "AUTH"]
PER_MESSAGE = ["MAIL", "RCPT", "DATA", "content"]


@pytest.fixture
def without_tickets(fake: FakeMailtrap) -> Iterator[None]:
    """Have no session tickets sent between the client's last word of the handshake and its first command."""
    fake.tls.num_tickets = 0
    yield
    fake.tls.num_tickets = 2


@pytest.mark.parametrize("mechanisms", ["PLAIN LOGIN CRAM-MD5", "CRAM-MD5 LOGIN PLAIN", "PLAIN"])
def test_smtp_waits_no_oftener_than_the_protocol_asks(
    mechanisms: str, run: Run, fake: FakeMailtrap, without_tickets: None
) -> None:
    fake.mechanisms = mechanisms
    way = Distance(fake.loop, fake.smtp_port, 0)
    assert run("smtp_client", MAILTRAP_SMTP_PORT=str(way.port)).returncode == 0
    assert way.waits == len([*AT_ONCE, *PER_MESSAGE, "QUIT"])


def test_the_api_waits_no_oftener_than_the_protocol_asks(
    run: Run, fake: FakeMailtrap, without_tickets: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = Distance(fake.loop, fake.api_port, 0)
    monkeypatch.setattr(fake, "api_port", way.port)
    assert run("api_client").returncode == 0
    assert way.waits == len(["connect", "TLS handshake", "request"])


def test_further_messages_need_no_new_connection(
    call: Run, fake: FakeMailtrap, without_tickets: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("api_client", "--dry-run")  # sets the environment
    over_smtp, over_api = (Distance(fake.loop, port, 0) for port in (fake.smtp_port, fake.api_port))
    monkeypatch.setattr(fake, "api_port", over_api.port)
    message = smtp_client.build_message("a@example.com", to=["b@example.com"], subject="Hello", text="It works.")
    with smtp_client.connect("127.0.0.1", over_smtp.port, fake.username, fake.password) as smtp:
        assert smtp.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        for _ in range(5):
            assert smtp_client.send(smtp, message) == {}
        assert over_smtp.waits == len([*AT_ONCE, *PER_MESSAGE * 5])
    api = api_client.open_api(fake.token, "sandbox", fake.sandbox_id)
    mail = api_client.build_mail("a@example.com", to=["b@example.com"], subject="Hello", text="It works.")
    for _ in range(5):
        api_client.send(api, mail)
    assert over_api.waits == len(["connect", "TLS handshake", *["request"] * 5])


MEMORY = """
import gc, sys, tracemalloc
import benchmark

send = getattr(benchmark, sys.argv[1])
tracemalloc.start()
send(100)
gc.collect()
before, _ = tracemalloc.get_traced_memory()
send(300)
gc.collect()
print(tracemalloc.get_traced_memory()[0] - before)
"""


@pytest.mark.parametrize("send", ["smtp_on_one_connection", "api_on_one_session"])
def test_memory_does_not_grow_with_the_number_of_messages(send: str, fake: FakeMailtrap) -> None:
    fake.size = 10**9
    result = subprocess.run(
        [sys.executable, "-c", MEMORY, send],
        env={**os.environ, **fake.settings, "NETRC": os.devnull, "PYTHONPATH": str(REPOSITORY / "tests")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr, len(fake.messages)) == (0, "", 400)
    assert int(result.stdout) < 300 * 150  # bytes; a message is of many hundreds


def test_ten_workers_may_send_at_once(fake: FakeMailtrap, call: Run) -> None:
    call("api_client", "--dry-run")  # sets the environment
    send: Callable[[int], None]
    for send in (benchmark.smtp_on_one_connection, benchmark.api_on_one_session):
        fake.reset()
        with ThreadPoolExecutor(10) as pool:
            list(pool.map(send, [5] * 10))
        assert len(fake.messages) == 50


def test_the_benchmark_measures_what_the_readme_shows() -> None:
    rtts, counts = [0, 5], [20, 10]
    measured = benchmark.table(rtts, counts, benchmark.measure(rtts, singles=1, rounds=1, counts=counts))
    readme = (REPOSITORY / "README.md").read_text("utf-8")

    def first_cells(table: str) -> list[str]:
        return [line.split("|")[1].strip() for line in table.splitlines() if not re.match(r"\| (swaks|-)", line)]

    [shown] = re.findall(r"^\| one message, whole.*\n(?:\|.*\n)+", readme, re.MULTILINE)
    assert first_cells(shown) == first_cells(measured)
    [heading, rule, *rows] = measured.splitlines()
    assert heading.count("|") == rule.count("|") == 4
    for row in rows:
        assert re.search(r"messages\*\* \|$|( \| \d+\.\d\d \([\d.]+, [\d.]+ to [\d.]+\)){2} \|$", row)

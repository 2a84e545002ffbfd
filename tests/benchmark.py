"""Measure one message and many over both transports, and print the table that the README carries.

    python tests/benchmark.py            about half an hour
    python tests/benchmark.py --quick    less than a minute

Client and server are on this machine; a proxy between them makes the way as long as the round-trip time says. The
variants take turns, so that whatever else the machine does falls on all of them.
"""

import asyncio
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import mailtrap as mt

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

import api_client  # noqa: E402
import smtp_client  # noqa: E402
from fake_mailtrap import FakeMailtrap  # noqa: E402

PLAIN_SMTP = """
import os, smtplib, ssl
from email.message import EmailMessage

message = EmailMessage()
message["From"] = os.environ["MAILTRAP_FROM_EMAIL"]
message["To"] = os.environ["MAILTRAP_TO_EMAIL"]
message["Subject"] = "Hello"
message.set_content("It works.")
with smtplib.SMTP(os.environ["MAILTRAP_SMTP_HOST"], int(os.environ["MAILTRAP_SMTP_PORT"])) as smtp:
    smtp.starttls(context=ssl.create_default_context())
    smtp.login(os.environ["MAILTRAP_SMTP_USERNAME"], os.environ["MAILTRAP_SMTP_PASSWORD"])
    smtp.send_message(message)
"""

PLAIN_API = """
import os
import mailtrap as mt

sender, to = mt.Address("hello@example.com", "Mailtrap Test"), [mt.Address(os.environ["MAILTRAP_TO_EMAIL"])]
client = mt.MailtrapClient(os.environ["MAILTRAP_API_TOKEN"], sandbox=True, inbox_id=os.environ["MAILTRAP_SANDBOX_ID"])
client.send(mt.Mail(sender=sender, to=to, subject="Hello", text="It works."))
"""


class Distance:
    """A TCP proxy on a free port of 127.0.0.1, away from the target port by rtt seconds, there and back."""

    def __init__(self, loop: asyncio.AbstractEventLoop, target: int, rtt: float) -> None:
        """Listen, in a loop that runs in another thread."""
        self.target, self.rtt = target, rtt
        self.chunks = ""
        """Who sent what, in order: c for the client, s for the server."""
        self._connections: set[asyncio.Task[None] | None] = set()  # or they might be collected as garbage
        starting = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", 0), loop)
        self._server = starting.result(10)
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def waits(self) -> int:
        """How often the client had to wait for the server, TCP connect included."""
        return 1 + len(re.findall("s+", self.chunks))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(asyncio.current_task())
        accepted = asyncio.get_running_loop().time()
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self.target)
        # After SYN and SYN-ACK the client may speak, the server after half a round trip more.
        await asyncio.gather(
            self._carry("c", reader, to_server, accepted + self.rtt),
            self._carry("s", from_server, writer, accepted + 1.5 * self.rtt),
        )
        self._connections.discard(asyncio.current_task())

    async def _carry(
        self, who: str, source: asyncio.StreamReader, sink: asyncio.StreamWriter, not_before: float
    ) -> None:
        loop = asyncio.get_running_loop()
        at_its_end = False
        while not at_its_end:
            try:
                chunk = await source.read(65536)
            except OSError:
                chunk = b""
            at_its_end = not chunk
            self.chunks += who * bool(chunk)
            arrival = max(loop.time(), not_before) + self.rtt / 2
            loop.call_at(arrival, *((sink.close,) if at_its_end else (sink.write, chunk)))


LOOK_UP = """
import socket
resolve = socket.getaddrinfo

def look_up(host, port, *rest, **more):
    return resolve(*(("127.0.0.1", {port}) if host in ({host!r}, {host!r}.encode()) else (host, port)), *rest, **more)

socket.getaddrinfo = look_up
"""
"""What each Python runs first, in place of an entry in the name service. Not HTTPS_PROXY: urllib3 leaves Nagle's
algorithm on for proxies, which costs 40 ms a message on a kept connection."""


@contextmanager
def at_a_distance(fake: FakeMailtrap, rtt: float) -> Iterator[dict[str, str]]:
    """Put both servers at a distance of rtt seconds; yield the environment in which they are to be found there."""
    smtp, api = (Distance(fake.loop, port, rtt) for port in (fake.smtp_port, fake.api_port))
    look_up = LOOK_UP.format(host="sandbox.api.mailtrap.io", port=api.port)
    (fake.folder / "sitecustomize.py").write_text(look_up, "utf-8")
    yield {
        **os.environ,
        **fake.settings,
        "MAILTRAP_SMTP_PORT": str(smtp.port),
        "PYTHONPATH": str(fake.folder),
        "NO_PROXY": "*",
        "no_proxy": "*",
        "NETRC": os.devnull,
    }


# One message: whole processes, with all that Python takes to start.

UNTICKETED = ", no session tickets"
"""Servers that send none right after the TLS handshake leave the client's EHLO to Nagle's algorithm."""


def commands(environ: dict[str, str]) -> dict[str, list[str]]:
    """Return the programs to compare, by what the table calls them."""
    python = sys.executable
    found = {
        "plain smtplib": [python, "-c", PLAIN_SMTP],
        "smtp_client.py": [python, str(REPOSITORY / "smtp_client.py")],
        "swaks": [
            *("swaks", "--server", environ["MAILTRAP_SMTP_HOST"], "--port", environ["MAILTRAP_SMTP_PORT"]),
            *("-tls", "--tls-verify", "--tls-ca-path", environ["SSL_CERT_FILE"]),
            *("--auth-user", environ["MAILTRAP_SMTP_USERNAME"], "--auth-password", environ["MAILTRAP_SMTP_PASSWORD"]),
            *("--from", "hello@example.com", "--to", environ["MAILTRAP_TO_EMAIL"]),
        ],
        "plain SDK": [python, "-c", PLAIN_API],
        "api_client.py": [python, str(REPOSITORY / "api_client.py")],
    }
    if not shutil.which("swaks"):
        del found["swaks"]
    return found | {name + UNTICKETED: found[name] for name in ("plain smtplib", "smtp_client.py")}


def seconds_of(command: list[str], environ: dict[str, str]) -> float:
    """Run a command that must succeed; return how long it took."""
    started = time.perf_counter()
    subprocess.run(command, env=environ, check=True, capture_output=True)
    return time.perf_counter() - started


# Many messages: only the sending, in a process of its own.


def smtp_connection_per_message(count: int) -> None:
    """Connect, send, quit, again and again."""
    for _ in range(count):
        smtp_on_one_connection(1)


def smtp_on_one_connection(count: int) -> None:
    """Send on one connection, and on a new one after 100 messages, which is Mailtrap's limit."""
    settings = smtp_client.read_settings(os.environ)
    message = smtp_client.build_message(
        settings["MAILTRAP_FROM_EMAIL"], to=[settings["MAILTRAP_TO_EMAIL"]], subject="Hello", text="It works."
    )
    for start in range(0, count, 100):
        with smtp_client.connect(
            settings["MAILTRAP_SMTP_HOST"],
            int(settings["MAILTRAP_SMTP_PORT"]),
            settings["MAILTRAP_SMTP_USERNAME"],
            settings["MAILTRAP_SMTP_PASSWORD"],
        ) as smtp:
            for _ in range(min(100, count - start)):
                smtp_client.send(smtp, message)


def build_mail() -> mt.Mail | mt.MailFromTemplate:
    """Return the message that all API variants send."""
    settings = api_client.read_settings(os.environ)
    return api_client.build_mail(
        settings["MAILTRAP_FROM_EMAIL"], to=[settings["MAILTRAP_TO_EMAIL"]], subject="Hello", text="It works."
    )


def api_session_per_message(count: int) -> None:
    """Send as the SDK's own examples do."""
    settings, mail = api_client.read_settings(os.environ), build_mail()
    client = mt.MailtrapClient(settings["MAILTRAP_API_TOKEN"], sandbox=True, inbox_id=settings["MAILTRAP_SANDBOX_ID"])
    for _ in range(count):
        client.send(mail)


def api_on_one_session(count: int) -> None:
    """Send on one connection."""
    settings, mail = api_client.read_settings(os.environ), build_mail()
    api = api_client.open_api(settings["MAILTRAP_API_TOKEN"], "sandbox", settings["MAILTRAP_SANDBOX_ID"])
    for _ in range(count):
        api_client.send(api, mail)


def api_batch(count: int) -> None:
    """Send 500 messages a call."""
    settings, mail = api_client.read_settings(os.environ), build_mail()
    api = api_client.open_api(settings["MAILTRAP_API_TOKEN"], "sandbox", settings["MAILTRAP_SANDBOX_ID"])
    for start in range(0, count, 500):
        requests = [mt.BatchEmailRequest(to=mail.to)] * min(500, count - start)
        base = mt.BatchMail(sender=mail.sender, subject="Hello", text="It works.")
        response = api.batch_send(mt.BatchSendEmailParams(base=base, requests=requests))
        assert all(one.success for one in response.responses)


MANY = {
    "SMTP, a connection per message": (smtp_connection_per_message, 1),
    "SMTP, one connection": (smtp_on_one_connection, 1),
    "API, `client.send()` in a loop": (api_session_per_message, 1),
    "API, one `open_api()`": (api_on_one_session, 1),
    "API, batch": (api_batch, 1),
    "SMTP, a connection per message, 10 workers": (smtp_connection_per_message, 10),
    "SMTP, one connection each, 10 workers": (smtp_on_one_connection, 10),
    "API, `client.send()` in a loop, 10 workers": (api_session_per_message, 10),
    "API, one `open_api()` each, 10 workers": (api_on_one_session, 10),
}


def send_many(what: str, count: int) -> None:
    """Send count messages, and print how many seconds it took."""
    send, workers = MANY[what]
    with ThreadPoolExecutor(workers) as pool:
        started = time.perf_counter()
        list(pool.map(send, [count // workers] * workers))
        print(time.perf_counter() - started)


# The table


def measure(rtts: list[int], *, singles: int, rounds: int, counts: list[int]) -> dict[str, list[list[float]]]:
    """Return the seconds of each round, for each variant and each round-trip time (milliseconds).

    singles is the number of rounds of one message; counts has how many messages many are at each round-trip time.
    """
    seconds: dict[str, list[list[float]]] = {}
    with FakeMailtrap() as fake:
        tickets = fake.tls.num_tickets
        fake.connections = 1000  # with 10 workers, more than 10 are open while some still close
        for column, (rtt, count) in enumerate(zip(rtts, counts, strict=True)):
            with at_a_distance(fake, rtt / 1000) as environ:
                found = commands(environ)
                for name in (*found, *MANY):
                    seconds.setdefault(name, []).append([])
                for name, command in [*found.items()] * singles:
                    fake.tls.num_tickets = 0 if name.endswith(UNTICKETED) else tickets
                    seconds[name][column].append(seconds_of(command, environ))
                fake.tls.num_tickets = tickets
                for name in [*MANY] * rounds:
                    before = len(fake.messages)
                    command = [sys.executable, __file__, "--send", name, str(count)]
                    result = subprocess.run(command, env=environ, check=True, stdout=subprocess.PIPE, text=True)
                    assert len(fake.messages) - before == count
                    seconds[name][column].append(float(result.stdout))
                    fake.reset()
                    fake.connections = 1000
    return seconds


def table(rtts: list[int], counts: list[int], seconds: dict[str, list[list[float]]]) -> str:
    """Return the measured times as a Markdown table: ratio of the medians, median, least and most."""

    def row(name: str, base: str, *, faster: bool, unit: float) -> str:
        cells = []
        for times, base_times in zip(seconds[name], seconds[base], strict=True):
            ratio = statistics.median(times) / statistics.median(base_times)
            shown = [
                f"{value / unit:{'.0f' if value / unit >= 100 else '.2g'}}"
                for value in (statistics.median(times), min(times), max(times))
            ]
            cells.append("{:.2f} ({}, {} to {})".format(1 / ratio if faster else ratio, *shown))
        return f"| {name} | {' | '.join(cells)} |"

    head = [f"| one message, whole process: time, less is better (ms) | {' | '.join(f'{rtt} ms' for rtt in rtts)} |"]
    head.append("|---|" + "---|" * len(rtts))
    ones = [row(name, "plain smtplib", faster=False, unit=1e-3) for name in seconds if name not in MANY]
    many = [
        f"| **many messages: speed, more is better (s)** | {' | '.join(f'**{count} messages**' for count in counts)} |"
    ]
    many += [row(name, next(iter(MANY)), faster=True, unit=1) for name in MANY]
    return "\n".join(head + ones + many)


def main(arguments: list[str]) -> None:
    """Measure and print the table, or be one of the processes that are measured."""
    if arguments[:1] == ["--send"]:
        send_many(arguments[1], int(arguments[2]))
    elif arguments == ["--quick"]:
        print(table([0, 20], [20, 20], measure([0, 20], singles=5, rounds=1, counts=[20, 20])))
    elif not arguments:
        rtts, counts = [0, 20, 100], [500, 500, 100]
        print(table(rtts, counts, measure(rtts, singles=21, rounds=3, counts=counts)))
    else:
        print(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Measure both transports, for one message and for many, and print the table for README.md.

    python tests/benchmark.py            takes seven minutes
    python tests/benchmark.py --quick    takes seconds, as everything is done only once

The server is the stand-in on this machine; a proxy adds the round-trip time. The variants take
turns, so that whatever else the machine does falls on all of them, and their medians are compared.
"""

import asyncio
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

import mailtrap as mt
from fake_mailtrap import FakeMailtrap

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import api_client
import smtp_client

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
sandbox = os.environ["MAILTRAP_SANDBOX_ID"]
client = mt.MailtrapClient(os.environ["MAILTRAP_API_TOKEN"], sandbox=True, inbox_id=sandbox)
sender, to = mt.Address("hello@example.com"), [mt.Address(os.environ["MAILTRAP_TO_EMAIL"])]
client.send(mt.Mail(sender=sender, to=to, subject="Hello", text="It works."))
"""
# Leads port 443 to the stand-in. HTTPS_PROXY would cost a round trip, and 40 ms for each message
# on a kept connection, as urllib3 leaves Nagle's algorithm on for proxies.
LOOK_UP = """
import socket
look_up = socket.getaddrinfo
socket.getaddrinfo = lambda host, port, *rest, **more: look_up(
    "127.0.0.1", {port} if port == 443 else port, *rest, **more
)
"""
CONTENT = {"to": ["you@example.com"], "subject": "Hello", "text": "It works."}


def at_distance(port: int, rtt: float) -> int:
    """Return the port of a TCP proxy that makes another port seem rtt seconds away, and back."""

    async def carry(source, sink, first):
        loop = asyncio.get_running_loop()
        arrival = loop.time() + first
        with suppress(OSError):
            while piece := await source.read(65536):
                arrival = max(arrival + 1e-6, loop.time() + rtt / 2)  # none overtakes another
                loop.call_at(arrival, sink.write, piece)
        loop.call_at(max(arrival + 1e-6, loop.time() + rtt / 2), sink.close)

    async def serve(reader, writer):
        from_server, to_server = await asyncio.open_connection("127.0.0.1", port)
        to = carry(reader, to_server, 1.5 * rtt)  # after SYN and SYN-ACK the client may speak,
        back = carry(from_server, writer, 2 * rtt)  # the server half a round trip later
        await asyncio.gather(to, back)

    loop = asyncio.new_event_loop()
    proxy = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return proxy.sockets[0].getsockname()[1]


def run(*command: str) -> None:
    """Run Python."""
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)


def send_smtp(connections: int, messages: int) -> None:
    """Send messages on each of the connections."""
    port, login = int(os.environ["MAILTRAP_SMTP_PORT"]), (FakeMailtrap.username, FakeMailtrap.password)
    message = smtp_client.build_message("hello@example.com", **CONTENT)
    for _ in range(connections):
        with smtp_client.connect("127.0.0.1", port, *login) as smtp:
            for _ in range(messages):
                smtp_client.send(smtp, message)


def send_api(count: int) -> None:
    """Send messages on one connection."""
    api = api_client.open_api(FakeMailtrap.token, "sandbox", FakeMailtrap.sandbox_id)
    mail = api_client.build_mail("hello@example.com", **CONTENT)
    for _ in range(count):
        api_client.send(api, mail)


def send_batch(count: int) -> None:
    """Send messages in one call."""
    api = api_client.open_api(FakeMailtrap.token, "sandbox", FakeMailtrap.sandbox_id)
    mail = api_client.build_mail("hello@example.com", **CONTENT)
    base = mt.BatchMail(sender=mail.sender, subject=mail.subject, text=mail.text)
    requests = [mt.BatchEmailRequest(to=mail.to)] * count
    api.batch_send(mt.BatchSendEmailParams(base=base, requests=requests))


# How many messages, and what sends them; the others are compared with the first.
ONE = {
    "plain smtplib": (1, run, "-c", PLAIN_SMTP),
    "`smtp_client.py`": (1, run, smtp_client.__file__),
    "plain SDK": (1, run, "-c", PLAIN_API),
    "`api_client.py`": (1, run, api_client.__file__),
}
MANY = {
    "SMTP, a connection per message": (10, send_smtp, 10, 1),
    "SMTP, one connection": (100, send_smtp, 1, 100),
    "API, one `open_api()`": (100, send_api, 100),
    "API, batch": (500, send_batch, 500),
}


def compare(fake: FakeMailtrap, rounds: int, variants: dict) -> dict[str, float]:
    """Return the other variants' median seconds per message, relative to the first one's."""
    seconds = {name: [] for name in variants}
    for _ in range(rounds):
        for name, (count, send, *arguments) in variants.items():
            fake.reset()
            started = time.perf_counter()
            send(*arguments)
            seconds[name].append((time.perf_counter() - started) / count)
            assert len(fake.messages) == count, name
    first, *others = seconds
    return {name: median(seconds[name]) / median(seconds[first]) for name in others}


def measure(fake: FakeMailtrap, rtt: int, rounds: int) -> dict[str, str]:
    """Return a column of the table."""
    look_up = LOOK_UP.format(port=at_distance(fake.api_port, rtt / 1000))
    exec(look_up, {})
    (fake.folder / "sitecustomize.py").write_text(look_up)
    os.environ["MAILTRAP_SMTP_PORT"] = str(at_distance(fake.smtp_port, rtt / 1000))
    times = compare(fake, rounds, ONE)
    fake.tls.num_tickets = 0
    for name, ratio in compare(fake, rounds, dict(list(ONE.items())[:2])).items():
        times[f"{name}, no TLS session tickets"] = ratio
    fake.tls.num_tickets = 2
    speeds = {name: 1 / ratio for name, ratio in compare(fake, rounds, MANY).items()}
    return [times, speeds]


def main() -> None:
    """Measure all, and print the table."""
    plan = [(0, 1), (5, 1)] if "--quick" in sys.argv else [(0, 15), (20, 7), (100, 3)]
    with FakeMailtrap() as fake:
        os.environ.update(fake.settings, PYTHONPATH=str(fake.folder), NO_PROXY="*", no_proxy="*")
        columns = [measure(fake, rtt, rounds) for rtt, rounds in plan]
    for c in columns: print(c)


if __name__ == "__main__":
    main()

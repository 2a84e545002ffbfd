"""Measure both transports, for one message and for many, and print the table for README.md.

This takes seven minutes, and with --quick, which does everything once, ten seconds. The server is
the stand-in on this machine; a proxy adds the round-trip time. The variants take turns, so that
whatever else the machine does falls on all of them, and their medians are compared.
"""

import asyncio
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from subprocess import check_output

import mailtrap as mt

from fake_mailtrap import FakeMailtrap

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import api_client
import smtp_client

PLAIN_SMTP = """
import os, smtplib, ssl
from email.message import EmailMessage
message = EmailMessage()
message["From"] = "hello@example.com"
message["To"] = "you@example.com"
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
sender, to = mt.Address("hello@example.com"), [mt.Address("you@example.com")]
client.send(mt.Mail(sender=sender, to=to, subject="Hello", text="It works."))
"""
# Leads port 443 to the stand-in. HTTPS_PROXY would cost a round trip, and 40 ms for each message
# on a kept connection, as urllib3 leaves Nagle's algorithm on for proxies.
LOOK_UP = """
import socket
old = socket.getaddrinfo
socket.getaddrinfo = lambda _, port, *rest: old("127.0.0.1", {port} if port == 443 else port, *rest)
"""
CONTENT = {"to": ["you@example.com"], "subject": "Hello", "text": "It works."}


def at_distance(port: int, rtt: float) -> int:
    """Return the port of a TCP proxy that makes another port seem rtt seconds away, and back."""
    if rtt == 0:
        return port
    loop = asyncio.new_event_loop()
    readers = []  # keeps them alive, as asyncio does not

    async def carry(source, sink, first):
        readers.append(source)
        arrival = loop.time() + first
        with suppress(OSError):
            while piece := await source.read(65536):
                arrival = max(arrival + 1e-6, loop.time() + rtt / 2)  # none overtakes another
                loop.call_at(arrival, sink.write, piece)
        loop.call_at(max(arrival + 1e-6, loop.time() + rtt / 2), sink.close)

    async def serve(reader, writer):
        answers, target = await asyncio.open_connection("127.0.0.1", port)
        # After SYN and SYN-ACK the client may speak, the server half a round trip later.
        await asyncio.gather(carry(reader, target, 1.5 * rtt), carry(answers, writer, 2 * rtt))

    proxy = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return proxy.sockets[0].getsockname()[1]


def send_smtp(connections: int, messages: int) -> None:
    """Send messages on each of the connections."""
    port = int(os.environ["MAILTRAP_SMTP_PORT"])
    login = FakeMailtrap.username, FakeMailtrap.password
    message = smtp_client.build_message("hello@example.com", **CONTENT)
    for _ in range(connections):
        with smtp_client.connect("127.0.0.1", port, *login) as smtp:
            for _ in range(messages):
                smtp_client.send(smtp, message)


def send_api(calls: int, messages: int) -> None:
    """Send messages with each of the calls, on one connection."""
    api = api_client.open_api(FakeMailtrap.token, "sandbox", FakeMailtrap.sandbox_id)
    mail = api_client.build_mail("hello@example.com", **CONTENT)
    base = mt.BatchMail(sender=mail.sender, subject=mail.subject, text=mail.text)
    requests = [mt.BatchEmailRequest(to=mail.to)] * messages
    for _ in range(calls):
        if messages == 1:
            api_client.send(api, mail)
        else:
            api.batch_send(mt.BatchSendEmailParams(base=base, requests=requests))


def compare(fake: FakeMailtrap, rounds: int, variants: list[tuple]) -> list[float]:
    """Return the median seconds per message of each variant: messages, function, arguments."""
    seconds = [[] for _ in variants]
    for _ in range(rounds):
        for times, (count, send, *arguments) in zip(seconds, variants, strict=True):
            fake.reset()
            started = time.perf_counter()
            send(*arguments)
            times.append((time.perf_counter() - started) / count)
            assert len(fake.messages) == count, arguments
    return [median(times) for times in seconds]


def measure(fake: FakeMailtrap, rtt: int, rounds: int) -> dict[str, str]:
    """Return one column of the table, with all rows."""
    look_up = LOOK_UP.format(port=at_distance(fake.api_port, rtt / 1000))
    exec(look_up, {})
    (fake.folder / "sitecustomize.py").write_text(look_up)  # which each Python runs first
    os.environ["MAILTRAP_SMTP_PORT"] = str(at_distance(fake.smtp_port, rtt / 1000))
    programs = ["-c", PLAIN_SMTP], [smtp_client.__file__], ["-c", PLAIN_API], [api_client.__file__]
    one = [(1, check_output, [sys.executable, *program]) for program in programs]
    plain, smtp, sdk, api = compare(fake, rounds, one)
    fake.tls.num_tickets = 0
    plain_unticketed, smtp_unticketed = compare(fake, rounds, one[:2])
    fake.tls.num_tickets = 2
    many = [(10, send_smtp, 10, 1), (100, send_smtp, 1, 100)]
    many += [(100, send_api, 100, 1), (500, send_api, 1, 500)]  # 100 and 500 are Mailtrap's limits
    each, kept, calls, batch = compare(fake, rounds, many)
    return {
        "one message: time, less is better (plain smtplib: 1.00)": f"{rtt} ms",
        "---": "---",
        "`smtp_client.py`": f"{smtp / plain:.2f}",
        "`smtp_client.py`, no TLS session tickets": f"{smtp_unticketed / plain_unticketed:.2f}",
        "plain SDK": f"{sdk / plain:.2f}",
        "`api_client.py`": f"{api / plain:.2f}",
        "**many: speed, more is better (SMTP, a connection each: 1.00)**": "",
        "SMTP, one connection": f"{each / kept:.2f}",
        "API, one `open_api()`": f"{each / calls:.2f}",
        "API, batch": f"{each / batch:.0f}",
    }


if __name__ == "__main__":
    plan = [(0, 1), (5, 1)] if "--quick" in sys.argv else [(0, 31), (20, 7), (100, 3)]
    with FakeMailtrap() as fake:
        os.environ.update(fake.settings, PYTHONPATH=str(fake.folder), NO_PROXY="*", no_proxy="*")
        columns = [measure(fake, rtt, rounds) for rtt, rounds in plan]
    for row in columns[0]:
        print("|", " | ".join([row, *(column[row] for column in columns)]), "|")

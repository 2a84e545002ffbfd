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
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median
from subprocess import run

import mailtrap as mt

from fake_mailtrap import LOOK_UP, FakeMailtrap

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import api_client
import smtp_client

PLAIN_SMTP = """
import os, smtplib, ssl
from email.message import EmailMessage
message = EmailMessage()
message["From"], message["To"], message["Subject"] = "me@example.com", "you@example.com", "Hello"
message.set_content("It works.")
with smtplib.SMTP(os.environ["MAILTRAP_SMTP_HOST"], 2525) as smtp:
    smtp.starttls(context=ssl.create_default_context())
    smtp.login(os.environ["MAILTRAP_SMTP_USERNAME"], os.environ["MAILTRAP_SMTP_PASSWORD"])
    smtp.send_message(message)
"""
PLAIN_API = """
import os
import mailtrap as mt
client = mt.MailtrapClient(os.environ["MAILTRAP_API_TOKEN"], sandbox=True, inbox_id=4242)
sender, to = mt.Address("hello@example.com"), [mt.Address("you@example.com")]
client.send(mt.Mail(sender=sender, to=to, subject="Hello", text="It works."))
"""
README = Path(smtp_client.__file__).with_name("README.md").read_text("utf-8")
RECIPE = README.partition(">Many messages over SMTP<")[2].split("```")[1].removeprefix("python")
CONTENT = {"to": ["you@example.com"], "subject": "Hello", "text": "It works."}
MESSAGE = smtp_client.build_message("hello@example.com", **CONTENT)
MAIL = api_client.build_mail("hello@example.com", **CONTENT)


def at_distance(port: int, rtt: float) -> int:
    """Return the port of a TCP proxy that makes another port seem rtt seconds away, and back."""
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
    """Send messages on each of the connections, one after the other."""
    server = os.environ["MAILTRAP_SMTP_HOST"], int(os.environ["MAILTRAP_SMTP_PORT"])
    for _ in range(connections):
        with smtp_client.connect(*server, FakeMailtrap.username, FakeMailtrap.password) as smtp:
            for _ in range(messages):
                smtp_client.send(smtp, MESSAGE)


def send_api(calls: int, batch: int = 0) -> None:
    """Make calls on one connection, each with one message or a batch."""
    api = api_client.open_api(FakeMailtrap.token, "sandbox", FakeMailtrap.sandbox_id)
    base = mt.BatchMail(sender=MAIL.sender, subject=MAIL.subject, text=MAIL.text)
    mails = mt.BatchSendEmailParams(base, [mt.BatchEmailRequest(to=MAIL.to)] * batch)
    for _ in range(calls):
        api_client.send_batch(api, mails) if batch else api_client.send(api, MAIL)


def send_recipe(messages: int) -> None:
    """Send messages with the recipe in README.md, whose ledger knows none of them."""
    exec(RECIPE, names := {"__name__": "recipe", "print": lambda *_: None})
    names["send_many"]((str(time.time_ns()), MESSAGE) for _ in range(messages))
    names["ledger"].close()


def compare(fake: FakeMailtrap, rounds: int, variants: dict[str, tuple]) -> dict[str, float]:
    """Return median seconds per message; a variant: messages, threads, function, arguments."""
    seconds = {name: [] for name in variants}
    for _ in range(rounds):
        for name, (count, threads, send, *arguments) in variants.items():
            fake.reset()
            fake.tls.num_tickets = 0 if "no TLS session tickets" in name else 2
            started = time.perf_counter()
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(send, *([it] * threads for it in arguments)))
            seconds[name].append((time.perf_counter() - started) / count)
            assert len(fake.messages) == count, name
    return {name: median(times) for name, times in seconds.items()}


def measure(fake: FakeMailtrap, n: int, rtt: int, rounds: int, rounds_of_many: int) -> dict:
    """Return one column of the table, with all rows; print what 1.00 stands for."""
    ports = [at_distance(it, rtt / 1000) if rtt else it for it in (fake.api_port, fake.smtp_port)]
    look_up = LOOK_UP.format(api_port=ports[0], smtp_port=ports[1])
    exec(look_up, {})
    (fake.folder / "sitecustomize.py").write_text(look_up)  # which each Python runs first
    smtp = {"plain smtplib": ["-c", PLAIN_SMTP], "`smtp_client.py`": [smtp_client.__file__]}
    programs = smtp | {f"{name}, no TLS session tickets": smtp[name] for name in smtp}
    programs |= {"plain SDK": ["-c", PLAIN_API], "`api_client.py`": [api_client.__file__]}
    python = partial(run, capture_output=True, check=True)
    one = {name: (1, 1, python, [sys.executable, *it]) for name, it in programs.items()}
    many = {
        "SMTP, a connection each": (n // 5, 1, send_smtp, n // 5, 1),
        "SMTP, one connection": (n, 1, send_smtp, 1, n),
        "SMTP, ten connections at once": (n, 10, send_smtp, 1, n // 10),
        "API, one `open_api()`": (n, 1, send_api, n),
        "API, ten `open_api()` at once": (n, 10, send_api, n // 10),
        "API, one `send_batch()`": (5 * n, 1, send_api, 1, 5 * n),
        "ledger": (n, 1, send_recipe, n),
    }
    one, many = compare(fake, rounds, one), compare(fake, rounds_of_many, many)
    plain, each = one["plain smtplib"], many["SMTP, a connection each"]
    kept, ledger = many["SMTP, one connection"], many.pop("ledger")
    print(f"{rtt} ms: 1.00 is {plain * 1e3:.0f}, {each * 1e3:.1f}, {kept * 1e3:.2f} ms", flush=True)
    return {
        "one message, the whole process: time (plain smtplib: 1.00)": f"{rtt} ms",
        "---": "---",
        **{name: f"{seconds / plain:.2f}" for name, seconds in one.items()},
        "**many messages: time for each (SMTP, a connection each: 1.00)**": "",
        **{name: f"{seconds / each:#.2g}" for name, seconds in many.items()},
        "with the ledger of the recipe (SMTP, one connection: 1.00)": f"{ledger / kept:.2f}",
    }


if __name__ == "__main__":
    quick = "--quick" in sys.argv
    plan = [(0, 1, 1), (5, 1, 1)] if quick else [(0, 25, 15), (20, 7, 3), (100, 3, 2)]
    with FakeMailtrap() as fake:
        os.environ.update(fake.settings, **fake.environment)
        os.chdir(fake.folder)
        Path(".env").write_text("\n".join(map("=".join, fake.settings.items())))
        columns = [measure(fake, 20 if quick else 100, *numbers) for numbers in plan]
    for row in columns[0]:
        print("|", " | ".join([row, *(column[row] for column in columns)]), "|")

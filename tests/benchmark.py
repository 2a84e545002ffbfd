"""Print the table of README.md: the time for a message, as a ratio, at two round-trip times.

It takes five minutes, or, with --quick, which does everything once, a few seconds. The server is
the stand-in. The variants take turns, and their medians are compared.
"""

import os
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median

import mailtrap as mt

from fake_mailtrap import FakeMailtrap

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import api_client
from conftest import ME, MESSAGE, REPOSITORY, YOU, api_of, connected, new_mail, python

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


def over_smtp(fake: FakeMailtrap, connections: int, messages: int) -> None:
    """Send messages on each of the connections, one after the other."""
    for _ in range(connections):
        with connected(fake) as smtp:
            for _ in range(messages):
                smtp.sendmail(ME, [YOU], MESSAGE)


def over_api(fake: FakeMailtrap, messages: int, *, batch: bool = False) -> None:
    """Send messages on one connection, one by one or in a batch."""
    api, mail = api_of(fake), new_mail()
    if batch:
        base = mt.BatchMail(sender=mail.sender, subject=mail.subject, text=mail.text)
        api.batch_send(mt.BatchSendEmailParams(base, [mt.BatchEmailRequest(to=mail.to)] * messages))
    else:
        for _ in range(messages):
            api_client.send(api, mail)


def measure(fake: FakeMailtrap, rtt: int, rounds: int) -> dict[str, str]:
    """Return one column of the table, for a round-trip time in milliseconds."""
    fake.rtt = rtt / 1000
    variants = {
        "one message: plain smtplib": (1, partial(python, check=True), "-c", PLAIN_SMTP),
        "`smtp_client.py`": (1, partial(python, check=True), REPOSITORY / "smtp_client.py"),
        "`api_client.py`": (1, partial(python, check=True), REPOSITORY / "api_client.py"),
        "many: SMTP, a connection each": (20, over_smtp, fake, 20, 1),
        "SMTP, one connection": (100, over_smtp, fake, 1, 100),
        "API, one connection": (100, over_api, fake, 100),
        "API, one batch": (500, partial(over_api, batch=True), fake, 500),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, (count, send, *arguments) in variants.items():
            fake.reset()
            started = time.perf_counter()
            send(*arguments)
            seconds[name].append((time.perf_counter() - started) / count)
            assert len(fake.messages) == count, name
    column, unit = {"time for a message, as a ratio": f"{rtt} ms", "---": "---"}, 1.0
    for name, times in seconds.items():
        unit = median(times) if ":" in name else unit
        column[name] = f"{median(times) / unit:.2g}" if median(times) != unit else "1"
    return column


if __name__ == "__main__":
    plan = [(0, 1), (5, 1)] if "--quick" in sys.argv else [(0, 25), (50, 5)]
    with FakeMailtrap() as fake:
        exec(fake.look_up, {})
        os.environ.update({**fake.settings, **fake.environment})
        columns = [measure(fake, *numbers) for numbers in plan]
    for row in columns[0]:
        print("|", " | ".join([row, *(column[row] for column in columns)]), "|")

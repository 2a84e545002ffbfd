"""Send one test message to Mailtrap over SMTP and say what became of it.

Settings come from the environment or .env, a copy of .env.example.
Example: python smtp_client.py --to you@example.com.
Exit status: 0 accepted, 2 wrong flag, 65 refused, 66 unreadable file, 69 not sent, 74 unknown,
75 refused for now, 77 wrong login, 78 wrong setting, 130 interrupted.
"""

# /// script
# requires-python = ">=3.10"
# dependencies = ["python-dotenv>=1.2,<2"]
# ///

import argparse
import copy
import logging
import mimetypes
import os
import random
import re
import smtplib
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import localtime, make_msgid
from pathlib import Path
from typing import NamedTuple, TextIO, TypeVar

from dotenv import load_dotenv

T = TypeVar("T")


def build_message(
    sender: str,
    *,
    to: Iterable[str],
    subject: str,
    text: str = "",
    html: str = "",
    cc: Iterable[str] = (),
    bcc: Iterable[str] = (),
    reply_to: str = "",
    attachments: Iterable[str | Path] = (),
) -> EmailMessage:
    """Return the message; an address is "ann@example.com" or "Ann Doe <ann@example.com>".

    Raises ValueError for what no message can carry, OSError for an unreadable file.
    """
    message = EmailMessage(policy=SMTP)
    message["From"] = parse_address(sender)
    replies = [reply_to] if reply_to else []
    for name, values in (("To", to), ("Cc", cc), ("Bcc", bcc), ("Reply-To", replies)):
        if addresses := [parse_address(value) for value in values]:
            message[name] = addresses
    if not (message["To"] and subject and (text or html)):
        raise ValueError("a message needs a recipient, a subject, and text or HTML")
    message["Subject"] = subject.strip()
    message["Date"] = localtime()
    message["Message-ID"] = make_msgid(domain=message["From"].addresses[0].domain)
    # For any character and length of line.
    message.set_content(text or html, "plain" if text else "html", cte="quoted-printable")
    if text and html:
        message.add_alternative(html, "html", cte="quoted-printable")
    for path in map(Path, attachments):
        mimetype, encoding = mimetypes.guess_type(path.name)
        # A .tar.gz is no tar file, and no message may be base64 (RFC 2046).
        if not mimetype or encoding or mimetype.startswith("message/"):
            mimetype = "application/octet-stream"
        maintype, subtype = mimetype.split("/")
        message.add_attachment(path.read_bytes(), maintype, subtype, filename=path.name)
    return message


def parse_address(text: str) -> Address:
    """Return the address in text; raises ValueError unless it is one."""
    name, _, email = text.strip().removesuffix(">").rpartition("<")
    # Mailtrap lacks SMTPUTF8; a < in the name would be another address.
    if email.isascii() and "<" not in name:
        with suppress(ValueError, IndexError, HeaderParseError):
            return Address(name.strip(' "'), addr_spec=email)
    raise ValueError(f"not an email address: {text!r}")


def connect(
    host: str, port: int, username: str, password: str, *, timeout: float = 30.0, debug: int = 0
) -> smtplib.SMTP:
    """Return a connection over verified TLS, logged in; timeout is in seconds, for each step.

    localhost, 127.0.0.1 and ::1 may lack TLS and login. Raises OSError, as all errors of smtplib
    and ssl are, or ValueError; nothing was sent then.
    """
    if not (username + password).isascii():
        raise ValueError("username and password must be ASCII")
    local = host in ("localhost", "127.0.0.1", "::1")
    # Looking up this machine's name could take seconds.
    smtp = smtplib.SMTP(host, port, local_hostname="[127.0.0.1]", timeout=timeout)
    try:
        if smtp.sock:  # Nagle's algorithm would delay EHLO by 40 ms
            smtp.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        smtp.set_debuglevel(debug)
        smtp.ehlo_or_helo_if_needed()
        if smtp.has_extn("starttls") or not local:
            smtp.starttls(context=ssl.create_default_context())
            smtp.ehlo_or_helo_if_needed()
        if username and (smtp.has_extn("auth") or not local):
            smtp.set_debuglevel(0)  # AUTH shows the password
            smtp.user, smtp.password = username, password
            smtp.auth("PLAIN", smtp.auth_plain)  # login() tries a wrong password three times
            smtp.set_debuglevel(debug)
    except BaseException:
        smtp.close()
        raise
    return smtp


def send(smtp: smtplib.SMTP, message: EmailMessage) -> dict[str, tuple[int, bytes]]:
    """Send a message; unless 421 ends it, the connection is kept.

    Returns the recipients that were refused, with replies, if others were not.
    Raises smtplib's SMTPSenderRefused, SMTPRecipientsRefused or SMTPDataError for a no, and
    OutcomeUnknownError for all else.
    """
    fields = [message[name] for name in ("To", "Cc", "Bcc") if name in message]
    recipients = dict.fromkeys(address.addr_spec for field in fields for address in field.addresses)
    visible = copy.copy(message)
    del visible["Bcc"]
    # Unfolded, as Python before 3.12.4 garbles what it folds (gh-100884). So not send_message(),
    # which also puts > before a line that begins with "From".
    content = visible.as_bytes(policy=SMTP.clone(max_line_length=998))
    try:
        return smtp.sendmail(message["From"].addresses[0].addr_spec, list(recipients), content)
    except Exception as error:
        refused = isinstance(error, (smtplib.SMTPSenderRefused, smtplib.SMTPRecipientsRefused))
        if refused or (isinstance(error, smtplib.SMTPDataError) and 400 <= error.smtp_code <= 599):
            raise
        raise OutcomeUnknownError(str(error)) from error


class OutcomeUnknownError(Exception):
    """It broke under way: look first, or the message may arrive twice."""


def connect_and_send(
    host: str, port: int, username: str, password: str, message: EmailMessage, *, debug: int = 0
) -> dict[str, tuple[int, bytes]]:
    """Connect, send and quit; raises as connect() and send() do."""
    with closing(connect(host, port, username, password, debug=debug)) as smtp:
        refused = send(smtp, message)
        with suppress(OSError):  # the message was taken, whatever becomes of QUIT
            smtp.quit()
    return refused


def with_retries(attempt: Callable[[], T], *, pauses: Iterable[float] = (2, 4, 8)) -> T:
    """Return attempt(), tried again after each pause (seconds, plus jitter) if is_temporary().

    Together they outlast the 10 seconds over which a sandbox counts.
    """
    for pause in pauses:
        try:
            return attempt()
        except Exception as error:
            if not is_temporary(error):
                raise
            pause *= random.uniform(1.0, 1.5)
            logging.getLogger(__name__).warning("%s; retry in %.1f s", reply_of(error), pause)
            time.sleep(pause)
    return attempt()


def is_temporary(error: Exception) -> bool:
    """Say whether the server refused the message, and only for now."""
    return bool(re.match(r"4\d\d|5\d\d .*(per second|many connections)", reply_of(error)))


def reply_of(error: Exception) -> str:
    """Return the server's reply on one line, as in "550 5.7.1 Not allowed", or ""."""
    replies: list[tuple[int, bytes]] = []
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        replies = sorted(error.recipients.values(), reverse=True)
    elif isinstance(error, smtplib.SMTPResponseException) and isinstance(error.smtp_error, bytes):
        replies = [(error.smtp_code, error.smtp_error)]
    text = "; ".join(f"{code} {words.decode(errors='replace')}" for code, words in replies)
    return " ".join(re.findall(r"[^\s\x00-\x1f\x7f-\x9f]+", text))[:400]


# From here on: the program around it.

LOGIN = ("MAILTRAP_SMTP_USERNAME", "MAILTRAP_SMTP_PASSWORD")

HTML = """\
<!doctype html><html lang="en"><meta name="color-scheme" content="light dark">
<div style="padding: 8px 24px; border: 2px solid #2b7; font: 16px/1.5 sans-serif">
<h1>It works</h1>
<p>smtp_client.py sent this over SMTP through {server} on {time}: äöü, €, 你好.</p>
<p>Next: --attach a file, then copy build_message(), connect() and send().</p></div></html>
"""

# An error's reply or type, exit status, what to do; the first match counts.
ADVICE = (
    ("OutcomeUnknownError$", 74, "It may have been taken: look in Mailtrap before sending again."),
    (r"^\[Errno \d+\] .*: ['\"]", 66, "Check the path and its permissions."),
    ("is missing.*ValueError$", 78, "Fill in .env, a copy of .env.example; see README.md."),
    ("address: .*ValueError$", 78, "Fix --from, --to or MAILTRAP_FROM_EMAIL, _TO_EMAIL in .env."),
    ("(Value|Unicode.*)Error$", 78, "Correct the flag, or the line in .env."),
    ("^5.. .*(per second|many connections)", 75, "Slow down: 10 connections, few mails in 10 s."),
    ("^535 .*limit.*reached", 69, "The password is right, the quota is used up: see Billing."),
    ("^53[0458]", 77, "Copy the login again: a sandbox has its own; live takes api and a token."),
    (r"^4\d\d", 75, "The server is busy: send it later."),
    ("^5.*domain", 65, "Verify the From domain under Sending Domains; a demo one mails only you."),
    ("^5.*(Refused|Data)", 65, "Change what it objects to; a free sandbox takes 5 MB, live 10 MB."),
    ("issuer|signed|Key", 69, "Name your CA file in SSL_CERT_FILE; macOS: Install Certificates."),
    ("refused|timed", 69, "Networks block 25, 465, 587: try MAILTRAP_SMTP_PORT=2525 or the API."),
    ("", 69, "Nothing was sent: check MAILTRAP_SMTP_HOST, network and date."),
)


class Failure(NamedTuple):
    """What to tell of an error."""

    status: int
    happened: str
    advice: str


def explain(error: Exception) -> Failure:
    """Return what to tell of what connect() or send() raised."""
    happened = reply_of(error) or str(error)
    told = f"{happened} {type(error).__name__}"
    status, advice = next(row[1:] for row in ADVICE if re.search(row[0], told))
    return Failure(status, happened, advice)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the flags."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--from", dest="sender")
    add("--to", action="append", help="repeatable, as is --attach")
    add("--subject", default=time.strftime("Mailtrap SMTP test, %Y-%m-%d %H:%M:%S"))
    add("--text")
    add("--html")
    add("--attach", action="append", default=[])
    add("--dry-run", action="store_true", help="show the message, send nothing")
    add("--verbose", action="store_true", help="show the conversation")
    return parser.parse_args(argv)


def read_settings(args: argparse.Namespace) -> None:
    """Add what the flags leave open; raises ValueError for what is missing or wrong."""
    load_dotenv(interpolate=False)  # "${" may be part of a password
    found = {name: value.strip() for name, value in os.environ.items() if value.strip()}
    args.host = found.get("MAILTRAP_SMTP_HOST", "sandbox.smtp.mailtrap.io")
    args.port = found.get("MAILTRAP_SMTP_PORT", "2525")
    args.username, args.password = (found.get(name, "") for name in LOGIN)
    sender = found.get("MAILTRAP_FROM_EMAIL", "Mailtrap Test <hello@example.com>")
    args.sender = sender if args.sender is None else args.sender
    to = found.get("MAILTRAP_TO_EMAIL", "you@example.com")
    args.to = args.to or re.findall('(?:"[^"]*"|[^",])+', to)  # not within quotes
    if not (args.port.isdecimal() and int(args.port) in range(1, 65536)):
        raise ValueError(f"MAILTRAP_SMTP_PORT must be a number from 1 to 65535, not {args.port!r}")
    args.server = f"{args.host}:{args.port}"
    args.local = args.host in ("localhost", "127.0.0.1", "::1")
    missing = [name for name in LOGIN if name not in found]
    if missing and not (args.dry_run or args.local):
        place = "Sandboxes > (your sandbox) > Integration > SMTP"
        raise ValueError("\n".join(f"{name} is missing: {place}" for name in missing))


def compose(args: argparse.Namespace) -> EmailMessage:
    """Return the message asked for."""
    text, html = args.text or "", args.html or ""
    if args.text is None and args.html is None:
        html = HTML.format(server=args.server, time=time.strftime("%Y-%m-%d %H:%M:%S"))
        text = re.sub("<[^>]*>", "", html).strip()
    return build_message(
        args.sender, to=args.to, subject=args.subject, text=text, html=html, attachments=args.attach
    )


def deliver(args: argparse.Namespace, message: EmailMessage) -> dict[str, tuple[int, bytes]]:
    """Send the message; return the recipients that were refused."""
    started = time.monotonic()
    account = args.host, int(args.port), args.username, args.password
    refused = with_retries(lambda: connect_and_send(*account, message, debug=args.verbose))
    tls = "" if args.local else " (TLS)"
    accepted = [str(one) for one in message["To"].addresses if one.addr_spec not in refused]
    show(
        f"Accepted by {args.server}{tls} in {time.monotonic() - started:.1f} s\n"
        f"  From        {message['From']}\n"
        f"  To          {', '.join(accepted)}\n"
        f"  Subject     {message['Subject']}\n"
        f"  Message-ID  {message['Message-ID']}\n"
        f"{fate(args.host)}",
        sys.stdout,
    )
    return refused


def fate(host: str) -> str:
    """Say what becomes of a message."""
    if host == "sandbox.smtp.mailtrap.io":
        return "The sandbox captures it, nobody receives it. Yours: https://mailtrap.io/sandboxes"
    if host.endswith(".smtp.mailtrap.io"):
        return "It goes to real people: see Email Logs in Mailtrap whether it arrives."
    return "What becomes of it is up to that server."


def show(text: str, stream: TextIO) -> None:
    """Print; that a console lacks a character or nobody reads is no failure."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except OSError:  # or Python would try again at its end, and fail
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def main(argv: Sequence[str] | None = None) -> int:
    """Send one test message; return the exit status."""
    args = parse_args(argv)
    try:
        read_settings(args)
        message = compose(args)
        if args.dry_run:
            show(str(message).replace("\r\n", "\n"), sys.stdout)
            show(f"Not sent to {args.server}. {fate(args.host)}", sys.stderr)
            return 0
        if not (refused := deliver(args, message)):
            return 0
        replies = reply_of(smtplib.SMTPRecipientsRefused(refused))
        failure = Failure(65, f"{', '.join(refused)}: {replies}", "The others have it.")
    except KeyboardInterrupt:
        failure = Failure(130, "interrupted", "Look in Mailtrap before sending again.")
    except Exception as error:
        failure = explain(error)
    server = "" if failure.status in (66, 78, 130) else f" ({args.server})"
    show(f"smtp_client: {failure.happened}{server}\n{failure.advice}", sys.stderr)
    return failure.status


if __name__ == "__main__":
    sys.exit(main())

"""Send one test message to Mailtrap over SMTP, and say whether the server accepted it.

    python smtp_client.py --to you@example.com

Settings come from the environment, or from a file .env beside this script:
    MAILTRAP_SMTP_USERNAME, MAILTRAP_SMTP_PASSWORD   needed: the login of your sandbox
    MAILTRAP_SMTP_HOST, MAILTRAP_SMTP_PORT           default: sandbox.smtp.mailtrap.io, 2525
    MAILTRAP_FROM_EMAIL, MAILTRAP_TO_EMAIL           used if --from or --to is not given

Exit status:
    0  accepted
    1  unknown, because it broke on the way: look in Mailtrap before you send it again
    2  not sent, because a flag, a setting or a file is missing or wrong
    3  not sent, or not to the recipients that are named
"""

# /// script
# requires-python = ">=3.10"
# dependencies = ["python-dotenv>=1.2,<2"]
# ///

import argparse
import binascii
import copy
import logging
import mimetypes
import os
import random
import smtplib
import socket
import ssl
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing, suppress
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import localtime, make_msgid
from io import TextIOWrapper
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
Refused = dict[str, tuple[int, bytes]]  # recipient: code and text of the server's reply
# Python before 3.12.4 garbles the long headers that it folds (gh-100884), so they stay unfolded.
UNFOLDED = SMTP.clone(max_line_length=998)
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
REFUSALS = (smtplib.SMTPSenderRefused, smtplib.SMTPRecipientsRefused, smtplib.SMTPDataError)


def build_message(
    sender: str | Address,
    *,
    to: Iterable[str | Address],
    subject: str,
    text: str = "",
    html: str = "",
    cc: Iterable[str | Address] = (),
    bcc: Iterable[str | Address] = (),
    reply_to: str | Address = "",
    attachments: Iterable[str | Path] = (),
) -> EmailMessage:
    """Return a message; an address is "ann@example.com" or "Ann Doe <ann@example.com>".

    Raises ValueError for what cannot go into a message, OSError for a file that cannot be read.
    """
    message = EmailMessage(policy=SMTP)
    message["From"] = parse_address(sender)
    for field, people in (("To", to), ("Cc", cc), ("Bcc", bcc)):
        if addresses := [parse_address(one) for one in people]:
            message[field] = addresses
    if reply_to:
        message["Reply-To"] = parse_address(reply_to)
    message["Subject"] = subject.strip()
    if not (message["To"] and message["Subject"] and (text or html)):
        raise ValueError("a message needs a recipient, a subject, and text or HTML")
    message["Date"] = localtime()
    message["Message-ID"] = make_msgid(domain=message["From"].addresses[0].domain)
    # Quoted-printable carries any character, and lines of any length.
    message.set_content(text or html, "plain" if text else "html", cte="quoted-printable")
    if text and html:
        message.add_alternative(html, "html", cte="quoted-printable")
    for path in map(Path, attachments):
        mimetype, encoding = mimetypes.guess_type(path.name)
        # A .tar.gz is no tar file, and an attached message must not be base64 (RFC 2046, 5.2.1).
        if not mimetype or encoding or mimetype.startswith("message/"):
            mimetype = "application/octet-stream"
        maintype, subtype = mimetype.split("/")
        message.add_attachment(path.read_bytes(), maintype, subtype, filename=path.name)
    # Python decodes the "=?utf-8?q?=0d=0a...?=" that somebody may have put into a form.
    for part in message.walk():
        for header in part.values():
            _, *more = header.fold(policy=UNFOLDED).splitlines()
            if not all(line.startswith(" ") for line in more):
                raise ValueError("a subject or a name must not hold a line break")
    return message


def parse_address(text: str | Address) -> Address:
    """Return the one address in a text; raises ValueError if there is none, or more."""
    if isinstance(text, Address):
        return text
    name, _, email = text.strip().removesuffix(">").rpartition("<")
    # Mailtrap takes only ASCII in an address. A second "<" is a second address, and a very long
    # name takes many seconds to encode.
    if email.isascii() and "<" not in name and len(text) <= 320:
        with suppress(ValueError, IndexError, HeaderParseError):
            return Address(name.strip(' "'), addr_spec=email)
    raise ValueError(f"not an email address: {text[:320]!r}")


def connect(
    host: str, port: int, username: str, password: str, *, timeout: float = 30.0, debug: int = 0
) -> smtplib.SMTP:
    """Return a connection, logged in over verified TLS; LOCAL_HOSTS may do without both.

    The timeout is in seconds, for each wait; debug shows the conversation on standard error.
    Raises OSError, which all errors of smtplib and ssl are, or ValueError for a host name or a
    login that cannot be right. Nothing was sent then.
    """
    if not (username + password).isascii():
        raise ValueError("username and password must be ASCII")
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # some, as Debian's Python, allow older ones
    # Without a local_hostname, smtplib looks one up, which can take seconds.
    smtp = smtplib.SMTP(host, port, local_hostname="[127.0.0.1]", timeout=timeout)
    try:
        if smtp.sock:  # Nagle's algorithm would delay the second EHLO by 40 ms
            smtp.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        smtp.set_debuglevel(debug)
        smtp.ehlo_or_helo_if_needed()
        if smtp.has_extn("starttls") or host not in LOCAL_HOSTS:
            smtp.starttls(context=context)
            smtp.ehlo_or_helo_if_needed()
        if host not in LOCAL_HOSTS or (username and smtp.has_extn("auth")):
            smtp.set_debuglevel(0)  # debug would show the password
            smtp.user, smtp.password = username, password
            smtp.auth("PLAIN", smtp.auth_plain)  # login() sends a wrong password three times
            smtp.set_debuglevel(debug)
    except BaseException:
        smtp.close()
        raise
    return smtp


class OutcomeUnknownError(Exception):
    """It broke after the message was handed over, which may have been accepted or not."""


def send(smtp: smtplib.SMTP, message: EmailMessage) -> Refused:
    """Send a message over a connection, which takes the next one, even after a refusal.

    Returns the recipients that were refused; for the others the message was accepted.
    Raises one of the REFUSALS, or OutcomeUnknownError. After any other error nothing was sent.
    """
    sender = message["From"].addresses[0].addr_spec
    fields = [message[name] for name in ("To", "Cc", "Bcc") if name in message]
    recipients = dict.fromkeys(address.addr_spec for field in fields for address in field.addresses)
    without_bcc = copy.copy(message)
    del without_bcc["Bcc"]
    content = without_bcc.as_bytes(policy=UNFOLDED)
    try:
        refused = send_envelope(smtp, sender, recipients, len(content))
        send_content(smtp, content)
    except REFUSALS:
        with suppress(OSError):  # without RSET, the next message would be refused with 503
            smtp.rset()
        raise
    except BaseException:  # replies may be missing, so another message must not read them
        smtp.close()
        raise
    return refused


def send_envelope(
    smtp: smtplib.SMTP, sender: str, recipients: Collection[str], size: int
) -> Refused:
    """Announce a message of size bytes; return the recipients that were refused.

    Raises SMTPSenderRefused, or SMTPRecipientsRefused if no recipient is left.
    """
    code, reply = smtp.mail(sender, [f"size={size}"] if smtp.has_extn("size") else [])
    if code != 250:
        raise smtplib.SMTPSenderRefused(code, reply, sender)
    refused: Refused = {}
    for recipient in recipients:
        code, reply = smtp.rcpt(recipient)
        if not 200 <= code <= 299:
            refused[recipient] = (code, reply)
        if code == 421:  # the server closes the connection, so nobody gets the message
            raise smtplib.SMTPRecipientsRefused({recipient: (code, reply)})
    if len(refused) == len(recipients):
        raise smtplib.SMTPRecipientsRefused(refused)
    return refused


def send_content(smtp: smtplib.SMTP, content: bytes) -> None:
    """Hand the content over; raises SMTPDataError if refused, or OutcomeUnknownError."""
    try:
        code, reply = smtp.data(content)
    except smtplib.SMTPDataError:  # the reply to DATA itself: the content has not been sent
        raise
    except Exception as error:
        raise OutcomeUnknownError(str(error)) from error
    if 400 <= code <= 599:
        raise smtplib.SMTPDataError(code, reply)
    if code != 250:
        raise OutcomeUnknownError(f"{code} {one_line(reply)}")


def connect_and_send(
    host: str, port: int, username: str, password: str, message: EmailMessage, *, debug: int = 0
) -> Refused:
    """Send one message over its own connection; returns and raises as connect() and send() do."""
    with closing(connect(host, port, username, password, debug=debug)) as smtp:
        refused = send(smtp, message)
        with suppress(Exception):  # whatever becomes of QUIT, the message was accepted
            smtp.quit()
    return refused


def with_retries(attempt: Callable[[], T], *, pauses: Iterable[float] = (2, 4, 8)) -> T:
    """Return attempt(), called again after each pause as long as the server refuses for now.

    The pauses are in seconds and get up to half as long again, so that many clients do not come
    back at once. Together they outlast the 10 seconds over which Mailtrap counts messages.
    """
    for pause in pauses:
        try:
            return attempt()
        except Exception as error:
            if not is_temporary(error):
                raise
            pause *= random.uniform(1.0, 1.5)
            # Python prints a warning on standard error, unless the program sets up logging.
            log = logging.getLogger(__name__)
            log.warning("%s; trying again in %.1f s", reply_of(error), pause)
            time.sleep(pause)
    return attempt()


def is_temporary(error: Exception) -> bool:
    """Say whether the server refused the message, but only for now."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        replies = [smtplib.SMTPResponseException(*reply) for reply in error.recipients.values()]
        return bool(replies) and all(is_temporary(reply) for reply in replies)
    code, reply = getattr(error, "smtp_code", 0), reply_of(error).lower()
    return (
        400 <= code <= 499
        or (code == 550 and "too many emails per second" in reply)
        or (code == 535 and "too many connections" in reply)
    )


def reply_of(error: Exception) -> str:
    """Return the server's reply on one line, as in "550 5.7.1 Not allowed", or else "".

    Refused recipients are named, as in "ann@example.com: 550 5.1.1 No such user".
    """
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{error.smtp_code} {one_line(error.smtp_error)}"
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        refused = error.recipients.items()
        return "; ".join(f"{who}: {code} {one_line(text)}" for who, (code, text) in refused)
    return ""


def one_line(text: str | bytes) -> str:
    """Return at most 380 characters on one line, with spaces for what could steer a terminal."""
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:380]


# What people copy ends here. The program around it begins.

ACCEPTED, UNKNOWN, WRONG_INPUT, NOT_SENT = 0, 1, 2, 3
CORRECT_IT = "Nothing was sent. Settings belong in .env, see .env.example. For flags, see --help."
LOOK_FIRST = "It may have been accepted: look for it in Mailtrap before you send it again."
DEFAULTS = {
    "MAILTRAP_SMTP_HOST": "sandbox.smtp.mailtrap.io",
    "MAILTRAP_SMTP_PORT": "2525",
    "MAILTRAP_SMTP_USERNAME": "",
    "MAILTRAP_SMTP_PASSWORD": "",
    "MAILTRAP_FROM_EMAIL": "Mailtrap Test <hello@example.com>",
    "MAILTRAP_TO_EMAIL": "you@example.com",
}
HEAD = '<!doctype html><meta name="color-scheme" content="light dark">'
TEXT = """\
It works! smtp_client.py sent this message on {time}
through {server}.

These special characters should look right: äöü, €, 你好.

Next, attach a file with --attach, or copy build_message() and connect_and_send().
"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the flags."""
    keep_lines = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=keep_lines)
    add = parser.add_argument
    subject = time.strftime("Mailtrap SMTP test, %Y-%m-%d %H:%M:%S")
    add("--from", dest="sender", metavar="ADDRESS", help="the sender; default: MAILTRAP_FROM_EMAIL")
    add("--to", action="append", metavar="ADDRESS", help="one recipient; repeat it for more")
    add("--subject", default=subject, metavar="TEXT", help="subject; by default it names the time")
    add("--text", metavar="TEXT", help="body as plain text; default: a test message")
    add("--html", metavar="HTML", help="body as HTML, alone or beside --text")
    add(
        "--attach", action="append", default=[], metavar="FILE", help="one file; repeat it for more"
    )
    add("--dry-run", action="store_true", help="show what would be sent, and where; send nothing")
    add("--verbose", action="store_true", help="show the conversation, but not the password")
    return parser.parse_args(argv)


def read_settings(*, dry_run: bool) -> dict[str, str]:
    """Return the settings; raises ValueError for what is missing or wrong."""
    from dotenv import load_dotenv  # here, as what people copy does without it

    try:
        # Only this .env, not one of a folder above. A password may hold "${".
        load_dotenv(Path(__file__).with_name(".env"), interpolate=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"the file .env must be text in UTF-8: {error}") from None
    found = {name: value.strip() for name, value in os.environ.items() if value.strip()}
    settings = DEFAULTS | found
    port = settings["MAILTRAP_SMTP_PORT"]
    if not (port.isdecimal() and 1 <= int(port) <= 65535):
        raise ValueError(f"MAILTRAP_SMTP_PORT must be a number from 1 to 65535, not {port!r}")
    login = ("MAILTRAP_SMTP_USERNAME", "MAILTRAP_SMTP_PASSWORD")
    for name in login:
        if not settings[name].isascii():
            raise ValueError(f"{name} holds a character that no login has, such as a curly quote")
    missing = [name for name in login if not settings[name]]
    if missing and not dry_run and settings["MAILTRAP_SMTP_HOST"] not in LOCAL_HOSTS:
        place = "Mailtrap shows it under Sandboxes > (your sandbox) > Integration > SMTP."
        raise ValueError("\n".join(f"{name} is missing. {place}" for name in missing))
    return settings


def read_addresses(source: str, texts: Iterable[str]) -> list[Address]:
    """Return the addresses; raises a ValueError that names their source."""
    try:
        return [parse_address(text) for text in texts]
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def compose(args: argparse.Namespace, settings: dict[str, str]) -> EmailMessage:
    """Fill in what the flags leave open, and return the message that they ask for.

    Raises ValueError for what is wrong, OSError for a file that cannot be read.
    """
    if args.sender is None:
        args.sender = settings["MAILTRAP_FROM_EMAIL"]
    if args.to is None:
        args.to = [text.strip() for text in settings["MAILTRAP_TO_EMAIL"].split(",")]
    if args.text is None and args.html is None:
        now = time.strftime("%Y-%m-%d at %H:%M:%S")
        args.text = TEXT.format(server=settings["MAILTRAP_SMTP_HOST"], time=now)
        args.html = f'{HEAD}<pre style="font-family: sans-serif; white-space: pre-wrap">{args.text}'
    return build_message(
        read_addresses("--from or MAILTRAP_FROM_EMAIL", [args.sender])[0],
        to=read_addresses("--to or MAILTRAP_TO_EMAIL", args.to),
        subject=args.subject,
        text=args.text or "",
        html=args.html or "",
        attachments=args.attach,
    )


def describe(args: argparse.Namespace, refused: Collection[str] = ()) -> str:
    """Return sender, subject, files, and the recipients that were not refused."""
    to = [text for text in args.to if parse_address(text).addr_spec not in refused]
    return (
        f"  From        {args.sender}\n"
        f"  To          {', '.join(to)}\n"
        f"  Subject     {args.subject}\n"
        f"  Files       {', '.join(args.attach) or 'none'}"
    )


def delivery_note(host: str) -> str:
    """Return what becomes of a message for this host, and where to look for it."""
    if host == "sandbox.smtp.mailtrap.io":
        return "The sandbox captures mail, so nobody receives it: https://mailtrap.io/sandboxes"
    if host in ("live.smtp.mailtrap.io", "bulk.smtp.mailtrap.io"):
        return "This host sends to real people. Email Logs in Mailtrap show whether it arrives."
    return f"What becomes of it is up to {host}."


def advice(error: Exception, port: int = 2525) -> str:
    """Return what a person can do about an error of connect() or send()."""
    reply = reply_of(error).lower()
    if is_temporary(error):
        return "It is refused only for now, as the server is busy or gets too much. Wait a minute."
    if isinstance(error, smtplib.SMTPAuthenticationError) and "limit" in reply:
        return "The login is right, but your plan's messages are used up. See Billing in Mailtrap."
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return (
            "Mailtrap does not know this login. Copy MAILTRAP_SMTP_USERNAME and "
            "MAILTRAP_SMTP_PASSWORD again from Sandboxes > (your sandbox) > Integration > SMTP. "
            "For live sending, the username is api and the password is an API token."
        )
    if "from domain" in reply or "sender's domain" in reply or "demo domain" in reply:
        return "Verify the domain of --from or MAILTRAP_FROM_EMAIL in Mailtrap, at Sending Domains."
    if reply.startswith("552"):
        return "It is too big: a free sandbox takes up to 5 MB, live sending up to 10 MB."
    if reply:
        return "Correct what the server objects to, and send it again."
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            "This computer does not trust the certificate. Name your network's CA file in "
            "SSL_CERT_FILE, or on macOS run the Install Certificates.command of your Python."
        )
    other_port = 587 if port == 2525 else 2525
    return (
        "Check MAILTRAP_SMTP_HOST and your network. If it blocks this port, try "
        f"MAILTRAP_SMTP_PORT={other_port}, or use api_client.py, which needs only HTTPS."
    )


def fail(status: int, happened: str, what_to_do: str) -> int:
    """Say on standard error what happened and what to do; return the exit status."""
    print(f"smtp_client: {happened}\n{what_to_do}", file=sys.stderr)
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Send one test message; return the exit status."""
    if isinstance(sys.stdout, TextIOWrapper):  # a console may lack a character
        sys.stdout.reconfigure(errors="backslashreplace")
    args = parse_args(argv)

    try:
        settings = read_settings(dry_run=args.dry_run)
        host, port = settings["MAILTRAP_SMTP_HOST"], int(settings["MAILTRAP_SMTP_PORT"])
        message = compose(args, settings)
    except ModuleNotFoundError as error:
        install = "Run `pip install -r requirements.txt` first, or run `uv run smtp_client.py`."
        return fail(WRONG_INPUT, str(error), install)
    except (OSError, ValueError) as error:
        return fail(WRONG_INPUT, str(error), CORRECT_IT)

    if args.dry_run:
        print(f"This is a dry run. Without it, the message would go to {host}:{port}.")
        print(describe(args), (args.text or args.html).strip(), delivery_note(host), sep="\n\n")
        return ACCEPTED

    print(f"Sending to {host}:{port} ...", file=sys.stderr)
    started = time.monotonic()
    account = host, port, settings["MAILTRAP_SMTP_USERNAME"], settings["MAILTRAP_SMTP_PASSWORD"]
    try:
        refused = with_retries(lambda: connect_and_send(*account, message, debug=args.verbose))
    except OutcomeUnknownError as error:
        return fail(UNKNOWN, one_line(str(error)), LOOK_FIRST)
    except KeyboardInterrupt:
        return fail(UNKNOWN, "interrupted", LOOK_FIRST)
    except (OSError, UnicodeError, binascii.Error) as error:
        return fail(NOT_SENT, reply_of(error) or one_line(str(error)), advice(error, port))

    print(f"Accepted by {host}:{port} in {time.monotonic() - started:.2f} s")
    print(f"{describe(args, refused)}\n  Message-ID  {message['Message-ID']}")
    print(delivery_note(host))
    if refused:
        refusal = smtplib.SMTPRecipientsRefused(refused)
        only_these = "The other recipients have it, so send it only to these."
        return fail(NOT_SENT, reply_of(refusal), f"{only_these} {advice(refusal)}")
    return ACCEPTED


if __name__ == "__main__":
    sys.exit(main())

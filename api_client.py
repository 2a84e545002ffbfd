"""Send one test message to Mailtrap over its API and say what became of it.

Settings come from the environment or .env, a copy of .env.example.
Example: python api_client.py --to you@example.com.
Exit status: 0 accepted, 2 wrong flag, 65 refused, 66 unreadable file, 69 not sent, 74 unknown,
75 refused for now, 77 wrong token, 78 wrong setting, 130 interrupted.
"""

# /// script
# requires-python = ">=3.10"
# dependencies = ["mailtrap>=2.11,<3", "python-dotenv>=1.2,<2"]
# ///

import argparse
import base64
import json
import logging
import mimetypes
import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from email.errors import HeaderParseError
from email.headerregistry import Address
from pathlib import Path
from typing import NamedTuple, TextIO, TypeVar
from uuid import UUID

import mailtrap as mt
from dotenv import load_dotenv
from mailtrap.api.sending import SendingApi

T = TypeVar("T")


def build_mail(
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
) -> mt.Mail:
    """Return the mail; an address is "ann@example.com" or "Ann Doe <ann@example.com>".

    Raises ValueError for what no message can carry, OSError for an unreadable file.
    """
    recipients = [parse_address(value) for value in to]
    if not (recipients and subject and (text or html)):
        raise ValueError("a message needs a recipient, a subject, and text or HTML")
    if len(subject.strip().splitlines()) > 1:
        raise ValueError(f"line break in the subject: {subject!r}")
    return mt.Mail(
        sender=parse_address(sender),
        to=recipients,
        cc=[parse_address(value) for value in cc] or None,
        bcc=[parse_address(value) for value in bcc] or None,
        reply_to=parse_address(reply_to) if reply_to else None,
        subject=subject.strip(),
        text=text or None,
        html=html or None,
        attachments=[read_attachment(path) for path in attachments] or None,
    )


def parse_address(text: str) -> mt.Address:
    """Return the address in text; raises ValueError unless it is one."""
    name, _, email = text.strip().removesuffix(">").rpartition("<")
    # Mailtrap lacks SMTPUTF8; a < in the name would be another address.
    if email.isascii() and "<" not in name:
        with suppress(ValueError, IndexError, HeaderParseError):
            address = Address(name.strip(' "'), addr_spec=email)
            return mt.Address(address.addr_spec, address.display_name or None)
    raise ValueError(f"not an email address: {text!r}")


def read_attachment(path: str | Path) -> mt.Attachment:
    """Return the file as an attachment; raises OSError if it cannot be read."""
    name, content = Path(path).name, Path(path).read_bytes()
    mimetype, encoding = mimetypes.guess_type(name)
    # A .tar.gz is no tar file, and no message may be base64 (RFC 2046).
    if not mimetype or encoding or mimetype.startswith("message/"):
        mimetype = "application/octet-stream"
    # The SDK leaves the base64 to its caller.
    return mt.Attachment(base64.b64encode(content), filename=name, mimetype=mimetype)


def open_api(token: str, stream: str = "sandbox", sandbox_id: str = "") -> SendingApi:
    """Return the API of the sandbox, transactional or bulk stream; it keeps its connection.

    Each step takes 30 seconds at most. Raises ValueError for any other stream, and
    mailtrap.ClientConfigurationError for the sandbox stream without sandbox_id.
    """
    if stream == "sandbox":
        return mt.MailtrapClient(token, sandbox=True, inbox_id=sandbox_id).sending_api
    if stream in ("transactional", "bulk"):
        return mt.MailtrapClient(token, bulk=stream == "bulk").sending_api
    raise ValueError(f"not sandbox, transactional or bulk: {stream!r}")


def send(api: SendingApi, mail: mt.BaseMail) -> list[str]:
    """Send a mail; the connection is kept.

    Returns the message ids: one from the sandbox, one for each recipient from other streams.
    Raises mailtrap.APIError for a no, requests' exceptions if nothing was sent, and
    OutcomeUnknownError for all else.
    """
    try:
        answer = api.send(mail)
    except Exception as error:
        if is_no(error):
            raise
        quotes = isinstance(error, (TypeError, ValueError))  # the token or the answer
        reason = type(error).__name__ if quotes else str(error)
        raise OutcomeUnknownError(reply_of(error) or reason) from None if quotes else error
    if not (answer.success and answer.message_ids):  # HTTP 200 alone promises nothing
        raise OutcomeUnknownError(str(answer))
    return answer.message_ids


class OutcomeUnknownError(Exception):
    """It broke under way: look first, or the message may arrive twice."""


def is_no(error: Exception) -> bool:
    """Say whether Mailtrap certainly did not take the message."""
    if isinstance(error, mt.APIError):
        # Mailtrap documents 500 as not sent; for other answers the SDK makes up errors.
        made_up = error.errors in (["Invalid JSON"], ["Empty response body"], ["Unknown error"])
        return 400 <= error.status <= 499 or (error.status in (500, 503) and not made_up)
    # Behind a proxy, the type of an error is the same before and after the message was sent.
    unsent = (
        "NewConnectionError|NameResolutionError|ConnectTimeoutError|Tunnel connection failed|"
        "CERTIFICATE_VERIFY_FAILED|UNSUPPORTED_PROTOCOL|PROTOCOL_VERSION|CA certificate bundle"
    )
    return isinstance(error, OSError) and bool(re.search(unsent, str(error)))


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
    """Say whether Mailtrap refused the message, and only for now."""
    pattern = "429(?!.*(limit (is )?reached|quota))|50[03]"
    return is_no(error) and bool(re.match(pattern, reply_of(error)))


def reply_of(error: Exception) -> str:
    """Return Mailtrap's reply on one line, as in "401 Unauthorized", or ""."""
    text = f"{error.status} {error}" if isinstance(error, mt.APIError) else ""
    return " ".join(re.findall(r"[^\s\x00-\x1f\x7f-\x9f]+", text))[:400]


# From here on: the program around it.

HOSTS = {"sandbox": "sandbox", "transactional": "send", "bulk": "bulk"}  # .api.mailtrap.io

HTML = """\
<!doctype html><html lang="en"><meta name="color-scheme" content="light dark">
<div style="padding: 8px 24px; border: 2px solid #2b7; font: 16px/1.5 sans-serif">
<h1>It works</h1>
<p>api_client.py sent this over the API through {server} on {time}: äöü, €, 你好.</p>
<p>Next: --attach a file, then copy build_mail(), open_api() and send().</p></div></html>
"""

# An error's reply or type, exit status, what to do; the first match counts.
ADVICE = (
    (r"^\[Errno \d+\] .*: ['\"]", 66, "Check the path and its permissions."),
    ("is missing.*ValueError$", 78, "Fill in .env, a copy of .env.example; see README.md."),
    ("address: .*ValueError$", 78, "Fix --from, --to or MAILTRAP_FROM_EMAIL, _TO_EMAIL in .env."),
    ("(Value|Unicode.*|Configuration)Error$", 78, "Correct the flag, or the line in .env."),
    (r"OutcomeUnknown \w+$", 74, "It may have been taken: look in Mailtrap before sending again."),
    ("^429 .*(limit (is )?reached|quota)", 69, "The quota is used up: see Billing in Mailtrap."),
    ("^429", 75, "Slow down: a token may call 150 times in 10 s, a sandbox takes fewer."),
    ("^50[03]", 75, "The server is busy: send it later."),
    ("^401", 77, "Is MAILTRAP_API_TOKEN whole, unexpired, this sandbox's? Live: domain verified?"),
    ("^4(?!13).. (Invalid JSON|Empty)", 69, "A proxy answered, not Mailtrap: check HTTPS_PROXY."),
    ("^403", 77, "May the token send? Live: is the From domain verified under Sending Domains?"),
    ("^404", 78, "MAILTRAP_SANDBOX_ID must be the number in the address of the sandbox's page."),
    ("^4..", 65, "Change what it objects to; a free sandbox takes 5 MB, live 10 MB."),
    ("", 69, "Nothing was sent: check HTTPS_PROXY, REQUESTS_CA_BUNDLE, network and date."),
)


class Failure(NamedTuple):
    """What to tell of an error."""

    status: int
    happened: str
    advice: str


def explain(error: Exception) -> Failure:
    """Return what to tell of what open_api() or send() raised."""
    happened = reply_of(error) or re.sub(r".*Caused by \w+\((.*)\)\)$", r"\1", str(error))
    told = f"{happened} {'' if is_no(error) else 'OutcomeUnknown'} {type(error).__name__}"
    status, advice = next(row[1:] for row in ADVICE if re.search(row[0], told))
    return Failure(status, happened, advice)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the flags."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--from", dest="sender")
    add("--to", action="append", help="repeatable, as are --attach and --var")
    add("--subject")
    add("--text")
    add("--html")
    add("--attach", action="append", default=[])
    add("--stream", choices=HOSTS)
    add("--template", type=UUID, metavar="UUID", help="instead of subject, text and HTML")
    add("--var", action="append", default=[], metavar="NAME=VALUE", help="for the template")
    add("--dry-run", action="store_true", help="show the message, send nothing")
    add("--verbose", action="store_true", help="show the conversation")
    args = parser.parse_args(argv)
    if args.template and (args.subject, args.text, args.html) != (None, None, None):
        parser.error("--template brings its own subject, text and HTML")
    if args.var and not (args.template and all("=" in pair for pair in args.var)):
        parser.error("--var takes NAME=VALUE, and needs --template")
    return args


def read_settings(args: argparse.Namespace) -> None:
    """Add what the flags leave open; raises ValueError for what is missing or wrong."""
    load_dotenv(interpolate=False)  # "${" may be part of a token
    found = {name: value.strip() for name, value in os.environ.items() if value.strip()}
    args.token = found.get("MAILTRAP_API_TOKEN", "")
    args.stream = args.stream or found.get("MAILTRAP_STREAM", "sandbox")
    args.sandbox_id = found.get("MAILTRAP_SANDBOX_ID", "")
    sender = found.get("MAILTRAP_FROM_EMAIL", "Mailtrap Test <hello@example.com>")
    args.sender = sender if args.sender is None else args.sender
    to = found.get("MAILTRAP_TO_EMAIL", "you@example.com")
    args.to = args.to or re.findall('(?:"[^"]*"|[^",])+', to)  # not within quotes
    if args.stream not in HOSTS:
        raise ValueError(f"MAILTRAP_STREAM must be one of {', '.join(HOSTS)}, not {args.stream!r}")
    args.host = f"{HOSTS[args.stream]}.api.mailtrap.io"
    missing = []
    if not args.token:
        missing.append("MAILTRAP_API_TOKEN is missing: Settings > API Tokens")
    if args.stream == "sandbox" and not args.sandbox_id:
        missing.append("MAILTRAP_SANDBOX_ID is missing: the number in your sandbox's address")
    if missing and not args.dry_run:
        raise ValueError("\n".join(missing))
    if not re.fullmatch("[!-~]*", args.token):
        raise ValueError("MAILTRAP_API_TOKEN holds a space, a line break or a non-ASCII character")


def compose(args: argparse.Namespace) -> mt.Mail | mt.MailFromTemplate:
    """Return the mail asked for."""
    if args.template:
        return mt.MailFromTemplate(
            sender=parse_address(args.sender),
            to=[parse_address(value) for value in args.to],
            attachments=[read_attachment(path) for path in args.attach] or None,
            template_uuid=str(args.template),
            template_variables=dict(pair.split("=", 1) for pair in args.var),
        )
    text, html = args.text or "", args.html or ""
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    if args.text is None and args.html is None:
        html = HTML.format(server=args.host, time=now)
        text = re.sub("<[^>]*>", "", html).strip()
    subject = f"Mailtrap API test, {now}" if args.subject is None else args.subject
    return build_mail(
        args.sender, to=args.to, subject=subject, text=text, html=html, attachments=args.attach
    )


def deliver(args: argparse.Namespace, mail: mt.Mail | mt.MailFromTemplate) -> None:
    """Send the mail and tell what became of it."""
    started = time.monotonic()
    api = open_api(args.token, args.stream, args.sandbox_id)
    message_ids = with_retries(lambda: send(api, mail))
    show(
        f"Accepted by {args.host} ({args.stream} stream) in {time.monotonic() - started:.1f} s\n"
        f"  From        {args.sender}\n"
        f"  To          {', '.join(map(str.strip, args.to))}\n"
        f"  Subject     {getattr(mail, 'subject', 'as in the template')}\n"
        f"  Message id  {', '.join(message_ids)}\n"
        f"{fate(args.stream)}",
        sys.stdout,
    )


def fate(stream: str) -> str:
    """Say what becomes of a message."""
    if stream == "sandbox":
        return "The sandbox captures it, nobody receives it. Yours: https://mailtrap.io/sandboxes"
    return "It goes to real people: see Email Logs in Mailtrap whether it arrives."


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
        mail = compose(args)
        if args.dry_run or args.verbose:
            show(json.dumps(mail.api_data, indent=2), sys.stdout if args.dry_run else sys.stderr)
        if args.dry_run:
            show(f"Not sent to {args.host}. {fate(args.stream)}", sys.stderr)
            return 0
        if args.verbose:
            logging.basicConfig(format="%(message)s", level=logging.DEBUG)
        os.environ["NETRC"] = os.devnull  # or ~/.netrc would replace the token
        deliver(args, mail)
        return 0
    except KeyboardInterrupt:
        failure = Failure(130, "interrupted", "Look in Mailtrap before sending again.")
    except Exception as error:
        failure = explain(error)
    server = "" if failure.status in (66, 78, 130) else f" ({args.host})"
    show(f"api_client: {failure.happened}{server}\n{failure.advice}", sys.stderr)
    return failure.status


if __name__ == "__main__":
    sys.exit(main())

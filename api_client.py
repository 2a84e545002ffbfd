"""Send one test message to Mailtrap over its API, and say whether Mailtrap accepted it.

    python api_client.py --to you@example.com

Settings come from the environment, or from a file .env beside this script:
    MAILTRAP_API_TOKEN                       needed: a token from Settings > API Tokens
    MAILTRAP_STREAM                          sandbox (default), transactional or bulk
    MAILTRAP_SANDBOX_ID                      needed for the sandbox stream
    MAILTRAP_FROM_EMAIL, MAILTRAP_TO_EMAIL   used if --from or --to is not given

Exit status:
    0  accepted
    1  unknown, because it broke on the way: look in Mailtrap before you send it again
    2  not sent, because a flag, a setting or a file is missing or wrong
    3  not sent, or refused
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
import ssl
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from email.errors import HeaderParseError
from email.headerregistry import Address
from io import TextIOWrapper
from pathlib import Path
from typing import TypeVar

try:
    import mailtrap as mt
    from mailtrap.api.sending import SendingApi
    from mailtrap.models.mail.batch_mail import BatchSendResponseItem
    from urllib3 import exceptions as urllib3_errors
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    print(f"api_client: {error}", file=sys.stderr)
    print("Run `pip install -r requirements.txt`, or run `uv run api_client.py`.", file=sys.stderr)
    sys.exit(2)

T = TypeVar("T")
M = TypeVar("M", mt.BaseMail, mt.BatchSendEmailParams)
TOO_OLD = ("UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION")  # less than TLS 1.2


def build_mail(
    sender: str | mt.Address,
    *,
    to: Iterable[str | mt.Address],
    subject: str,
    text: str = "",
    html: str = "",
    cc: Iterable[str | mt.Address] = (),
    bcc: Iterable[str | mt.Address] = (),
    reply_to: str | mt.Address = "",
    attachments: Iterable[str | Path] = (),
) -> mt.Mail:
    """Return a mail; an address is "ann@example.com" or "Ann Doe <ann@example.com>".

    Raises ValueError for what cannot go into a message, OSError for a file that cannot be read.
    """
    recipients = [parse_address(one) for one in to]
    subject = subject.strip()
    if not (recipients and subject and (text or html)):
        raise ValueError("a message needs a recipient, a subject, and text or HTML")
    if len(subject.splitlines()) > 1:
        raise ValueError("the subject must be one line")
    return mt.Mail(
        sender=parse_address(sender),
        to=recipients,
        cc=[parse_address(one) for one in cc] or None,
        bcc=[parse_address(one) for one in bcc] or None,
        reply_to=parse_address(reply_to) if reply_to else None,
        subject=subject,
        text=text or None,
        html=html or None,
        attachments=[read_attachment(Path(path)) for path in attachments] or None,
    )


def parse_address(text: str | mt.Address) -> mt.Address:
    """Return the one address in a text; raises ValueError if there is none, or more."""
    if isinstance(text, mt.Address):
        return text
    name, _, email = text.strip().removesuffix(">").rpartition("<")
    # Mailtrap takes only ASCII in an address. A second "<" is a second address, and a very long
    # name takes many seconds to encode.
    if email.isascii() and "<" not in name and len(text) <= 320:
        with suppress(ValueError, IndexError, HeaderParseError):
            address = Address(name.strip(' "'), addr_spec=email)
            return mt.Address(address.addr_spec, address.display_name or None)
    raise ValueError(f"not an email address: {text[:320]!r}")


def read_attachment(path: Path) -> mt.Attachment:
    """Return the file as an attachment; raises OSError if it cannot be read."""
    mimetype, encoding = mimetypes.guess_type(path.name)
    # A .tar.gz is no tar file, and an attached message must not be base64 (RFC 2046, 5.2.1).
    if not mimetype or encoding or mimetype.startswith("message/"):
        mimetype = "application/octet-stream"
    # The SDK leaves the base64 to its caller.
    return mt.Attachment(base64.b64encode(path.read_bytes()), path.name, mimetype=mimetype)


def open_api(token: str, stream: str = "sandbox", sandbox_id: str = "") -> SendingApi:
    """Return the API of the sandbox, transactional or bulk stream; it keeps its connection.

    Each wait takes 30 seconds at most. An entry for its host in ~/.netrc would replace the token.
    Raises ValueError for a token, a stream, or a sandbox_id of the sandbox that cannot be right.
    """
    if not re.fullmatch("[!-~]+", token):
        raise ValueError("the API token is empty, or has a space or a character that is not ASCII")
    if stream == "sandbox":
        if not re.fullmatch("[0-9]+", sandbox_id):
            raise ValueError(f"the sandbox id must be a number, not {sandbox_id!r}")
        return mt.MailtrapClient(token, sandbox=True, inbox_id=sandbox_id).sending_api
    if stream in ("transactional", "bulk"):
        return mt.MailtrapClient(token, bulk=stream == "bulk").sending_api
    raise ValueError(f"the stream must be sandbox, transactional or bulk, not {stream!r}")


class OutcomeUnknownError(Exception):
    """It broke after the message was handed over, which may have been accepted or not."""


def send(api: SendingApi, mail: mt.BaseMail) -> list[str]:
    """Send a mail; the connection is kept for the next one.

    Returns the message ids: one from the sandbox, one for each recipient from other streams.
    Raises mailtrap.APIError if Mailtrap refused the mail, and OutcomeUnknownError. After any
    other error nothing was sent.
    """
    answer = call(api.send, mail)
    if not (answer.success and answer.message_ids):  # HTTP 200 alone does not mean accepted
        raise OutcomeUnknownError(f"the answer was {answer}")
    return answer.message_ids


def send_batch(api: SendingApi, batch: mt.BatchSendEmailParams) -> list[BatchSendResponseItem]:
    """Send up to 500 mails, of 50 MB in all; the connection is kept for the next call.

    Returns an answer for each mail, in order: look at its success, message_ids and errors.
    Raises as send() does; an error is about the whole batch.
    """
    answer = call(api.batch_send, batch)
    if not answer.success or len(answer.responses) != len(batch.requests):
        raise OutcomeUnknownError(f"the answer has {len(answer.responses)} responses")
    return answer.responses


def call(method: Callable[[M], T], mail: M) -> T:
    """Return method(mail), a call of the SDK; its errors pass only if nothing was sent."""
    json.dumps(mail.api_data, allow_nan=False)  # for the errors of what JSON cannot hold
    try:
        return method(mail)
    except Exception as error:
        if is_unsent(error):
            raise
        raise OutcomeUnknownError(reply_of(error) or str(error)) from error


def is_unsent(error: Exception) -> bool:
    """Say whether an error of the SDK proves that Mailtrap has not accepted the mail."""
    if isinstance(error, mt.APIError):
        # Mailtrap documents 500 as not sent, unless something else than the API has answered. The
        # SDK makes up these errors then.
        made_up = error.errors in (["Invalid JSON"], ["Empty response body"], ["Unknown error"])
        return 400 <= error.status <= 499 or (error.status in (500, 503) and not made_up)
    cause = cause_of(error)
    if isinstance(cause, ssl.SSLError):  # the server is not trusted, or the CA file is broken
        untrusted = isinstance(cause, ssl.SSLCertVerificationError) or cause.library == "X509"
        return untrusted or cause.reason in TOO_OLD
    return (
        isinstance(cause, (urllib3_errors.NewConnectionError, urllib3_errors.ConnectTimeoutError))
        or (isinstance(cause, OSError) and str(cause).startswith("Tunnel connection failed"))
        or type(error) is OSError  # as requests raises it where the CA file is missing
    )


def cause_of(error: Exception) -> object:
    """Return what requests and urllib3 wrap, whose types are the same before and after sending."""
    cause = getattr(error.args[0], "reason", error) if error.args else error
    if isinstance(cause, (urllib3_errors.ProxyError, urllib3_errors.SSLError)):
        return cause.args[-1]
    return cause


def with_retries(attempt: Callable[[], T], *, pauses: Iterable[float] = (2, 4, 8)) -> T:
    """Return attempt(), called again after each pause as long as Mailtrap refuses for now.

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
    """Say whether Mailtrap refused the mail, but only for now."""
    if not (isinstance(error, mt.APIError) and is_unsent(error)):
        return False
    quota = "limit is reached" in str(error).lower()  # of the plan, which is also 429
    return error.status in (429, 500, 503) and not quota


def reply_of(error: Exception) -> str:
    """Return Mailtrap's reply on one line, as in "401 Unauthorized", or else ""."""
    return one_line(f"{error.status} {error}") if isinstance(error, mt.APIError) else ""


def one_line(text: str) -> str:
    """Return at most 380 characters on one line, with spaces for what could steer a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:380]


# What people copy ends here. The program around it begins.

ACCEPTED, UNKNOWN, WRONG_INPUT, NOT_SENT = 0, 1, 2, 3
CORRECT_IT = "Nothing was sent. Settings belong in .env, see .env.example. For flags, see --help."
LOOK_FIRST = "It may have been accepted: look for it in Mailtrap before you send it again."
HOSTS = {
    "sandbox": "sandbox.api.mailtrap.io",
    "transactional": "send.api.mailtrap.io",
    "bulk": "bulk.api.mailtrap.io",
}
DEFAULTS = {
    "MAILTRAP_API_TOKEN": "",
    "MAILTRAP_STREAM": "sandbox",
    "MAILTRAP_SANDBOX_ID": "",
    "MAILTRAP_FROM_EMAIL": "Mailtrap Test <hello@example.com>",
    "MAILTRAP_TO_EMAIL": "you@example.com",
}
HEAD = '<!doctype html><meta name="color-scheme" content="light dark">'
TEXT = """\
It works! api_client.py sent this message on {time}
through {server}.

These special characters should look right: äöü, €, 你好.

Next, attach a file with --attach, or copy build_mail(), open_api() and send().
"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the flags."""
    keep_lines = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=keep_lines)
    add = parser.add_argument
    subject = time.strftime("Mailtrap API test, %Y-%m-%d %H:%M:%S")
    add("--from", dest="sender", metavar="ADDRESS", help="the sender; default: MAILTRAP_FROM_EMAIL")
    add("--to", action="append", metavar="ADDRESS", help="one recipient; repeat it for more")
    add("--subject", default=subject, metavar="TEXT", help="subject; by default it names the time")
    add("--text", metavar="TEXT", help="body as plain text; default: a test message")
    add("--html", metavar="HTML", help="body as HTML, alone or beside --text")
    add(
        "--attach", action="append", default=[], metavar="FILE", help="one file; repeat it for more"
    )
    add("--dry-run", action="store_true", help="show what would be sent, and where; send nothing")
    add("--verbose", action="store_true", help="show the request and its answer, but not the token")
    return parser.parse_args(argv)


def read_settings(*, dry_run: bool) -> dict[str, str]:
    """Return the settings; raises ValueError for what is missing or wrong."""
    from dotenv import load_dotenv  # here, as what people copy does without it

    try:
        # Only this .env, not one of a folder above. A token may hold "${".
        load_dotenv(Path(__file__).with_name(".env"), interpolate=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"the file .env must be text in UTF-8: {error}") from None
    found = {name: value.strip() for name, value in os.environ.items() if value.strip()}
    settings = DEFAULTS | found
    stream, sandbox_id = settings["MAILTRAP_STREAM"], settings["MAILTRAP_SANDBOX_ID"]
    if stream not in HOSTS:
        raise ValueError(f"MAILTRAP_STREAM must be one of {', '.join(HOSTS)}, not {stream!r}")
    if stream == "sandbox" and not re.fullmatch("[0-9]*", sandbox_id):
        raise ValueError(f"MAILTRAP_SANDBOX_ID must be a number, not {sandbox_id!r}")
    missing = []
    if not settings["MAILTRAP_API_TOKEN"]:
        missing.append("MAILTRAP_API_TOKEN is missing. Mailtrap shows it in Settings > API Tokens.")
    if stream == "sandbox" and not sandbox_id:
        missing.append("MAILTRAP_SANDBOX_ID is missing. It is the number in your sandbox's URL.")
    if missing and not dry_run:
        raise ValueError("\n".join(missing))
    return settings


def read_addresses(source: str, texts: Iterable[str]) -> list[mt.Address]:
    """Return the addresses; raises a ValueError that names their source."""
    try:
        return [parse_address(text) for text in texts]
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def compose(args: argparse.Namespace, settings: dict[str, str]) -> mt.Mail:
    """Fill in what the flags leave open, and return the message that they ask for.

    Raises ValueError for what is wrong, OSError for a file that cannot be read.
    """
    if args.sender is None:
        args.sender = settings["MAILTRAP_FROM_EMAIL"]
    if args.to is None:
        args.to = [text.strip() for text in settings["MAILTRAP_TO_EMAIL"].split(",")]
    if args.text is None and args.html is None:
        now = time.strftime("%Y-%m-%d at %H:%M:%S")
        args.text = TEXT.format(server=HOSTS[settings["MAILTRAP_STREAM"]], time=now)
        args.html = f'{HEAD}<pre style="font-family: sans-serif; white-space: pre-wrap">{args.text}'
    return build_mail(
        read_addresses("--from or MAILTRAP_FROM_EMAIL", [args.sender])[0],
        to=read_addresses("--to or MAILTRAP_TO_EMAIL", args.to),
        subject=args.subject,
        text=args.text or "",
        html=args.html or "",
        attachments=args.attach,
    )


def describe(args: argparse.Namespace) -> str:
    """Return sender, recipients, subject and files."""
    return (
        f"  From        {args.sender}\n"
        f"  To          {', '.join(args.to)}\n"
        f"  Subject     {args.subject}\n"
        f"  Files       {', '.join(args.attach) or 'none'}"
    )


def delivery_note(stream: str) -> str:
    """Return what becomes of a message in this stream, and where to look for it."""
    if stream == "sandbox":
        return "The sandbox captures mail, so nobody receives it: https://mailtrap.io/sandboxes"
    return "This stream goes to real people. Email Logs in Mailtrap show whether it arrives."


def advice(error: Exception) -> str:
    """Return what a person can do about an error of send()."""
    status = error.status if isinstance(error, mt.APIError) else 0
    if is_temporary(error):
        return "It is refused only for now, as Mailtrap is busy or gets too much. Wait a minute."
    if status == 429:
        return "Your plan's messages are used up. See Billing in Mailtrap."
    if status in (401, 403):
        return (
            "Mailtrap does not know this token, or the token may not send here. Copy "
            "MAILTRAP_API_TOKEN again from Settings > API Tokens, and look there at its expiry "
            "date and its access. For live sending, verify the domain of --from or "
            "MAILTRAP_FROM_EMAIL in Mailtrap, at Sending Domains."
        )
    if status == 404:
        return (
            "Mailtrap does not know this sandbox. MAILTRAP_SANDBOX_ID is the number in the "
            "address of the sandbox's page, as in https://mailtrap.io/sandboxes/2564102/messages."
        )
    if status == 413:
        return "It is too big: a free sandbox takes up to 5 MB, live sending up to 10 MB."
    if status:
        return "Correct what Mailtrap objects to, and send it again."
    if isinstance(cause_of(error), ssl.SSLError):
        return (
            "This computer does not trust the certificate. Name your network's CA file in "
            "REQUESTS_CA_BUNDLE."
        )
    return "Check your network, and HTTPS_PROXY and REQUESTS_CA_BUNDLE if you have set them."


def fail(status: int, happened: str, what_to_do: str) -> int:
    """Say on standard error what happened and what to do; return the exit status."""
    print(f"api_client: {happened}\n{what_to_do}", file=sys.stderr)
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Send one test message; return the exit status."""
    if isinstance(sys.stdout, TextIOWrapper):  # a console may lack a character
        sys.stdout.reconfigure(errors="backslashreplace")
    args = parse_args(argv)

    try:
        settings = read_settings(dry_run=args.dry_run)
        stream = settings["MAILTRAP_STREAM"]
        mail = compose(args, settings)
    except ModuleNotFoundError as error:
        install = "Run `pip install -r requirements.txt` first, or run `uv run api_client.py`."
        return fail(WRONG_INPUT, str(error), install)
    except (OSError, ValueError) as error:
        return fail(WRONG_INPUT, str(error), CORRECT_IT)

    if args.dry_run:
        print(f"This is a dry run. Without it, the message would go to {HOSTS[stream]}.")
        print(describe(args), (args.text or args.html).strip(), delivery_note(stream), sep="\n\n")
        return ACCEPTED

    try:
        api = open_api(settings["MAILTRAP_API_TOKEN"], stream, settings["MAILTRAP_SANDBOX_ID"])
    except ValueError as error:
        return fail(WRONG_INPUT, str(error), CORRECT_IT)
    os.environ["NETRC"] = os.devnull  # an entry in ~/.netrc would replace the token
    if args.verbose:
        logging.basicConfig(format="%(message)s", level=logging.DEBUG)
        logging.debug(json.dumps(mail.api_data, indent=2))

    print(f"Sending to {HOSTS[stream]} ...", file=sys.stderr)
    started = time.monotonic()
    try:
        message_ids = with_retries(lambda: send(api, mail))
    except OutcomeUnknownError as error:
        return fail(UNKNOWN, one_line(str(error)), LOOK_FIRST)
    except KeyboardInterrupt:
        return fail(UNKNOWN, "interrupted", LOOK_FIRST)
    except (mt.APIError, OSError) as error:
        return fail(NOT_SENT, reply_of(error) or one_line(str(cause_of(error))), advice(error))

    print(f"Accepted by {HOSTS[stream]} in {time.monotonic() - started:.2f} s")
    print(f"{describe(args)}\n  Message id  {one_line(', '.join(message_ids))}")
    print(delivery_note(stream))
    return ACCEPTED


if __name__ == "__main__":
    sys.exit(main())

"""Send one test message to Mailtrap over its API and say what became of it.

    python api_client.py
    python api_client.py --to you@example.com --attach report.pdf
    python api_client.py --dry-run

Settings, from the environment or from .env: MAILTRAP_API_TOKEN, MAILTRAP_STREAM,
MAILTRAP_SANDBOX_ID, MAILTRAP_FROM_EMAIL, MAILTRAP_TO_EMAIL;
.env.example says where each is to be found.
"""

# /// script
# requires-python = ">=3.10"
# dependencies = ["mailtrap>=2.11,<3", "python-dotenv>=1.2,<2"]
# ///

import contextlib
import gc
import os
import signal
import sys

if __name__ == "__main__":  # ahead of the other imports, which take most of the time

    def interrupted(*_: object) -> None:
        """Say so in one line and leave with status 130, at whatever moment Ctrl-C is pressed."""
        with contextlib.suppress(OSError, AttributeError):  # closed, or None
            os.write(sys.stderr.fileno(), b"api_client: interrupted; look in Mailtrap before you send it again\n")
        os._exit(130)

    signal.signal(signal.SIGINT, interrupted)
    gc.disable()  # a process this short has nothing to collect: saves a twentieth of its time

import argparse
import base64
import functools
import json
import logging
import mimetypes
import random
import re
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO
from uuid import UUID

import mailtrap as mt
from dotenv import load_dotenv
from mailtrap.api.sending import SendingApi
from mailtrap.http import HttpClient


def build_mail(
    sender: str,
    *,
    to: Iterable[str],
    subject: str = "",
    text: str = "",
    html: str = "",
    cc: Iterable[str] = (),
    bcc: Iterable[str] = (),
    reply_to: str = "",
    attachments: Iterable[str | Path] = (),
    template_uuid: str = "",
    template_variables: Mapping[str, object] | None = None,
) -> mt.Mail | mt.MailFromTemplate:
    """Return the mail; an address is "you@example.com" or "Your Name <you@example.com>".

    Raises ValueError for what no message can carry, TypeError for template variables that are no
    JSON, OSError for an unreadable attachment.
    """

    def one_line(value: str) -> str:
        # A line break would start another header; "=?utf-8?q?...?=" would arrive decoded.
        if re.search("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]|=\\?[^ ?]+\\?[BbQq]\\?", value):
            raise ValueError(f"control character or encoded word in {value[:80]!r}")
        return value

    def address(value: str) -> mt.Address:
        name, _, email = one_line(value).strip().removesuffix(">").rpartition("<")
        name = " ".join(re.sub('^"([^"]*)"$', r"\1", name.strip()).split())
        # ASCII only: anything else needs SMTPUTF8, which Mailtrap does not offer.
        atom = r"[\w!#$%&'*+/=?^`{|}~-]+"
        if not re.fullmatch(rf"{atom}(\.{atom})*@[\w-]+(\.[\w-]+)*", email, re.ASCII) or '"' in name:
            raise ValueError(f"not an email address: {value[:80]!r}")
        return mt.Address(email, name or None)

    to, subject = list(to), one_line(subject).strip()
    if template_uuid and (subject or text or html):
        raise ValueError("a template brings its own subject, text and HTML")
    if not (to and (template_uuid or (subject and (text or html)))):
        raise ValueError("a message needs a recipient, a subject, and text or HTML")
    if "\0" in text + html:
        raise ValueError("NUL character in text or HTML")
    # The SDK would send, and garble, what UTF-8 cannot express.
    json.dumps([text, html, template_variables], ensure_ascii=False).encode()
    mail: mt.Mail | mt.MailFromTemplate
    recipients = [address(value) for value in to]
    if template_uuid:
        variables = dict(template_variables or {})
        mail = mt.MailFromTemplate(
            sender=address(sender), to=recipients, template_uuid=template_uuid, template_variables=variables
        )
    else:
        mail = mt.Mail(
            sender=address(sender),
            to=recipients,
            subject=subject,
            text=text or None,
            html=html or None,
        )
    mail.cc = [address(value) for value in cc] or None
    mail.bcc = [address(value) for value in bcc] or None
    mail.reply_to = address(reply_to) if reply_to else None
    files = []
    for path in map(Path, attachments):
        mimetype, encoding = mimetypes.guess_type(path.name)
        # As over SMTP, where message/rfc822 and its like must not be base64 (RFC 2046).
        if not mimetype or encoding or mimetype.startswith(("message/", "multipart/")):
            mimetype = "application/octet-stream"
        content = base64.b64encode(path.read_bytes())  # the SDK does not do it
        if not content:
            raise ValueError(f"empty attachment: {path.name!r}")  # the API would refuse it
        files.append(mt.Attachment(content=content, filename=one_line(path.name), mimetype=mimetype))
    mail.attachments = files or None
    return mail


def open_api(token: str, stream: str = "sandbox", sandbox_id: str = "", *, timeout: int = 30) -> SendingApi:
    """Return the API of one stream, which keeps its connection; timeout is in seconds, for each step.

    Raises KeyError for an unknown stream, mailtrap.ClientConfigurationError for a sandbox without id.
    """
    sandbox = stream == "sandbox"
    client = mt.MailtrapClient(token, sandbox=sandbox, inbox_id=sandbox_id if sandbox else None)
    hosts = {"sandbox": client.SANDBOX_HOST, "transactional": client.DEFAULT_HOST, "bulk": client.BULK_HOST}
    return SendingApi(HttpClient(hosts[stream], client.headers, timeout), client.inbox_id)


def send(api: SendingApi, mail: mt.BaseMail) -> list[str]:
    """Send a mail; the connection stays open for more.

    Returns the message ids: one from the sandbox, one for each recipient from the other streams.
    Raises mailtrap.APIError and what requests raises; explain() says whether it may have been taken.
    """
    response = api.send(mail)
    if not (response.success and response.message_ids):  # HTTP 200 alone promises nothing
        raise mt.APIError(200, [f"success: {response.success}, message_ids: {response.message_ids}"])
    return response.message_ids


def send_with_retries(
    attempt: Callable[[], Any],
    *,
    explain: Callable[[Exception], tuple[str, str, int, bool]],
    notify: Callable[[str], object] = lambda _: None,
    waits: Iterable[float] = (2.0, 4.0, 8.0),
) -> Any:
    """Call attempt, and again after each of waits (seconds, plus jitter) where explain says so.

    Returns what attempt returns and raises what it raises. Together the waits outlast the
    10 seconds over which the sandbox counts messages.
    """
    for wait in waits:
        try:
            return attempt()
        except Exception as error:
            happened, _, _, again = explain(error)
            if not again:
                raise
            pause = wait * random.uniform(1.0, 1.5)
            notify(f"{happened}; trying again in {pause:.1f} s")
            time.sleep(pause)
    return attempt()


def explain(error: Exception, *, stream: str = "sandbox", secrets: Iterable[str] = ()) -> tuple[str, str, int, bool]:
    """Return what happened, what to do, the exit status, and whether to try again at once.

    What happened is told in the server's words, without control characters and secrets. Only what
    the server itself said it did not take, and might take later, is to be tried again at once.
    """
    # requests keeps the cause of what it raises further down; what lies beyond is the caller's.
    cause: BaseException = error
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    while cause.__context__:
        inner = [frame for frame, _ in traceback.walk_tb(cause.__context__.__traceback__)]
        if not inner or not re.match(r"(requests|urllib3)\.", inner[0].f_globals.get("__name__", "")):
            break
        cause, frames = cause.__context__, frames + inner
    code = error.status if isinstance(error, mt.APIError) else 0
    happened = str(cause) or type(cause).__name__
    if isinstance(error, mt.APIError):
        cause, happened = error, f"{code} {error}"
    elif isinstance(error, TypeError | ValueError):  # their text may quote the token or the whole answer
        cause, happened = error, f"request or answer not understood ({type(error).__name__})"
    for secret in filter(None, secrets):
        happened = happened.replace(secret, "***")
    happened = "".join(char if char.isprintable() else " " for char in happened)
    happened = " ".join(happened.split())[:400]
    # requests raises the same errors at every step; only what fails to connect has sent nothing.
    steps = {f.f_code.co_name for f in frames if re.match(r"(requests|urllib3)\.", f.f_globals.get("__name__", ""))}
    from_the_api = not re.search("Invalid JSON|Empty response body|Unknown error", happened)
    refused = 400 <= code <= 499 or (code in (500, 503) and from_the_api)
    invalid = isinstance(error, OSError) and isinstance(error, ValueError) and "urlopen" not in steps  # URL or header
    unsent = invalid or "connect" in steps or "cert_verify" in steps
    # After a redirect all this is about another request than the one that may have been taken.
    answers = [f.f_locals.get("response") for f in frames if f.f_code.co_name == "_process_response"]
    redirected = "resolve_redirects" in steps or any(getattr(answer, "history", None) for answer in answers)
    if redirected or not (refused or unsent):
        return happened, "It may have been taken: look in Mailtrap before you send it again.", 74, False
    ca_file = "name your company's CA file in REQUESTS_CA_BUNDLE"
    token = "Is MAILTRAP_API_TOKEN whole, unexpired, for live sending? Is the domain of MAILTRAP_FROM_EMAIL verified?"
    if stream == "sandbox":
        token = "Is MAILTRAP_API_TOKEN whole, unexpired and allowed into the sandbox MAILTRAP_SANDBOX_ID?"
    # fmt: off
    for pattern, status, again, advice in (
        (r"\w+ 429 .*(limit is reached|plan|quota)", 75, False,
         "The token is right, but the quota is used up: see Billing in Mailtrap."),
        (r"\w+ 429 ", 75, True, "A token may call 150 times per 10 seconds, a sandbox takes fewer: send more slowly."),
        (r"\w+ 50[03] ", 75, True, "The server cannot take it just now: send it again later."),
        (r"\w+ \d+ .*demo domain", 65, False,
         "The demo domain writes to the account's owner only: see MAILTRAP_TO_EMAIL."),
        (r"\w+ 401 ", 77, False, f"{token} See Settings > API Tokens."),
        (r"\w+ 404 ", 78, False, "MAILTRAP_SANDBOX_ID must be the number in the address of the sandbox's page."),
        (r"\w+ 413 ", 65, False, "Attach less: the free sandbox takes 5 MB, live sending 10 MB."),
        (r"\w+ 4\d\d (invalid json|empty|unknown)", 69, False, "A proxy answered, not Mailtrap: check HTTPS_PROXY."),
        (r"\w+ 403 ", 77, False,
         "The token may not send, or the From domain is not verified: see API Tokens and Sending Domains."),
        (r"\w+ 4\d\d ", 65, False, "Change what it objects to: MAILTRAP_FROM_EMAIL, MAILTRAP_TO_EMAIL, the content."),
        (r"sslcert.* mismatch", 69, False, "The server goes by another name: check HTTPS_PROXY and the network."),
        (r"sslcert.* (expired|not yet valid)", 69, False,
         "Check this machine's date; if it is right, the server is at fault."),
        (r"sslcert.* key identifier", 69, False,
         "Your company's CA is too old for Python 3.13 and later: ask for a renewed one."),
        (r"sslcert", 69, False, f"This machine does not know who signed the certificate: {ca_file}."),
        (r"ssl.* version", 69, False, "No TLS 1.2 or newer: check HTTPS_PROXY and the network."),
        (r"gaierror ", 69, False, "The name was not found: check HTTPS_PROXY and the network."),
        (r".*(ca certificate bundle|certificate or crl)", 78, False, "Correct REQUESTS_CA_BUNDLE: it is no CA file."),
        (r"invalid", 78, False, "Check HTTPS_PROXY and MAILTRAP_API_TOKEN."),
    ):
        # fmt: on
        if re.match(pattern, f"{type(cause).__name__} {happened} ".lower()):
            return happened, advice, status, again
    return happened, "Nothing was sent: check the network and HTTPS_PROXY.", 69, False


def read_settings(environ: Mapping[str, str], *, credentials: bool = True) -> dict[str, str]:
    """Return the settings, stripped and checked; a dry run needs no credentials.

    Raises ValueError with a line for each setting that is missing or invalid.
    """
    atom = r"[\w!#$%&'*+/=?^`{|}~-]+"
    email = rf"{atom}(?:\.{atom})*@[\w-]+(?:\.[\w-]+)*"
    address = rf'\s*(?:{email}|(?:"[^"]*"\s*|[^",<>]*)<{email}>)\s*'
    one = 'like you@example.com or "Name, if you like" <you@example.com>'
    known = {
        "MAILTRAP_API_TOKEN": ("", "[!-~]+", "Settings > API Tokens, in Mailtrap"),
        "MAILTRAP_STREAM": ("sandbox", "sandbox|transactional|bulk", "sandbox, transactional or bulk"),
        "MAILTRAP_SANDBOX_ID": ("", "[0-9]{1,18}", "the number in the address of your sandbox's page"),
        "MAILTRAP_FROM_EMAIL": ("", address, one),
        "MAILTRAP_TO_EMAIL": ("", rf"{address}(?:,{address})*", f"{one}, or several with commas between"),
    }
    settings = {name: environ.get(name, "").strip() or known[name][0] for name in known}
    optional = [] if credentials else ["MAILTRAP_API_TOKEN", "MAILTRAP_SANDBOX_ID"]
    if settings["MAILTRAP_STREAM"] != "sandbox":
        optional.append("MAILTRAP_SANDBOX_ID")
    problems = []
    for name, (_, pattern, hint) in known.items():
        value = settings[name]
        unsafe = re.search("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]|=\\?[^ ?]+\\?[BbQq]\\?", value)
        if name not in optional and (unsafe or not re.fullmatch(pattern, value, re.ASCII)):
            found = f"invalid ({value[:80]!r})" if name.endswith("_EMAIL") else "invalid"
            problems.append(f"{name} is {found if value else 'missing'}: {hint}")
    if problems:
        raise ValueError("\n".join(["settings are missing or invalid", *problems]))
    return settings


# From here on: the program around it.

TEXT = """\
It works: Mailtrap took this message over its API.

It was built and sent with the mailtrap SDK, in UTF-8: äöü, €, 你好.
"""

HTML = f"""\
<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="color-scheme" content="light dark"></head>
<body style="margin: 0; padding: 24px; font: 16px/1.5 sans-serif">
<p>{TEXT.strip().replace(chr(10) * 2, "</p><p>")}</p>
</body>
</html>
"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the flags; they replace settings or parts of the built-in message."""
    parser = argparse.ArgumentParser(description="Send one test message to Mailtrap over its API.")
    add = parser.add_argument
    add("--from", dest="sender", metavar="ADDRESS", help="instead of MAILTRAP_FROM_EMAIL")
    add("--to", action="append", metavar="ADDRESS", help="instead of MAILTRAP_TO_EMAIL; repeatable")
    add("--subject", help="instead of the built-in subject")
    add("--text", help="the text; without --html the only body")
    add("--html", help="the HTML; without --text the only body")
    add("--attach", action="append", default=[], metavar="PATH", help="a file; repeatable")
    add("--stream", help="instead of MAILTRAP_STREAM: sandbox, transactional or bulk")
    add("--template", type=UUID, metavar="UUID", help="a template, instead of subject, text and HTML")
    add("--var", action="append", default=[], metavar="NAME=VALUE", help="for the template; repeatable")
    add("--dry-run", action="store_true", help="print what would be sent; needs neither credentials nor network")
    add("--verbose", action="store_true", help="show the conversation, without secrets")
    args = parser.parse_args(argv)
    if args.var and not args.template:
        parser.error("--var needs --template")
    if not all("=" in pair for pair in args.var):
        parser.error("--var takes NAME=VALUE")
    if args.template and (args.subject, args.text, args.html) != (None, None, None):
        parser.error("--template goes without --subject, --text and --html, as it brings its own")
    if not args.template:
        if args.subject is None:
            args.subject = f"Mailtrap API test, {datetime.now():%Y-%m-%d %H:%M:%S}"
        if args.text is None and args.html is None:
            args.text, args.html = TEXT, HTML
    return args


def show(text: str, stream: TextIO | None) -> None:
    """Print in what encoding the stream has; that its reader has gone away is no failure."""
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", " ", text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    with contextlib.suppress(OSError):
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def report_failure(happened: str, advice: str, status: int) -> int:
    """Say on standard error what happened and what to do; return the exit status."""
    show(f"api_client: {happened}\n{advice}", sys.stderr)
    return status


def deliver(settings: Mapping[str, str], mail: mt.Mail | mt.MailFromTemplate) -> int:
    """Send the mail, say what became of it, and return the exit status."""
    token, stream = settings["MAILTRAP_API_TOKEN"], settings["MAILTRAP_STREAM"]
    explain_safely = functools.partial(explain, stream=stream, secrets=[token])
    host = f"{'send' if stream == 'transactional' else stream}.api.mailtrap.io"
    started = time.monotonic()
    try:
        message_ids = send_with_retries(
            functools.partial(send, open_api(token, stream, settings["MAILTRAP_SANDBOX_ID"]), mail),
            explain=explain_safely,
            notify=lambda line: show(f"api_client: {line}", sys.stderr),
        )
    except Exception as error:
        happened, advice, status, _ = explain_safely(error)
        return report_failure(f"{happened} ({host})", advice, status)
    sender, *recipients = [f"{one.name} <{one.email}>" if one.name else one.email for one in [mail.sender, *mail.to]]
    fate = "It is on its way to real people: accepted is not yet delivered, so see Email Logs in Mailtrap."
    if stream == "sandbox":
        fate = "The sandbox captured it; nobody received it. See it at https://mailtrap.io/sandboxes"
    show(
        f"Accepted by {host} ({stream} stream) in {time.monotonic() - started:.1f} s\n"
        f"  From        {sender}\n"
        f"  To          {', '.join(recipients)}\n"
        f"  Subject     {mail.subject if isinstance(mail, mt.Mail) else 'as in the template'}\n"
        f"  Message id  {', '.join(message_ids)}\n"
        f"{fate}",
        sys.stdout,
    )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Send one test message; return the exit status, as README.md lists them."""
    args = parse_args(argv)
    flags = {
        "MAILTRAP_FROM_EMAIL": args.sender,
        "MAILTRAP_TO_EMAIL": args.to and ",".join(args.to),
        "MAILTRAP_STREAM": args.stream,
    }
    status = 78
    try:
        load_dotenv(interpolate=False)  # "${" may be part of a token
        os.environ["NETRC"] = os.devnull  # or requests replaces the token by an entry of ~/.netrc
        given = {name: value for name, value in flags.items() if value is not None}
        settings = read_settings({**os.environ, **given}, credentials=not args.dry_run)
        status = 2  # from here on only a flag can be wrong
        mail = build_mail(
            settings["MAILTRAP_FROM_EMAIL"],
            to=re.findall(r'(?:"[^"]*"|[^,"])+', settings["MAILTRAP_TO_EMAIL"]),
            subject=args.subject or "",
            text=args.text or "",
            html=args.html or "",
            attachments=args.attach,
            template_uuid=str(args.template or ""),
            template_variables=dict(pair.split("=", 1) for pair in args.var),
        )
        if args.dry_run or args.verbose:
            show(json.dumps(mail.api_data, indent=2), sys.stdout if args.dry_run else sys.stderr)
        if args.verbose:
            logging.basicConfig(format="%(message)s")
            logging.getLogger("urllib3").setLevel(logging.DEBUG)
            logging.getLogger("urllib3.connection").disabled = True  # its warnings bring a traceback
        return 0 if args.dry_run else deliver(settings, mail)
    except MemoryError:
        return report_failure("not enough memory", "Attach less.", status)
    except OSError as error:
        happened = f"cannot read {error.filename!r}: {error.strerror}"
        return report_failure(happened, "Check that the file exists and may be read.", status)
    except ValueError as error:
        happened = f".env is not UTF-8: {error}" if isinstance(error, UnicodeDecodeError) else str(error)
        advice = "Set them in .env, a copy of .env.example, or in the environment; without an account, see README.md."
        return report_failure(happened, advice if status == 78 else "Correct that flag.", status)


if __name__ == "__main__":
    os._exit(main())  # all is said and closed; taking Python apart would make up a tenth of the whole time

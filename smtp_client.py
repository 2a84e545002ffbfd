"""Send one test message to Mailtrap over SMTP and say what became of it.

    python smtp_client.py
    python smtp_client.py --to you@example.com --attach report.pdf
    python smtp_client.py --dry-run

Settings, from the environment or from .env: MAILTRAP_SMTP_HOST, MAILTRAP_SMTP_PORT,
MAILTRAP_SMTP_USERNAME, MAILTRAP_SMTP_PASSWORD, MAILTRAP_FROM_EMAIL, MAILTRAP_TO_EMAIL;
.env.example says where each is to be found.
"""

# /// script
# requires-python = ">=3.10"
# dependencies = ["python-dotenv>=1.2,<2"]
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
            os.write(sys.stderr.fileno(), b"smtp_client: interrupted; look in Mailtrap before you send it again\n")
        os._exit(130)

    signal.signal(signal.SIGINT, interrupted)
    gc.disable()  # a process this short has nothing to collect: saves a twentieth of its time

import argparse
import base64
import copy
import functools
import mimetypes
import random
import re
import smtplib
import socket
import ssl
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from email import message_from_string
from email.header import Header
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formataddr, make_msgid
from pathlib import Path
from typing import Any, TextIO

from dotenv import load_dotenv


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
    """Return the message; an address is "you@example.com" or "Your Name <you@example.com>".

    Raises ValueError for what no message can carry, OSError for an unreadable attachment.
    """

    def one_line(value: str) -> str:
        # A line break would start another header; "=?utf-8?q?...?=" would arrive decoded.
        if re.search("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]|=\\?[^ ?]+\\?[BbQq]\\?", value):
            raise ValueError(f"control character or encoded word in {value[:80]!r}")
        return value

    def folded(value: str, field: str) -> str:
        if value.isascii() and len(value) < 60:
            return value
        return Header(value, "utf-8", maxlinelen=76, header_name=field).encode(linesep="\r\n")

    def address(value: str, field: str) -> str:
        name, _, email = one_line(value).strip().removesuffix(">").rpartition("<")
        name = " ".join(re.sub('^"([^"]*)"$', r"\1", name.strip()).split())
        # ASCII only: anything else needs SMTPUTF8, which Mailtrap does not offer.
        atom = r"[\w!#$%&'*+/=?^`{|}~-]+"
        if not re.fullmatch(rf"{atom}(\.{atom})*@[\w-]+(\.[\w-]+)*", email, re.ASCII) or '"' in name:
            raise ValueError(f"not an email address: {value[:80]!r}")
        if folded(name, field) == name:
            return formataddr((name, email))
        return f"{folded(name, field)}\r\n <{email}>"

    to, subject = list(to), one_line(subject).strip()
    if not (to and subject and (text or html)):
        raise ValueError("a message needs a recipient, a subject, and text or HTML")
    if "\0" in text + html:
        raise ValueError("NUL character in text or HTML")
    # Folded here, because EmailMessage garbles lists of names on Python before 3.12.4 (gh-100884).
    head = f"Subject: {folded(subject, 'Subject')}\r\n"
    replies = [reply_to] if reply_to else []
    for field, values in (("From", [sender]), ("To", to), ("Cc", cc), ("Bcc", bcc), ("Reply-To", replies)):
        addresses = [address(value, field) for value in values]
        if addresses:
            head += f"{field}: " + ",\r\n ".join(addresses) + "\r\n"
    # 7bit, as sendmail() does not ask the server for 8BITMIME.
    policy = SMTP.clone(cte_type="7bit", refold_source="none")
    message = message_from_string(head, EmailMessage, policy=policy)
    message["Date"] = datetime.now(timezone.utc)
    message["Message-ID"] = make_msgid(domain=message["From"].addresses[0].domain)
    message.set_content(text or html, subtype="plain" if text else "html")
    if text and html:
        message.add_alternative(html, subtype="html")
    for path in map(Path, attachments):
        mimetype, encoding = mimetypes.guess_type(path.name)
        # The fallback also for message/rfc822 and its like, which must not be base64 (RFC 2046).
        if not mimetype or encoding or mimetype.startswith(("message/", "multipart/")):
            mimetype = "application/octet-stream"
        content = path.read_bytes()
        if not content:
            raise ValueError(f"empty attachment: {path.name!r}")  # the API would refuse it
        message.add_attachment(content, *mimetype.split("/"), filename=one_line(path.name))
    return message


def connect(
    host: str, port: int, username: str, password: str, *, timeout: float = 30.0, debug: int = 0
) -> smtplib.SMTP:
    """Return a connection over verified TLS, logged in; timeout is in seconds, for each step.

    A loopback host may do without TLS and login, as local mail catchers do. debug is smtplib's
    debuglevel. Raises smtplib.SMTPException, ssl.SSLError or another OSError, and UnicodeError for
    a host or login that cannot be encoded.
    """
    loopback = re.fullmatch(r"localhost|127(\.\d+){3}|::1", host, re.IGNORECASE)
    # The EHLO name is given, because looking up this machine's own can take seconds.
    smtp = smtplib.SMTP(host, port, local_hostname="[127.0.0.1]", timeout=timeout)
    try:
        if smtp.sock:  # or Nagle's algorithm holds EHLO back after the TLS 1.3 handshake
            smtp.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        smtp.set_debuglevel(debug)
        smtp.ehlo_or_helo_if_needed()
        if smtp.has_extn("starttls") or not loopback:
            context = ssl.create_default_context()
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            plain, injected = smtp.file, b""
            smtp.starttls(context=context)
            with contextlib.suppress(OSError):  # the reader has no socket any more, only a buffer
                injected = plain.peek() if plain else b""
            if injected:
                raise smtplib.SMTPException(f"unencrypted data after STARTTLS: {injected!r}")
            smtp.ehlo_or_helo_if_needed()
        if username and (smtp.has_extn("auth") or not loopback):
            smtp.set_debuglevel(0)  # AUTH shows the password, in base64
            if "PLAIN" in smtp.esmtp_features.get("auth", "").split():
                # One attempt, one round trip, no MD5: login() would try CRAM-MD5 first.
                smtp.esmtp_features["auth"] = "PLAIN"
            smtp.login(username, password)
            smtp.set_debuglevel(debug)
    except BaseException:
        smtp.close()
        raise
    return smtp


def send(smtp: smtplib.SMTP, message: EmailMessage) -> dict[str, tuple[int, bytes]]:
    """Send a message; the connection stays open for more.

    Returns the recipients that were refused, each with its reply, where others were accepted.
    Raises smtplib.SMTPException; explain() says whether the message may have been taken.
    """
    fields = [message[name] for name in ("To", "Cc", "Bcc") if name in message]
    # Each recipient once, or smtplib miscounts refusals.
    recipients = list(dict.fromkeys(address.addr_spec for field in fields for address in field.addresses))
    # Not send_message(), which writes ">From" where a line begins with "From".
    without_bcc = copy.copy(message)
    del without_bcc["Bcc"]
    # Unfolded, as Mailtrap wants X-MT-Custom-Variables.
    content = without_bcc.as_bytes(policy=message.policy.clone(linesep="\r\n", max_line_length=None))
    refused = smtp.sendmail(message["From"].addresses[0].addr_spec, recipients, content)
    # smtplib takes 250 and 251 for a yes, RFC 5321 every 2xx.
    return {address: reply for address, reply in refused.items() if not 200 <= reply[0] <= 299}


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


def explain(error: Exception, *, secrets: Iterable[str] = ()) -> tuple[str, str, int, bool]:
    """Return what happened, what to do, the exit status, and whether to try again at once.

    What happened is told in the server's words, without control characters and secrets. Only what
    the server itself said it did not take, and might take later, is to be tried again at once.
    """
    replies: list[tuple[int, bytes | str]] = []
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        replies = sorted(error.recipients.values(), reverse=True)
    elif isinstance(error, smtplib.SMTPResponseException):
        replies = [(error.smtp_code, error.smtp_error)]
    code = replies[0][0] if replies else 0
    words = [f"{c} {w.decode(errors='replace') if isinstance(w, bytes) else w}" for c, w in replies]
    happened = "; ".join(words) or str(error) or type(error).__name__
    for secret in filter(None, secrets):
        happened = happened.replace(secret, "***")
    happened = "".join(char if char.isprintable() else " " for char in happened)
    happened = " ".join(happened.split())[:400]
    # smtplib raises the same errors at every step. The outcome is unknown where it waited for the
    # answer to the content in vain, got one that is neither yes nor no, or may have: later trouble
    # with RSET, QUIT or the debug output hides it.
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    steps = [frame.f_code.co_name for frame in frames]
    # Once data() was asked for the content, it has more local variables than self and msg.
    handed_over = steps[-2:] == ["data", "getreply"] and len(frames[-2].f_locals) > 2
    no_verdict = isinstance(error, smtplib.SMTPDataError) and not 400 <= code <= 599 and steps[-1:] == ["sendmail"]
    if handed_over or no_verdict or {"rset", "_print_debug", "__exit__"} & {*steps}:
        return happened, "It may have been taken: look in Mailtrap before you send it again.", 74, False
    login = "MAILTRAP_SMTP_USERNAME and MAILTRAP_SMTP_PASSWORD"
    ca_file = "name your company's CA file in SSL_CERT_FILE, or run Install Certificates.command on macOS"
    # fmt: off
    for pattern, status, again, advice in (
        (r"\w+ [45]\d\d .*emails per second", 75, True, "A sandbox takes few messages in 10 seconds: slow down."),
        (r"\w+ 535 .*connections", 75, True, "An account may hold 10 connections at once: close some."),
        (r"\w+ 535 .*limit", 75, False, "The password is right, but the quota is used up: see Billing in Mailtrap."),
        (r"\w+ 53[0458] ", 77, False,
         f"Copy {login} again: a sandbox has its own pair, live and bulk take api and an API token."),
        (r"smtpresponseexception ", 69, False,
         "TLS did not start, or a reply was no SMTP, so nothing was sent: try again later."),
        (r"\w+ 4\d\d ", 75, True, "The server cannot take it just now: send it again later."),
        (r"smtp(connect|helo)error ", 69, False,
         "It turns this machine away: check MAILTRAP_SMTP_HOST, or use another network."),
        (r"\w+ 5\d\d .*(not allowed|sender's domain)", 65, False,
         "Verify the domain of MAILTRAP_FROM_EMAIL under Sending Domains; a subdomain counts as another."),
        (r"\w+ 5\d\d .*demo domain", 65, False,
         "The demo domain writes to the account's owner only: see MAILTRAP_TO_EMAIL."),
        (r"\w+ 552 ", 65, False, "Attach less: the free sandbox takes 5 MB, live sending 10 MB."),
        (r"\w+ 5\d\d .*no sandbox", 65, False, "No sandbox has that address: check MAILTRAP_TO_EMAIL."),
        (r"\w+ 5\d\d ", 65, False, "Change what it objects to: MAILTRAP_FROM_EMAIL, MAILTRAP_TO_EMAIL, the content."),
        (r"smtpnotsupportederror .*tls", 69, False, "Nothing is sent without TLS: check MAILTRAP_SMTP_HOST."),
        (r"smtpnotsupportederror ", 69, False, "It has no login, so it is not Mailtrap: check MAILTRAP_SMTP_HOST."),
        (r".*unencrypted data", 69, False, "Somebody may be tampering with the connection: use another network."),
        (r"sslcert.* mismatch", 69, False, "The server goes by another name: check MAILTRAP_SMTP_HOST."),
        (r"sslcert.* (expired|not yet valid)", 69, False,
         "Check this machine's date; if it is right, the server is at fault."),
        (r"sslcert.* key identifier", 69, False,
         "Your company's CA is too old for Python 3.13 and later: ask for a renewed one."),
        (r"sslcert", 69, False, f"This machine does not know who signed the certificate: {ca_file}."),
        (r"ssl.* version", 69, False, "No TLS 1.2 or newer after STARTTLS: try MAILTRAP_SMTP_PORT=2525."),
        (r"gaierror ", 69, False, "The name was not found: check MAILTRAP_SMTP_HOST and the network."),
        (r"unicode\w*error ", 78, False, f"Check MAILTRAP_SMTP_HOST, {login}."),
        (r"\w+ .*(timed out|refused)", 69, False,
         "Is the server up, MAILTRAP_SMTP_PORT right? Networks block 25, 465, 587, seldom 2525: else use the API."),
    ):
        # fmt: on
        if re.match(pattern, f"{type(error).__name__} {happened} ".lower()):
            return happened, advice, status, again
    if isinstance(error, OSError | ValueError):
        return happened, "Nothing was sent: check the network and MAILTRAP_SMTP_HOST.", 69, False
    return happened, "This was not foreseen: look in Mailtrap before you send it again.", 74, False


def read_settings(environ: Mapping[str, str], *, credentials: bool = True) -> dict[str, str]:
    """Return the settings, stripped and checked; a dry run needs no credentials.

    Raises ValueError with a line for each setting that is missing or invalid.
    """
    atom = r"[\w!#$%&'*+/=?^`{|}~-]+"
    email = rf"{atom}(?:\.{atom})*@[\w-]+(?:\.[\w-]+)*"
    address = rf'\s*(?:{email}|(?:"[^"]*"\s*|[^",<>]*)<{email}>)\s*'
    port = r"[1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5]"
    login = "Sandboxes > your sandbox > Integration > SMTP, in Mailtrap"
    one = 'like you@example.com or "Name, if you like" <you@example.com>'
    known = {
        "MAILTRAP_SMTP_HOST": ("sandbox.smtp.mailtrap.io", r"[\w.:-]{1,253}", "a host name"),
        "MAILTRAP_SMTP_PORT": ("2525", port, "a number from 1 to 65535"),
        "MAILTRAP_SMTP_USERNAME": ("", "[ -~]+", login),
        "MAILTRAP_SMTP_PASSWORD": ("", "[ -~]+", login),
        "MAILTRAP_FROM_EMAIL": ("", address, one),
        "MAILTRAP_TO_EMAIL": ("", rf"{address}(?:,{address})*", f"{one}, or several with commas between"),
    }
    settings = {name: environ.get(name, "").strip() or known[name][0] for name in known}
    if re.fullmatch(r"localhost|127(\.\d+){3}|::1", settings["MAILTRAP_SMTP_HOST"], re.IGNORECASE):
        credentials = False
    problems = []
    for name, (_, pattern, hint) in known.items():
        value = settings[name]
        unsafe = re.search("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]|=\\?[^ ?]+\\?[BbQq]\\?", value)
        optional = hint == login and not credentials
        if not optional and (unsafe or not re.fullmatch(pattern, value, re.ASCII)):
            found = f"invalid ({value[:80]!r})" if name.endswith("_EMAIL") else "invalid"
            problems.append(f"{name} is {found if value else 'missing'}: {hint}")
    if problems:
        raise ValueError("\n".join(["settings are missing or invalid", *problems]))
    return settings


# From here on: the program around it.

TEXT = """\
It works: Mailtrap took this message over SMTP.

It was built with Python's email package and sent with smtplib, in UTF-8: äöü, €, 你好.
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
    parser = argparse.ArgumentParser(description="Send one test message to Mailtrap over SMTP.")
    add = parser.add_argument
    add("--from", dest="sender", metavar="ADDRESS", help="instead of MAILTRAP_FROM_EMAIL")
    add("--to", action="append", metavar="ADDRESS", help="instead of MAILTRAP_TO_EMAIL; repeatable")
    add("--subject", help="instead of the built-in subject")
    add("--text", help="the text; without --html the only body")
    add("--html", help="the HTML; without --text the only body")
    add("--attach", action="append", default=[], metavar="PATH", help="a file; repeatable")
    add("--dry-run", action="store_true", help="print what would be sent; needs neither credentials nor network")
    add("--verbose", action="store_true", help="show the conversation, without secrets")
    args = parser.parse_args(argv)
    if args.subject is None:
        args.subject = f"Mailtrap SMTP test, {datetime.now():%Y-%m-%d %H:%M:%S}"
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
    show(f"smtp_client: {happened}\n{advice}", sys.stderr)
    return status


def deliver(settings: Mapping[str, str], message: EmailMessage, *, verbose: bool) -> int:
    """Send the message, say what became of it, and return the exit status."""
    host, port = settings["MAILTRAP_SMTP_HOST"].lower(), int(settings["MAILTRAP_SMTP_PORT"])
    username, password = settings["MAILTRAP_SMTP_USERNAME"], settings["MAILTRAP_SMTP_PASSWORD"]
    secrets = [password, f"\0{username}\0{password}"] if password else []
    secrets += [base64.b64encode(secret.encode(errors="replace")).decode().rstrip("=") for secret in secrets]
    explain_safely = functools.partial(explain, secrets=secrets)

    def attempt() -> tuple[str, dict[str, tuple[int, bytes]]]:
        with contextlib.closing(connect(host, port, username, password, debug=verbose)) as smtp:
            tls = smtp.sock.version() if isinstance(smtp.sock, ssl.SSLSocket) else None
            refused = send(smtp, message)
            with contextlib.suppress(OSError):  # it was accepted, whatever becomes of QUIT
                smtp.quit()
        return tls or "no TLS", refused

    started = time.monotonic()
    try:
        tls, refused = send_with_retries(
            attempt, explain=explain_safely, notify=lambda line: show(f"smtp_client: {line}", sys.stderr)
        )
    except Exception as error:
        happened, advice, status, _ = explain_safely(error)
        return report_failure(f"{happened} ({host}:{port})", advice, status)
    accepted = [str(address) for address in message["To"].addresses if address.addr_spec not in refused]
    fate = "It is on its way to real people: accepted is not yet delivered, so see Email Logs in Mailtrap."
    if host == "sandbox.smtp.mailtrap.io":
        fate = "The sandbox captured it; nobody received it. See it at https://mailtrap.io/sandboxes"
    elif not host.endswith(".smtp.mailtrap.io"):
        fate = "That server is not Mailtrap's: what becomes of the message is up to it."
    show(
        f"Accepted by {host}:{port} ({tls}) in {time.monotonic() - started:.1f} s\n"
        f"  From        {message['From']}\n"
        f"  To          {', '.join(accepted)}\n"
        f"  Subject     {message['Subject']}\n"
        f"  Message-ID  {message['Message-ID']}\n"
        f"{fate}",
        sys.stdout,
    )
    if refused:
        happened = explain_safely(smtplib.SMTPRecipientsRefused(refused))[0]
        advice = "The others have it: send it again to these alone, once their addresses are corrected."
        return report_failure(f"refused for {', '.join(refused)}: {happened}", advice, 65)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Send one test message; return the exit status, as README.md lists them."""
    args = parse_args(argv)
    flags = {"MAILTRAP_FROM_EMAIL": args.sender, "MAILTRAP_TO_EMAIL": args.to and ",".join(args.to)}
    status = 78
    try:
        load_dotenv(interpolate=False)  # "${" may be part of a password
        given = {name: value for name, value in flags.items() if value is not None}
        settings = read_settings({**os.environ, **given}, credentials=not args.dry_run)
        status = 2  # from here on only a flag can be wrong
        message = build_message(
            settings["MAILTRAP_FROM_EMAIL"],
            to=re.findall(r'(?:"[^"]*"|[^,"])+', settings["MAILTRAP_TO_EMAIL"]),
            subject=args.subject,
            text=args.text or "",
            html=args.html or "",
            attachments=args.attach,
        )
        if args.dry_run:
            show(message.as_string(policy=message.policy.clone(linesep="\n", max_line_length=None)), sys.stdout)
            return 0
        return deliver(settings, message, verbose=args.verbose)
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

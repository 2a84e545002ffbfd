"""Send one test message to Mailtrap over SMTP, and say whether Mailtrap accepted it.

    python smtp_client.py

.env.example explains the settings. To send something else, edit main().

Exit status:
    0  accepted
    1  unknown: no clear answer after sending began; look in Mailtrap before you try again
    2  not sent: a setting is missing or wrong
    3  not sent: there was no connection, or the server refused the message
"""

import os
import sys
from pathlib import Path

from dotenv import load_dotenv  # missing? pip install -r requirements.txt

# ---- Copy from here to "End of copy". It reads no setting and prints nothing. ----

import re
import smtplib
import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from email.contentmanager import raw_data_manager
from email.header import Header
from email.message import EmailMessage
from email.policy import Compat32
from email.utils import formataddr, formatdate, make_msgid
from typing import Any


@contextmanager
def connect(
    host: str, port: int, username: str, password: str, *, timeout: float = 30.0
) -> Iterator[smtplib.SMTP]:
    """Yield a TLS connection, logged in, for one thread; timeout in seconds. Raises OSError."""
    context = ssl.create_default_context()  # without it, starttls() trusts any server
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # Debian's Python would take older ones
    # Without a local_hostname, smtplib looks one up, which can take seconds.
    with closing(Connection(host, port, local_hostname="[127.0.0.1]", timeout=timeout)) as smtp:
        if smtp.sock:  # without TCP_NODELAY, the login waits for 40 ms
            smtp.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        smtp.starttls(context=context)
        smtp.ehlo_or_helo_if_needed()
        # Not login(), which would try a wrong password three times.
        smtp.auth("PLAIN", lambda challenge=None: f"\0{username}\0{password}")
        yield smtp
        with suppress(Exception):  # what was accepted stays so, whatever becomes of QUIT
            smtp.quit()


class OutcomeUnknownError(Exception):
    """The message may have been accepted, or not. After any other Exception, nothing was sent."""


class Connection(smtplib.SMTP):
    """A connection whose sendmail() raises OutcomeUnknownError if nobody can know the outcome."""

    def data(self, msg: Any) -> tuple[int, bytes]:
        """Hand over the content; sendmail() calls this after MAIL and RCPT."""
        try:
            code, reply = super().data(msg)
            if code != 250 and not 400 <= code <= 599:  # neither a yes nor a no
                raise smtplib.SMTPException(f"the server replied {code} {reply!r}")
        except smtplib.SMTPDataError:  # the command DATA was refused, before the content
            with suppress(OSError):  # without RSET, the next message would be refused
                self.rset()
            raise
        except Exception as error:
            self.close()
            raise OutcomeUnknownError(str(error)) from error
        return code, reply  # sendmail() goes on to raise a refusal


def build_message(
    sender: tuple[str, str], to: Iterable[tuple[str, str]], subject: str, text: str, html: str = ""
) -> EmailMessage:
    """Return a message; people are (name, address) pairs. Raises ValueError for a wrong address."""
    message = EmailMessage(policy=MessagePolicy())
    message["From"] = header_address(*sender)
    message["To"] = ", ".join(header_address(*person) for person in to)
    message["Subject"] = header_text(subject)
    message["Date"] = formatdate(localtime=True)
    message["Message-ID"] = make_msgid(domain=sender[1].partition("@")[2])
    message.set_content(text)
    if html:
        message.add_alternative(html, "html")
    return message


class MessagePolicy(Compat32):
    """Python's older header code: the newer one garbles names and, until 3.12.4, adds headers."""

    content_manager = raw_data_manager  # set_content() and the like need it

    def header_store_parse(self, name: str, value: str) -> tuple[str, str]:
        """Refuse a line break that would begin another header; raises ValueError."""
        if not all(line.startswith(" ") for line in value.splitlines()[1:]):
            raise ValueError(f"a line break in {name}: {value!r}")
        return name, value


def header_address(name: str, address: str) -> str:
    """Return a person for From, To, Cc or Reply-To; raises ValueError for a wrong address."""
    # What HTML forms allow, but no "?": so nothing can follow the address, or be decoded in it.
    if not re.fullmatch(r"[\w.!#$%&'*+/=^`{|}~-]{1,64}@[\w.-]{1,255}", address, re.ASCII):
        raise ValueError(f"not an email address: {address!r}")
    return formataddr((header_text(name), address))


def header_text(text: str) -> str:
    """Return a text for a header, encoded if it must be (RFC 2047)."""
    if re.fullmatch("[ -~]{0,400}", text) and "=?" not in text:  # more may not fit into a line
        return text
    # Without header_name, the first line of a long subject would be empty.
    return Header(text, "utf-8", maxlinelen=75, header_name="Subject").encode()


def is_temporary(error: Exception) -> bool:
    """Say whether the server refused only for now, so that trying again may help."""
    # Mailtrap's limits on rate and connections look permanent, but are not.
    for_now = re.compile(r"4\d\d |550 .*too many emails|535 .*too many connections", re.I | re.S)
    return bool(replies(error)) and all(map(for_now.match, replies(error)))


def replies(error: BaseException) -> list[str]:
    """Return the server's replies in an error of smtplib, such as "550 5.7.1 No"."""
    pairs: Any = []
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        pairs = error.recipients.values()
    elif isinstance(getattr(error, "smtp_error", None), bytes):
        pairs = [error.args[:2]]
    return [f"{code} {text.decode(errors='replace')}" for code, text in pairs]


# ---- End of copy. ----

SANDBOX = "sandbox.smtp.mailtrap.io"
LOOK_FIRST = "It may have been accepted: look in Mailtrap before you send it again."
LOGIN = "copied from Sandboxes > (your sandbox) > Integration > SMTP"
SETTINGS = {  # name: default, pattern, what it must be; {!r} shows what it is
    "MAILTRAP_SMTP_HOST": (SANDBOX, "[!-~]+", "a host name, not {!r}"),
    "MAILTRAP_SMTP_PORT": ("2525", "[1-9][0-9]{0,4}", "a number up to 65535, not {!r}"),
    "MAILTRAP_SMTP_USERNAME": ("", "[!-~]+", LOGIN),
    "MAILTRAP_SMTP_PASSWORD": ("", "[!-~]+", LOGIN),
    "MAILTRAP_FROM_EMAIL": ("hello@example.com", "[!-~]+@[!-~]+", "one address, not {!r}"),
    "MAILTRAP_TO_EMAIL": ("you@example.com", "[!-~]+@[!-~]+", "one address, not {!r}"),
}


def main(argv: list[str] | None = None) -> int:
    """Send one test message; return the exit status."""
    if argv:
        print(__doc__)
        return 0 if argv == ["--help"] else 2
    try:
        host, port, username, password, sender, to = read_settings()
        text = "smtp_client.py sent this. These should look right: äöü, €, 你好."
        message = build_message(("", sender), [("", to)], "It works ✓", text, f"<h3>{text}</h3>")
    except (OSError, ValueError) as error:
        print(f"smtp_client: {error}\nNothing was sent. Correct it in .env.", file=sys.stderr)
        return 2

    fate = "This is not the sandbox: real people may receive it."
    if host == SANDBOX:
        fate = "The sandbox captures it: nobody receives it."
    print(f"Sending to {host}:{port}. {fate}", flush=True)
    try:
        with connect(host, int(port), username, password) as smtp:
            # With several recipients, sendmail() returns those that were refused.
            smtp.sendmail(sender, [to], message.as_string())
    except (OutcomeUnknownError, KeyboardInterrupt) as error:
        print(f"smtp_client: {describe(error)}\n{LOOK_FIRST}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:  # ValueError: a host a..b, a garbled challenge
        print(f"smtp_client: {describe(error)}\n{advice(error)}", file=sys.stderr)
        return 3
    print(f"Accepted: {message['Message-ID']}")
    return 0


def read_settings() -> list[str]:
    """Return the values of SETTINGS; raises ValueError for all that are missing or wrong."""
    # Only the .env beside this script, not one of a folder above; a password may hold "${".
    load_dotenv(Path(__file__).with_name(".env"), interpolate=False)
    found, wrong = [], []
    for name, (default, pattern, meaning) in SETTINGS.items():
        value = os.environ.get(name, "").strip() or default
        if not re.fullmatch(pattern, value) or (name.endswith("PORT") and int(value) > 65535):
            wrong.append(f"{name} must be {meaning.format(value)}.")
        found.append(value)
    if wrong:
        raise ValueError("\n".join(wrong))
    return found


def describe(error: BaseException) -> str:
    """Return what happened, in at most 400 characters, without any that steer a terminal."""
    told = "; ".join(replies(error)) or str(error) or repr(error)
    return "".join(it if it.isprintable() else " " for it in told)[:400]


def advice(error: Exception) -> str:
    """Return what to do about a message that was not sent."""
    reply = "; ".join(replies(error))
    if is_temporary(error):
        return "The server refuses it only for now: wait a minute, then try again."
    if isinstance(error, smtplib.SMTPAuthenticationError) and reply.startswith("535"):
        if "limit" in reply and "reached" in reply:
            return "The login is right, but your plan is used up: see Billing in Mailtrap."
        return f"MAILTRAP_SMTP_USERNAME and MAILTRAP_SMTP_PASSWORD must be {LOGIN}."
    if isinstance(error, smtplib.SMTPSenderRefused) and reply.startswith("550"):
        return "Verify the domain of MAILTRAP_FROM_EMAIL in Mailtrap, under Sending Domains."
    if reply:
        return "Correct what the server objects to, then try again. README.md explains more."
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return "This server offers no TLS, so no password is sent to it. Check MAILTRAP_SMTP_HOST."
    if isinstance(error, ssl.SSLCertVerificationError):
        return "Check MAILTRAP_SMTP_HOST, or name your network's CA file in SSL_CERT_FILE."
    return "Check MAILTRAP_SMTP_HOST and your network; try MAILTRAP_SMTP_PORT=587, or the API."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A stand-in for Mailtrap on this computer, to try the two scripts without an account.

    python tests/fake_mailtrap.py                 run both scripts, show what arrived
    python tests/fake_mailtrap.py COMMAND ...     run a Python program, show what arrived

It answers as docs.mailtrap.io and the descriptions in github.com/mailtrap/mailtrap-openapi say.
"""

# /// script
# requires-python = ">=3.10"
# dependencies = ["aiosmtpd>=1.4.6", "mailtrap>=2.11,<3", "python-dotenv>=1.2,<2", "trustme>=1.2"]
# ///

import base64
import itertools
import json
import logging
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from email import message_from_bytes
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlsplit

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult

NAMES = {"sandbox": "sandbox", "send": "transactional", "bulk": "bulk"}
STREAMS = {f"{name}.api.mailtrap.io": stream for name, stream in NAMES.items()}
SMTP_HOSTS = ("sandbox.smtp.mailtrap.io", "live.smtp.mailtrap.io", "bulk.smtp.mailtrap.io")
HOSTS = ("localhost", "127.0.0.1", "mailtrap.io", *SMTP_HOSTS, *STREAMS)
# Runs at the start of a Python program, if it stands in a sitecustomize.py on PYTHONPATH: whoever
# looks up a host of Mailtrap's is led to this computer. Names and certificates stay the real ones.
LOOK_UP = """
import socket
look_up = socket.getaddrinfo
ports = {{443: {api_port}, 25: {smtp_port}, 587: {smtp_port}, 2525: {smtp_port}}}

def look_up_here(host, port, *rest, **more):
    if str(host).endswith("mailtrap.io"):
        host, port = "127.0.0.1", ports.get(port, port)
    return look_up(host, port, *rest, **more)

socket.getaddrinfo = look_up_here
"""
TOO_MANY = "Requested action not taken: too many emails per second"
BANNER = """\
A stand-in plays Mailtrap on this computer. Nothing leaves it, and no real mail is sent.
It plays the sandbox. Its own username, password and token replace those in .env."""
NEXT = """
With your own account it looks the same, and takes two settings: see README.md."""
PYTHON_PATH = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
QUOTA = "The email limit is reached. Please upgrade your plan"
SMTP_TEXTS = {  # how a reply of aiosmtpd begins, and what Mailtrap says in its place
    "220 Ready": "220 2.0.0 Start TLS",
    "354 End": "354 Go ahead",
    "221 Bye": "221 2.0.0 Bye",
    "552 Error": "552 5.3.4 Error: message too big",
}
OBJECTS = ("from", "reply_to", "template_variables", "custom_variables", "headers")
FIELDS = {
    **dict.fromkeys(OBJECTS, dict),
    **dict.fromkeys(("to", "cc", "bcc", "attachments"), list),
    **dict.fromkeys(("subject", "text", "html", "category", "template_uuid"), str),
}

logging.getLogger("mail.log").setLevel(logging.CRITICAL)  # aiosmtpd's, on standard error
ThreadingHTTPServer.request_queue_size = 100


@dataclass
class Captured:
    """One message that was accepted."""

    transport: str
    stream: str
    sender: str
    recipients: list[str]
    subject: str
    text: str
    html: str
    files: list[str]
    source: Any  # the bytes after DATA, or the JSON of the request
    id: str = ""
    at: str = ""

    def row(self, sandbox_id: str) -> dict[str, Any]:
        ids = {"id": int(self.id), "sandbox_id": int(sandbox_id)}
        return {**ids, "sent_at": self.at, "subject": self.subject, "from_email": self.sender}

    def describe(self) -> str:
        """Return what a person would want to check."""
        lines = [f"Arrived over {self.transport} in the {self.stream} stream: {self.subject}"]
        lines += [f"  from {self.sender} for {', '.join(self.recipients)}"]
        lines += [f"  | {line}" for line in (self.text or self.html).rstrip().splitlines()]
        return "\n".join([*lines, *(f"  attached: {name}" for name in self.files)])


class FakeMailtrap:
    """Both servers, on free ports; use it in a with statement."""

    username, password = "sandbox-user-0815", "sandbox-pa55w0rd-canary"
    token, sandbox_id = "api-t0ken-canary-4711", "4242"
    verified_domain = "example.com"

    def __init__(self) -> None:
        """Set up what the servers share; they start on entering."""
        self.ids = itertools.count(5_000_001)
        self.open_connections: set[SMTP] = set()
        self.reset()

    def reset(self) -> None:
        """Forget what arrived and lift all limits."""
        self.messages: list[Captured] = []
        self.requests: list[tuple[str, str, Any]] = []  # to the API: host, path, JSON
        self.logins: list[tuple[str, bool]] = []  # mechanism, and whether TLS was on
        self.rate = self.quota = 1_000_000
        self.connections = 10
        self.waited = 0.0
        self.size = 5 * 1024 * 1024

    def __enter__(self) -> "FakeMailtrap":
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self.temporary.name)
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(str(self.folder / "ca.pem"))
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(*HOSTS).configure_cert(self.tls)
        self.smtp = _SmtpServer(self)
        self.smtp.start()
        self.api = ThreadingHTTPServer(("127.0.0.1", 0), _Api)
        self.api.fake, self.api.handle_error = self, lambda *_: None  # silent if clients break off
        threading.Thread(target=self.api.serve_forever, args=[0.05], daemon=True).start()
        self.smtp_port, self.api_port = self.smtp.port, self.api.server_port
        look_up = LOOK_UP.format(api_port=self.api_port, smtp_port=self.smtp_port)
        (self.folder / "sitecustomize.py").write_text(look_up)
        return self

    def __exit__(self, *_: object) -> None:
        self.smtp.stop()
        self.api.shutdown()
        self.api.server_close()
        self.temporary.cleanup()

    @property
    def settings(self) -> dict[str, str]:
        """The settings of an account here, which lead to the sandbox."""
        return {
            "MAILTRAP_SMTP_HOST": "sandbox.smtp.mailtrap.io",
            "MAILTRAP_SMTP_PORT": "2525",
            "MAILTRAP_SMTP_USERNAME": self.username,
            "MAILTRAP_SMTP_PASSWORD": self.password,
            "MAILTRAP_API_TOKEN": self.token,
            "MAILTRAP_STREAM": "sandbox",
            "MAILTRAP_SANDBOX_ID": self.sandbox_id,
        }

    @property
    def environment(self) -> dict[str, str]:
        """What leads a Python program here: look-ups, the certificate authority, no proxy."""
        return {
            "PYTHONPATH": os.pathsep.join([str(self.folder), *PYTHON_PATH]),
            **dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"), str(self.folder / "ca.pem")),
            **dict.fromkeys(("NO_PROXY", "no_proxy"), "*"),
        }

    def now(self) -> datetime:
        """Return the time, with what a test pretends to have waited."""
        return datetime.now(timezone.utc) + timedelta(seconds=self.waited)

    def limit(self) -> str:
        """Return what Mailtrap says if the quota or the rate per 10 seconds is used up, or ""."""
        recent = (self.now() - timedelta(seconds=10)).isoformat()
        if len(self.messages) >= self.quota:
            return QUOTA
        return TOO_MANY if sum(one.at > recent for one in self.messages) >= self.rate else ""

    def capture(self, captured: Captured) -> str:
        """Keep an accepted message and return its id."""
        captured.id, captured.at = str(next(self.ids)), self.now().isoformat()
        self.messages.append(captured)
        return captured.id


class _Api(BaseHTTPRequestHandler):
    """One connection, over TLS."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        self.fake = self.server.fake
        self.request = self.fake.tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def log_message(self, *_: object) -> None:
        """Leave standard error to the client."""

    def do_POST(self) -> None:
        """Record the request, check what all calls have in common, and answer."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            content = json.loads(body or b"null")
        except (ValueError, RecursionError):
            return self.answer(400, errors("request body is not JSON"))
        host = self.headers.get("Host", "").removesuffix(":443")
        self.fake.requests.append((host, self.path, content))
        if self.headers.get("Authorization") != f"Bearer {self.fake.token}":
            return self.answer(401, errors("Unauthorized"))
        if len(body) > self.fake.size * 4 // 3:
            return self.answer(413, errors("Request Entity Too Large"))
        if (self.command, host) == ("GET", "mailtrap.io"):
            return self.answer(*self.read_back())
        return self.answer(*self.send(STREAMS.get(host, ""), content))

    do_GET = do_POST

    def answer(self, status: int, content: Any) -> None:
        """Send JSON, or a text as it is."""
        is_text = isinstance(content, str)
        body = content.encode() if is_text else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if is_text else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send(self, stream: str, content: Any) -> tuple[int, Any]:
        """Take a message or a batch."""
        place = f"/{self.fake.sandbox_id}" if stream == "sandbox" else ""
        if not stream or self.path not in (f"/api/send{place}", f"/api/batch{place}"):
            return 404, {"error": "Not Found"}
        if limit := self.fake.limit():
            return 429, errors("Rate limit exceeded" if limit == TOO_MANY else limit)
        if self.path.startswith("/api/send"):
            return self.take(stream, content)
        batch = content if isinstance(content, dict) else {}
        base, requests = batch.get("base") or {}, batch.get("requests")
        if not (isinstance(base, dict) and isinstance(requests, list) and requests):
            return 400, errors("empty field: 'requests'")
        if len(requests) > 500:
            return 400, errors("'requests' must not exceed 500 messages")
        mails = [{**base, **one} if isinstance(one, dict) else one for one in requests]
        return 200, {"success": True, "responses": [self.take(stream, one)[1] for one in mails]}

    def take(self, stream: str, mail: Any) -> tuple[int, Any]:
        """Capture one message, or say what is wrong with it."""
        if problems := problems_of(mail):
            return 400, errors(*problems)
        sender = mail["from"]["email"]
        if stream != "sandbox" and not sender.endswith(f"@{self.fake.verified_domain}"):
            return 401, errors("Unauthorized")
        people = [one["email"] for name in ("to", "cc", "bcc") for one in mail.get(name, [])]
        texts = [mail.get(name, "") for name in ("subject", "text", "html")]
        files = [one["filename"] for one in mail.get("attachments", [])]
        first = self.fake.capture(Captured("the API", stream, sender, people, *texts, files, mail))
        ids = [f"{first}-{number}" for number in range(len(people))]
        return 200, {"success": True, "message_ids": [first] if stream == "sandbox" else ids}

    def read_back(self) -> tuple[int, Any]:
        """Answer as Mailtrap's description has it since May 2026, without account ids."""
        url = urlsplit(self.path)
        folder = f"/api/sandboxes/{self.fake.sandbox_id}/messages"
        captured = [one for one in reversed(self.fake.messages) if one.stream == "sandbox"]
        words = dict(parse_qsl(url.query)).get("search", "").lower()
        found = [one.row(self.fake.sandbox_id) for one in captured if words in one.subject.lower()]
        answers: dict[str, Any] = {folder: found[:30]}
        answers |= {f"{folder}/{one.id}/body.txt": one.text for one in captured}
        if url.path in answers:
            return 200, answers[url.path]
        return 404, {"error": "Not Found"}


def errors(*texts: str) -> dict[str, Any]:
    return {"success": False, "errors": list(texts)}


def problems_of(mail: Any) -> list[str]:
    """Return what the API finds wrong with one message; an empty list if nothing."""
    try:
        wrong = [name for name in mail if not isinstance(mail[name], FIELDS[name])]
        content = {name for name in ("subject", "text", "html", "category") if mail.get(name)}
        template = "template_uuid" in mail
        people = [one["email"] for name in ("to", "cc", "bcc") for one in mail.get(name, [])]
        named = [one["email"] for one in (mail.get("from"), mail.get("reply_to")) if one]
        addresses = [re.fullmatch(r"[^@\s<>,]+@[^@\s<>,]+", text) for text in people + named]
        for one in mail.get("attachments", []):
            base64.b64decode(one["content"], validate=True)
        checks = {
            f"{wrong} must be of another type": not wrong,
            "'from' is required": mail.get("from"),
            "'to', 'cc' or 'bcc' address is required": people,
            "'to', 'cc' and 'bcc' must not exceed 1000 addresses": len(people) <= 1000,
            "'email' is invalid": all(addresses),
            f"'template_uuid' is not allowed with {content}": not (template and content),
            "'subject' is required": template or "subject" in content,
            "'subject' is invalid": len(mail.get("subject", "").splitlines()) <= 1,
            "must specify either text or html body": template or {"text", "html"} & content,
            "'category' must not exceed 255 characters": len(mail.get("category", "")) <= 255,
            "'custom_variables' is too long": len(json.dumps(mail.get("custom_variables"))) <= 1000,
        }
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        return [f"request body is not understood: {type(error).__name__} {error}"]
    return [problem for problem, right in checks.items() if not right]


class _SmtpServer(Controller):
    """The SMTP server; aiosmtpd calls handle_MAIL() and the like."""

    def __init__(self, fake: FakeMailtrap) -> None:
        self.fake = fake
        tls = {"tls_context": fake.tls, "auth_require_tls": False, "authenticator": self.log_in}
        super().__init__(self, "127.0.0.1", 0, ident="ESMTP ready", **tls)

    def factory(self) -> SMTP:
        kwargs = {"hostname": "smtp.mailtrap.io", "data_size_limit": self.fake.size}
        return _Smtp(self, **{**self.SMTP_kwargs, **kwargs})

    def _trigger_server(self) -> None:
        self.port = self.server.sockets[0].getsockname()[1]  # before it connects to itself
        super()._trigger_server()

    def log_in(self, _server, session, _envelope, mechanism, login) -> AuthResult:
        self.fake.logins.append((mechanism, session.ssl is not None))
        known = {self.fake.username: self.fake.password, "api": self.fake.token}
        username = login.login.decode()
        reply = "235 2.0.0 OK"
        if known.get(username) != login.password.decode():
            reply = "535 5.7.0 Invalid login or password"
        elif self.fake.limit() == QUOTA:
            reply = f"535 5.7.0 {QUOTA}"
        elif len(self.fake.open_connections) > self.fake.connections:
            reply = "535 5.7.8 Too many connections per account"
        return AuthResult(success=reply[0] == "2", handled=False, message=reply, auth_data=username)

    async def handle_EHLO(self, server, session, _envelope, name, _replies) -> list[str]:
        session.host_name = name
        lines = [server.hostname, f"SIZE {self.fake.size}", "PIPELINING", "ENHANCEDSTATUSCODES"]
        lines += ["8BITMIME", "DSN", "AUTH PLAIN LOGIN CRAM-MD5"]
        if not session.ssl:
            lines.append("STARTTLS")
        return [f"250-{line}" for line in lines[:-1]] + [f"250 {lines[-1]}"]

    async def handle_MAIL(self, _server, session, envelope, address, options) -> str:
        if not session.authenticated:
            return "530 5.7.1 Authentication required"
        if session.auth_data == "api" and not address.endswith(f"@{self.fake.verified_domain}"):
            return f"550 5.7.1 Sending from domain {address.rpartition('@')[2]} is not allowed"
        envelope.mail_from = address
        return "250 2.1.0 Ok"

    async def handle_RCPT(self, _server, _session, envelope, address, _options) -> str:
        if bounce := re.match(r"bounce\+([45]\d\d)\+(.*)@", address):
            return f"{bounce[1]} {unquote_plus(bounce[2])}"
        envelope.rcpt_tos.append(address)
        return "250 2.1.0 Ok"

    async def handle_DATA(self, _server, session, envelope) -> str:
        if self.fake.limit() == TOO_MANY:
            return f"550 5.7.0 {TOO_MANY}"
        source, sender = envelope.original_content, envelope.mail_from
        message = message_from_bytes(source, policy=default)
        live = session.auth_data == "api"
        if live and message["From"].addresses[0].domain != self.fake.verified_domain:
            return "550 5.7.1 From: Header does not match the sender's domain"
        bodies = [message.get_body((kind,)) for kind in ("plain", "html")]
        texts = [str(message["Subject"]), *(one.get_content() if one else "" for one in bodies)]
        files = [part.get_filename() for part in message.iter_attachments()]
        stream = "transactional" if live else "sandbox"
        people = envelope.rcpt_tos
        self.fake.capture(Captured("SMTP", stream, sender, people, *texts, files, source))
        return "250 2.0.0 Ok: queued"


class _Smtp(SMTP):
    def connection_made(self, transport: Any) -> None:
        self.event_handler.fake.open_connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.event_handler.fake.open_connections.discard(self)
        super().connection_lost(error)

    async def push(self, status: str | bytes) -> None:
        text = status if isinstance(status, str) else status.decode()
        replies = [reply for beginning, reply in SMTP_TEXTS.items() if text.startswith(beginning)]
        await super().push(*replies or [text])


def main(command: list[str]) -> int:
    """Run both scripts or a command; return the exit status of what ran."""
    if command in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    if command and not shutil.which(command[0]):
        print(f"no such command: {command[0]}\n\n{__doc__}", file=sys.stderr)
        return 127
    scripts = [
        Path(__file__).resolve().parents[1] / f"{name}_client.py" for name in ("smtp", "api")
    ]
    commands = [command] if command else [[sys.executable, str(script)] for script in scripts]
    status = 0
    with FakeMailtrap() as fake:
        print(BANNER, flush=True)
        for one in commands:
            if not command:
                print(f"\n$ python {Path(one[-1]).name}", flush=True)
            fake.reset()
            environment = {**os.environ, **fake.settings, **fake.environment}
            status = max(status, subprocess.call(one, env=environment))
            for captured in fake.messages:
                print(f"\n{captured.describe()}", flush=True)
            if not fake.messages:
                print("\nNo message has arrived at the stand-in.", flush=True)
    if not command and status == 0:
        print(NEXT)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

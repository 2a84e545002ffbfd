"""Mailtrap on 127.0.0.1: its SMTP server and its API, to try the two scripts without an account.

    python tests/fake_mailtrap.py                 run both scripts, show what arrived
    python tests/fake_mailtrap.py COMMAND ...     run any command that way, show what arrives

The replies, error bodies, limits and required fields are the documented ones: docs.mailtrap.io and
the OpenAPI descriptions in github.com/mailtrap/mailtrap-openapi.
"""

import base64
import itertools
import json
import logging
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
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

STREAMS = {
    "sandbox.api.mailtrap.io": "sandbox",
    "send.api.mailtrap.io": "transactional",
    "bulk.api.mailtrap.io": "bulk",
}
SMTP_HOSTS = ("sandbox.smtp.mailtrap.io", "live.smtp.mailtrap.io", "bulk.smtp.mailtrap.io")
HOSTS = ("localhost", "127.0.0.1", "mailtrap.io", *SMTP_HOSTS, *STREAMS)
TOO_MANY = "Requested action not taken: too many emails per second"
QUOTA = "The email limit is reached. Please upgrade your plan"
TOO_BIG = "552 5.3.4 Error: message too big"
SMTP_TEXTS = {  # what aiosmtpd says, and what Mailtrap says in its place
    b"220 Ready to start TLS": "220 2.0.0 Start TLS",
    b"354 End data with <CR><LF>.<CR><LF>": "354 Go ahead",
    b"552 Error: message size exceeds fixed maximum message size": TOO_BIG,
    b"552 Error: Too much mail data": TOO_BIG,
    b"221 Bye": "221 2.0.0 Bye",
}
FIELDS = {
    **dict.fromkeys(
        ("from", "reply_to", "template_variables", "custom_variables", "headers"), dict
    ),
    **dict.fromkeys(("to", "cc", "bcc", "attachments"), list),
    **dict.fromkeys(("subject", "text", "html", "category", "template_uuid"), str),
}

logging.getLogger("mail.log").setLevel(logging.CRITICAL)  # aiosmtpd's, on standard error


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
    source: Any
    """The bytes after DATA, or the JSON of the request."""
    id: str = ""
    at: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat())

    def describe(self) -> str:
        """Return what a person would want to check."""
        lines = [f"Arrived over {self.transport} in the {self.stream} stream: {self.subject}"]
        lines += [f"  from {self.sender} for {', '.join(self.recipients)}"]
        lines += [f"  | {line}" for line in (self.text or self.html).rstrip().splitlines()]
        return "\n".join([*lines, *(f"  attached: {name}" for name in self.files)])


class FakeMailtrap:
    """SMTP server, and API with its HTTPS proxy, on free ports; use it in a with statement."""

    username, password = "sandbox-user-0815", "sandbox-pa55w0rd-canary"
    token, sandbox_id = "api-t0ken-canary-4711", "4242"
    verified_domain = "example.com"

    def __init__(self) -> None:
        """Set up what the servers share; they start on entering."""
        self.ids = itertools.count(5_000_001)
        self.open_connections: set[SMTP] = set()
        self.announce: Any = lambda captured: None  # called with each message that arrives
        self.reset()

    def reset(self) -> None:
        """Forget what arrived and lift all limits."""
        self.messages: list[Captured] = []
        self.requests: list[tuple[str, str, Any]] = []  # to the API: host, path, JSON
        self.logins: list[tuple[str, bool]] = []  # mechanism, and whether TLS was on
        self.rate = self.quota = 1_000_000
        self.connections = 10
        self.size = 5 * 1024 * 1024

    def __enter__(self) -> "FakeMailtrap":
        """Start the servers."""
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self.temporary.name)
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(str(self.folder / "ca.pem"))
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(*HOSTS).configure_cert(self.tls)
        self.smtp = _SmtpServer(self)
        self.smtp.start()
        self.api = _ApiServer(("127.0.0.1", 0), _Api)
        self.api.fake = self
        threading.Thread(target=self.api.serve_forever, args=[0.05], daemon=True).start()
        self.smtp_port, self.api_port = self.smtp.port, self.api.server_port
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the servers."""
        self.smtp.stop()
        self.api.shutdown()
        self.api.server_close()
        self.temporary.cleanup()

    @property
    def settings(self) -> dict[str, str]:
        """What a client needs in its environment to reach these servers, not Mailtrap's."""
        proxy, ca_file = f"http://127.0.0.1:{self.api_port}", str(self.folder / "ca.pem")
        return {
            "MAILTRAP_SMTP_HOST": "127.0.0.1",
            "MAILTRAP_SMTP_PORT": str(self.smtp_port),
            "MAILTRAP_SMTP_USERNAME": self.username,
            "MAILTRAP_SMTP_PASSWORD": self.password,
            "MAILTRAP_API_TOKEN": self.token,
            "MAILTRAP_STREAM": "sandbox",
            "MAILTRAP_SANDBOX_ID": self.sandbox_id,
            "MAILTRAP_FROM_EMAIL": "Mailtrap Test <hello@example.com>",
            "MAILTRAP_TO_EMAIL": "you@example.com",
            **dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"), ca_file),
            **dict.fromkeys(("HTTPS_PROXY", "https_proxy"), proxy),
            **dict.fromkeys(("NO_PROXY", "no_proxy"), ""),
            "NETRC": os.devnull,
            "PYTHON_DOTENV_DISABLED": "1",
        }

    def limit(self) -> str:
        """Return what Mailtrap says if the quota or the rate per 10 seconds is used up, or ""."""
        recent = (datetime.now(timezone.utc) - timedelta(seconds=10)).isoformat()
        if len(self.messages) >= self.quota:
            return QUOTA
        return TOO_MANY if sum(one.at > recent for one in self.messages) >= self.rate else ""

    def capture(self, captured: Captured) -> str:
        """Keep an accepted message and return its id."""
        captured.id = str(next(self.ids))
        self.messages.append(captured)
        self.announce(captured)
        return captured.id


class _ApiServer(ThreadingHTTPServer):
    request_queue_size = 100
    fake: FakeMailtrap

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that break off."""


class _Api(BaseHTTPRequestHandler):
    """One connection: TLS, or a tunnel with TLS in it, as the server is its own HTTPS proxy."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.fake = self.server.fake
        if self.connection.recv(1, socket.MSG_PEEK) == b"\x16":
            self.start_tls()

    def start_tls(self) -> None:
        self.connection = self.fake.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)

    def log_message(self, *_: object) -> None:
        """Leave standard error to the client."""

    def do_CONNECT(self) -> None:
        """Lead Mailtrap's host names here."""
        if self.path.removesuffix(":443") not in (*STREAMS, "mailtrap.io"):
            return self.answer(403, {"error": "Forbidden"})
        self.close_connection = False
        self.send_response(200)
        self.end_headers()
        return self.start_tls()

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
        query = dict(parse_qsl(url.query))
        if url.path == "/api/stats" and {"start_date", "end_date"} <= set(query):
            days = [one.at[:10] for one in self.fake.messages if one.stream != "sandbox"]
            delivered = sum(query["start_date"] <= day <= query["end_date"] for day in days)
            return 200, {"delivery_count": delivered, "delivery_rate": float(delivered > 0)}
        if url.path == "/api/stats":
            return 422, {"errors": {"start_date": ["is invalid"], "end_date": ["is invalid"]}}
        folder = f"/api/sandboxes/{self.fake.sandbox_id}/messages"
        captured = [one for one in reversed(self.fake.messages) if one.stream == "sandbox"]
        if url.path == folder:
            words = query.get("search", "").lower()
            found = [one for one in captured if words in one.subject.lower()]
            return 200, [row_of(one, self.fake.sandbox_id) for one in found[:30]]
        answers = {f"{folder}/{one.id}/body.txt": one.text for one in captured}
        answers |= {f"{folder}/{one.id}/body.html": one.html for one in captured}
        if url.path in answers:
            return 200, answers[url.path]
        return 404, {"error": "Not Found"}


def errors(*texts: str) -> dict[str, Any]:
    """Return the body of a refusal."""
    return {"success": False, "errors": list(texts)}


def problems_of(mail: Any) -> list[str]:
    """Return what the API finds wrong with one message; an empty list if nothing."""
    if not isinstance(mail, dict):
        return ["request body must be a JSON object"]
    if wrong := [name for name in mail if not isinstance(mail[name], FIELDS.get(name, ()))]:
        return [f"'{name}' is invalid" for name in wrong]
    content = {name for name in ("subject", "text", "html", "category") if mail.get(name)}
    template = "template_uuid" in mail
    people = [one for name in ("to", "cc", "bcc") for one in mail.get(name, [])]
    named = [*people, mail.get("from"), *([mail["reply_to"]] if "reply_to" in mail else [])]
    files = mail.get("attachments", [])
    checks = {
        "'from' is required": "from" in mail,
        "'to', 'cc' or 'bcc' address is required": people,
        "'to', 'cc' and 'bcc' must not exceed 1000 addresses": len(people) <= 1000,
        "'email' is invalid": "from" not in mail or all(map(is_address, named)),
        "'template_uuid' goes without subject, text, html and category": not (template and content),
        "'subject' is required": template or "subject" in content,
        "'subject' is invalid": len(mail.get("subject", "").splitlines()) <= 1,
        "must specify either text or html body": template or {"text", "html"} & content,
        "'category' must not exceed 255 characters": len(mail.get("category", "")) <= 255,
        "'custom_variables' is too long": len(json.dumps(mail.get("custom_variables"))) <= 1000,
        "'attachments' need content, in base64, and filename": all(map(is_attachment, files)),
    }
    return [problem for problem, right in checks.items() if not right]


def is_address(one: Any) -> bool:
    """Say whether this is an address, with or without a name."""
    text = one.get("email") if isinstance(one, dict) else None
    return isinstance(text, str) and bool(re.fullmatch(r"[^@\s<>,]+@[^@\s<>,]+", text))


def is_attachment(one: Any) -> bool:
    """Say whether this is an attachment."""
    try:
        return bool(base64.b64decode(one["content"], validate=True) and one["filename"])
    except (TypeError, KeyError, ValueError):
        return False


def row_of(captured: Captured, sandbox_id: str) -> dict[str, Any]:
    """Return a captured message as the API lists it."""
    return {
        "id": int(captured.id),
        "sandbox_id": int(sandbox_id),
        "subject": captured.subject,
        "from_email": captured.sender,
        "to_email": captured.recipients[0],
        "created_at": captured.at,
        "is_read": False,
        "blacklists_report_info": {"result": "pending"},
    }


class _SmtpServer(Controller):
    """The SMTP server; aiosmtpd calls handle_MAIL() and the like."""

    def __init__(self, fake: FakeMailtrap) -> None:
        self.fake = fake
        super().__init__(self, "127.0.0.1", 0)

    def _trigger_server(self) -> None:
        self.port = self.server.sockets[0].getsockname()[1]  # before it connects to itself
        super()._trigger_server()

    def factory(self) -> SMTP:
        return _Smtp(
            self,
            hostname="smtp.mailtrap.io",
            ident="ESMTP ready",
            data_size_limit=self.fake.size,
            tls_context=self.fake.tls,
            auth_require_tls=False,
            authenticator=self.log_in,
            loop=self.loop,
        )

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
        taken = reply.startswith("235")
        return AuthResult(success=taken, handled=False, message=reply, auth_data=username)

    async def handle_EHLO(self, server, session, _envelope, name, _replies) -> list[str]:
        session.host_name = name
        lines = [server.hostname, f"SIZE {self.fake.size}", "PIPELINING", "ENHANCEDSTATUSCODES"]
        lines += ["8BITMIME", "DSN", "AUTH PLAIN LOGIN CRAM-MD5", *["STARTTLS"] * (not session.ssl)]
        return [f"250-{line}" for line in lines[:-1]] + [f"250 {lines[-1]}"]

    async def handle_MAIL(self, _server, session, envelope, address, options) -> str:
        if not session.authenticated:
            return "530 5.7.1 Authentication required"
        domain = address.rpartition("@")[2]
        if session.auth_data == "api" and domain != self.fake.verified_domain:
            return f"550 5.7.1 Sending from domain {domain} is not allowed"
        envelope.mail_from = address
        envelope.mail_options.extend(options)
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
        captured = Captured("SMTP", stream, sender, envelope.rcpt_tos, *texts, files, source)
        self.fake.capture(captured)
        return "250 2.0.0 Ok: queued"


class _Smtp(SMTP):
    """One connection, with Mailtrap's texts."""

    def connection_made(self, transport: Any) -> None:
        self.event_handler.fake.open_connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.event_handler.fake.open_connections.discard(self)
        super().connection_lost(error)

    async def push(self, status: str | bytes) -> None:
        text = status.encode() if isinstance(status, str) else status
        await super().push(SMTP_TEXTS.get(text, status))


def say(text: str) -> None:
    """Print; that the reader has gone away is no failure."""
    try:
        print(text, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(fake: FakeMailtrap, *command: str) -> int:
    """Run a command against the servers and return its exit status."""
    return subprocess.run(command, env={**os.environ, **fake.settings}, check=False).returncode


def main(arguments: list[str]) -> int:
    """Run the try-out or a command; return the exit status of what ran."""
    if arguments and not shutil.which(arguments[0]):
        print(f"no such command: {arguments[0]}\n\n{__doc__}", file=sys.stderr)
        return 127
    with FakeMailtrap() as fake:
        if arguments:
            fake.announce = lambda captured: say(f"\n{captured.describe()}\n")
            return run(fake, *arguments)
        say("A stand-in on 127.0.0.1 plays Mailtrap: nothing leaves this machine.")
        statuses = []
        for name in ("smtp_client.py", "api_client.py"):
            say(f"\n$ python {name}")
            script = Path(__file__).resolve().parents[1] / name
            statuses.append(run(fake, sys.executable, str(script)))
            say("".join(f"\n{captured.describe()}" for captured in fake.messages))
            fake.reset()
        say("\nNext: cp .env.example .env, and fill in two values; README.md says where they are.")
        return max(statuses)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

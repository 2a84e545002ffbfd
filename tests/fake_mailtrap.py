"""Mailtrap on loopback: its SMTP server and its API, to try the two scripts without an account.

    python tests/fake_mailtrap.py                 run both scripts, show what arrived
    python tests/fake_mailtrap.py COMMAND ...     run any command that way
    python tests/fake_mailtrap.py --serve         stay up, print the settings to use

The replies, error bodies, limits and required fields are the documented ones: docs.mailtrap.io and
the OpenAPI descriptions in github.com/mailtrap/mailtrap-openapi.
"""

import asyncio
import base64
import binascii
import contextlib
import hmac
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
import textwrap
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email import message_from_bytes
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import jsonschema
import trustme
from aiohttp import web
from aiosmtpd.smtp import MISSING, SMTP, AuthResult, Envelope, LoginPassword, Session

STREAM_OF_HOST = {
    "sandbox.api.mailtrap.io": "sandbox",
    "send.api.mailtrap.io": "transactional",
    "bulk.api.mailtrap.io": "bulk",
}
SMTP_HOSTS = ("sandbox.smtp.mailtrap.io", "live.smtp.mailtrap.io", "bulk.smtp.mailtrap.io")
HOSTS = ("localhost", "127.0.0.1", "mailtrap.io", *SMTP_HOSTS, *STREAM_OF_HOST)
TOO_MANY = "Requested action not taken: too many emails per second"
QUOTA = "The email limit is reached. Please upgrade your plan"

logging.getLogger("mail.log").setLevel(logging.CRITICAL)  # aiosmtpd's, on standard error

# What aiosmtpd says, and what Mailtrap says in its place.
SMTP_TEXTS = {
    "220 Ready to start TLS": "220 2.0.0 Start TLS",
    "354 End data with <CR><LF>.<CR><LF>": "354 Go ahead",
    "552 Error: message size exceeds fixed maximum message size": "552 5.3.4 Error: message too big",
    "552 Error: Too much mail data": "552 5.3.4 Error: message too big",
}

_text = {"type": "string", "minLength": 1}
_address = {
    "type": "object",
    "required": ["email"],
    "properties": {"email": {"type": "string", "pattern": r"^[^@\s<>]+@[^@\s<>]+$"}, "name": {"type": "string"}},
    "additionalProperties": False,
}
_addresses = {"type": "array", "maxItems": 1000, "items": _address}
_attachment = {
    "type": "object",
    "required": ["content", "filename"],
    "properties": {
        "content": _text,
        "filename": _text,
        "type": _text,
        "disposition": {"enum": ["inline", "attachment"]},
        "content_id": {"type": "string"},
    },
    "additionalProperties": False,
}
_fields = {
    "from": _address,
    "to": _addresses,
    "cc": _addresses,
    "bcc": _addresses,
    "reply_to": _address,
    "subject": _text,
    "text": _text,
    "html": _text,
    "category": {"type": "string", "maxLength": 255},
    "headers": {"type": "object", "additionalProperties": {"type": "string"}},
    "custom_variables": {"type": "object", "additionalProperties": {"type": "string"}},
    "attachments": {"type": "array", "items": _attachment},
    "template_uuid": {"type": "string", "pattern": "^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$"},
    "template_variables": {"type": "object"},
}
REQUEST = {"type": "object", "properties": _fields, "additionalProperties": False}


@dataclass
class Captured:
    """One message that was accepted: its envelope, and the message as a recipient would see it."""

    transport: str
    stream: str
    id: str
    sender: str
    recipients: list[str]
    message: EmailMessage
    source: Any = field(repr=False)
    """The bytes after DATA, or the JSON of the request."""
    at: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat())


def problems_of(request: Any) -> list[str]:
    """Return what the API finds wrong with one request to send; an empty list if nothing."""
    if not isinstance(request, dict):
        return ["request body must be a JSON object"]
    wrong = [
        f"'{'.'.join(map(str, error.path))}' is invalid: {error.message}"
        for error in jsonschema.Draft202012Validator(REQUEST).iter_errors(request)
    ]
    if "from" not in request:
        wrong.append("'from' is required")
    if not any(request.get(name) for name in ("to", "cc", "bcc")):
        wrong.append("'to', 'cc' or 'bcc' address is required")
    if "template_uuid" in request:
        wrong += [
            f"'{name}' is not allowed with 'template_uuid'"
            for name in ("subject", "text", "html", "category")
            if name in request
        ]
    else:
        if "subject" not in request:
            wrong.append("'subject' is required")
        if not ("text" in request or "html" in request):
            wrong.append("must specify either text or html body")
    for attachment in request.get("attachments", []):
        try:
            base64.b64decode(attachment["content"], validate=True)
        except (binascii.Error, ValueError, KeyError, TypeError):
            wrong.append("'attachments' content is not base64")
    return wrong


def message_of(request: dict[str, Any]) -> EmailMessage:
    """Return the message that a valid request describes."""

    def addresses(*found: dict[str, str]) -> list[Address]:
        return [Address(one.get("name", ""), addr_spec=one["email"]) for one in found]

    message = EmailMessage(policy=SMTP_POLICY)
    message["From"] = addresses(request["from"])
    for name in ("to", "cc"):
        if request.get(name):
            message[name.title()] = addresses(*request[name])
    if "reply_to" in request:
        message["Reply-To"] = addresses(request["reply_to"])
    message["Subject"] = request.get("subject", f"(template {request.get('template_uuid')})")
    for name, value in request.get("headers", {}).items():
        message[name] = value
    text, html = request.get("text"), request.get("html")
    message.set_content(text or html or "", subtype="html" if html and not text else "plain")
    if text and html:
        message.add_alternative(html, subtype="html")
    for attachment in request.get("attachments", []):
        maintype, _, subtype = attachment.get("type", "application/octet-stream").partition("/")
        message.add_attachment(
            base64.b64decode(attachment["content"]),
            maintype,
            subtype,
            filename=attachment["filename"],
            disposition=attachment.get("disposition", "attachment"),
            cid=f"<{attachment['content_id']}>" if "content_id" in attachment else None,
        )
    return message


class FakeMailtrap:
    """SMTP server, API and HTTPS proxy on free ports of 127.0.0.1; use it in a with statement."""

    def __init__(self) -> None:
        """Set up the settings that a client needs; the servers start on entering."""
        self.username, self.password = "sandbox-user-0815", "sandbox-pa55w0rd-canary"
        self.token, self.sandbox_id, self.account_id = "api-t0ken-canary-4711", "4242", "99"
        self.verified_domains = {"example.com"}
        self._ids = itertools.count(5_000_001)
        self.open_connections: set[SMTP] = set()
        self._tunnels: set[asyncio.Task[None]] = set()
        self.reset()

    def reset(self) -> None:
        """Forget what arrived and lift all limits."""
        self.messages: list[Captured] = []
        self.requests: list[tuple[str, str, str, Any]] = []
        """Each request to the API: host, method, path, JSON."""
        self.commands: list[str] = []
        """Each SMTP command, without the arguments of AUTH."""
        self.logins: list[tuple[str, bool]] = []
        """Each AUTH that was tried: mechanism, and whether TLS was on."""
        self.rate: int | None = None
        self.quota: int | None = None
        self.connections = 10
        self.size = 5 * 1024 * 1024
        self.mechanisms = "PLAIN LOGIN CRAM-MD5"
        self.starttls = True
        self.smtp_replies: dict[str, list[str]] = {}
        """Replies to give once each in place of the real one, by SMTP command."""
        self.api_replies: list[tuple[int, Any]] = []
        """Answers of the API to give once each in place of the real one: status, JSON or text."""
        self._accepted_at: list[float] = []

    # Starting and stopping

    def __enter__(self) -> "FakeMailtrap":
        """Start the servers."""
        self._stack = contextlib.ExitStack()
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self.authority = trustme.CA()
        self.ca_file = self.folder / "ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca_file))
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(*HOSTS).configure_cert(self.tls)
        self.loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        thread.start()
        self._stack.callback(self.loop.close)
        self._stack.callback(thread.join)
        self._stack.callback(self.loop.call_soon_threadsafe, self.loop.stop)
        self._runner = web.AppRunner(self._application())
        self._do(self._start())
        self._stack.callback(lambda: self._do(self._stop()))
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the servers."""
        self._stack.close()

    def _do(self, job: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(job, self.loop).result(10)

    async def _start(self) -> None:
        smtp = await self.loop.create_server(lambda: _Smtp(self), "127.0.0.1", 0)
        proxy = await asyncio.start_server(self._tunnel, "127.0.0.1", 0)
        await self._runner.setup()
        api = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self.tls)
        await api.start()
        self._servers = [smtp, proxy]
        self.smtp_port: int = smtp.sockets[0].getsockname()[1]
        self.proxy_port: int = proxy.sockets[0].getsockname()[1]
        self.api_port: int = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        for server in self._servers:
            server.close()
        await self._runner.cleanup()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)

    @property
    def settings(self) -> dict[str, str]:
        """What a client needs in its environment to reach these servers in place of Mailtrap's."""
        proxy = f"http://127.0.0.1:{self.proxy_port}"
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
            "SSL_CERT_FILE": str(self.ca_file),
            "REQUESTS_CA_BUNDLE": str(self.ca_file),
            "HTTPS_PROXY": proxy,
            "https_proxy": proxy,
            "NO_PROXY": "",
            "no_proxy": "",
            "PYTHON_DOTENV_DISABLED": "1",
        }

    # What both transports share

    def over_rate(self) -> bool:
        """Say whether the rate (messages per 10 seconds) is used up just now."""
        recent = [at for at in self._accepted_at if at > time.monotonic() - 10]
        return self.rate is not None and len(recent) >= self.rate

    def over_quota(self) -> bool:
        """Say whether the plan's quota is used up."""
        return self.quota is not None and len(self.messages) >= self.quota

    def capture(
        self, transport: str, stream: str, sender: str, recipients: list[str], message: EmailMessage, source: Any
    ) -> str:
        """Keep an accepted message and return its id."""
        captured = Captured(transport, stream, str(next(self._ids)), sender, recipients, message, source)
        self.messages.append(captured)
        self._accepted_at.append(time.monotonic())
        return captured.id

    # The API

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve as the HTTPS proxy that leads Mailtrap's host names here."""
        task = asyncio.current_task()
        assert task
        self._tunnels.add(task)  # or it might be collected as garbage while it waits
        task.add_done_callback(self._tunnels.discard)
        with contextlib.suppress(asyncio.CancelledError):  # still open at the end; asyncio would show a traceback
            await self._relay(reader, writer)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        target = re.match(r"CONNECT ([\w.]+):443 ", request)
        if not target or target[1] not in {*STREAM_OF_HOST, "mailtrap.io"}:
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self.api_port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while chunk := await source.read(65536):
                    sink.write(chunk)
                    await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, upstream_writer), pump(upstream_reader, writer))

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=60 * 1024 * 1024, middlewares=[self._gate])
        for path in ("/api/send", "/api/send/{sandbox_id}"):
            application.router.add_post(path, self._send)
        for path in ("/api/batch", "/api/batch/{sandbox_id}"):
            application.router.add_post(path, self._batch)
        application.router.add_get("/api/accounts", self._accounts)
        application.router.add_get("/api/accounts/{account_id}/stats", self._stats)
        messages = "/api/accounts/{account_id}/inboxes/{sandbox_id}/messages"
        application.router.add_get(messages, self._messages)
        application.router.add_get(messages + "/{id}", self._message)
        application.router.add_get(messages + "/{id}/body.{form}", self._body)
        return application

    @web.middleware
    async def _gate(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Record the request and check what all calls have in common."""
        body = await request.read()
        try:
            content = json.loads(body) if body else None
        except ValueError:
            return self._refuse(400, "request body is not JSON")
        self.requests.append((request.host, request.method, request.path, content))
        if self.api_replies:
            status, answer = self.api_replies.pop(0)
            if isinstance(answer, str):
                return web.Response(status=status, text=answer, content_type="text/html")
            return web.json_response(answer, status=status)
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return self._refuse(401, "Unauthorized")
        stream = STREAM_OF_HOST.get(request.host)
        sandbox_id = request.match_info.get("sandbox_id")
        for_an_account = request.path.startswith("/api/accounts")
        if for_an_account == bool(stream) or request.match_info.get("account_id") not in (None, self.account_id):
            return web.json_response({"error": "Not Found"}, status=404)
        if sandbox_id != (self.sandbox_id if stream == "sandbox" or (for_an_account and sandbox_id) else None):
            return self._refuse(404, "Not Found")
        if for_an_account:
            return await handler(request)
        if len(body) > self.size * 4 // 3:
            return self._refuse(413, "Request Entity Too Large")
        if self.over_quota():
            return self._refuse(429, QUOTA)
        if self.over_rate():
            return self._refuse(429, "Rate limit exceeded")
        return await handler(request)

    @staticmethod
    def _refuse(status: int, *errors: str) -> web.Response:
        return web.json_response({"success": False, "errors": list(errors)}, status=status)

    def _take(self, stream: str, mail: dict[str, Any]) -> list[str]:
        recipients = [one["email"] for name in ("to", "cc", "bcc") for one in mail.get(name, [])]
        first = self.capture("api", stream, mail["from"]["email"], recipients, message_of(mail), mail)
        return [first] if stream == "sandbox" else [f"{first}-{number}" for number in range(len(recipients))]

    def _unverified(self, stream: str, mail: dict[str, Any]) -> bool:
        return stream != "sandbox" and mail["from"]["email"].rpartition("@")[2] not in self.verified_domains

    async def _send(self, request: web.Request) -> web.Response:
        mail, stream = await request.json(), STREAM_OF_HOST[request.host]
        if problems := problems_of(mail):
            return self._refuse(400, *problems)
        if self._unverified(stream, mail):
            return self._refuse(401, "Unauthorized")
        return web.json_response({"success": True, "message_ids": self._take(stream, mail)})

    async def _batch(self, request: web.Request) -> web.Response:
        batch, stream = await request.json(), STREAM_OF_HOST[request.host]
        if not isinstance(batch, dict) or not batch.get("requests"):
            return self._refuse(400, "empty field: 'requests'")
        if len(batch["requests"]) > 500:
            return self._refuse(400, "'requests' must not exceed 500 messages")
        responses = []
        for single in batch["requests"]:
            mail = {**batch.get("base", {}), **single}
            problems = problems_of(mail) or (["Unauthorized"] if self._unverified(stream, mail) else [])
            if problems:
                responses.append({"success": False, "errors": problems})
            else:
                responses.append({"success": True, "message_ids": self._take(stream, mail)})
        return web.json_response({"success": True, "responses": responses})

    # The account: what was captured, and statistics

    async def _accounts(self, _request: web.Request) -> web.Response:
        return web.json_response([{"id": int(self.account_id), "name": "Test", "access_levels": [1000]}])

    def _row(self, captured: Captured) -> dict[str, Any]:
        """Return a captured message as the API lists it."""
        [sender], [to, *_] = captured.message["From"].addresses, captured.message["To"].addresses
        path = f"/api/accounts/{self.account_id}/inboxes/{self.sandbox_id}/messages/{captured.id}/"
        bodies = {kind: self._text(captured, kind) for kind in ("plain", "html")}
        size = len(captured.message.as_bytes())
        return {
            "id": int(captured.id),
            "inbox_id": int(self.sandbox_id),
            "sandbox_id": int(self.sandbox_id),
            "subject": str(captured.message["Subject"]),
            **dict.fromkeys(("sent_at", "created_at", "updated_at"), captured.at),
            "from_email": sender.addr_spec,
            "from_name": sender.display_name,
            "to_email": to.addr_spec,
            "to_name": to.display_name,
            "email_size": size,
            "human_size": f"{size} Bytes",
            "is_read": False,
            "text_body_size": len(bodies["plain"]),
            "html_body_size": len(bodies["html"]),
            "html_path": f"{path}body.html",
            "txt_path": f"{path}body.txt",
            "raw_path": f"{path}body.raw",
            "download_path": f"{path}body.eml",
            "html_source_path": f"{path}body.htmlsource",
            "blacklists_report_info": False,
            "smtp_information": {"ok": False},
        }

    @staticmethod
    def _text(captured: Captured, kind: str) -> str:
        part = captured.message.get_body((kind,))
        return str(part.get_content()) if part else ""

    async def _messages(self, request: web.Request) -> web.Response:
        """List the sandbox's messages, newest first, 30 at most."""
        rows = [self._row(captured) for captured in reversed(self.messages) if captured.stream == "sandbox"]
        search = request.query.get("search", "").lower()
        found = [row for row in rows if search in f"{row['subject']} {row['to_email']} {row['to_name']}".lower()]
        return web.json_response(found[:30])

    def _find(self, request: web.Request) -> Captured:
        for captured in self.messages:
            if captured.id == request.match_info["id"] and captured.stream == "sandbox":
                return captured
        raise web.HTTPNotFound(text='{"error":"Not Found"}', content_type="application/json")

    async def _message(self, request: web.Request) -> web.Response:
        return web.json_response(self._row(self._find(request)))

    async def _body(self, request: web.Request) -> web.Response:
        captured, form = self._find(request), request.match_info["form"]
        if form in ("raw", "eml"):
            return web.Response(text=captured.message.as_string(), content_type="text/plain")
        return web.Response(text=self._text(captured, "plain" if form == "txt" else "html"), content_type="text/plain")

    async def _stats(self, request: web.Request) -> web.Response:
        """Count what was delivered between two days, which must be given."""
        if not all(
            re.fullmatch(r"\d{4}-\d\d-\d\d", request.query.get(name, "")) for name in ("start_date", "end_date")
        ):
            return web.json_response({"errors": {"start_date": ["is invalid"], "end_date": ["is invalid"]}}, status=422)
        days = [captured.at[:10] for captured in self.messages if captured.stream != "sandbox"]
        delivered = sum(request.query["start_date"] <= day <= request.query["end_date"] for day in days)
        rate = 1.0 if delivered else 0.0
        others = [f"{name}_{kind}" for name in ("bounce", "open", "click", "spam") for kind in ("count", "rate")]
        return web.json_response({"delivery_count": delivered, "delivery_rate": rate, **dict.fromkeys(others, 0)})


class _Smtp(SMTP):
    """One connection, with Mailtrap's texts."""

    def __init__(self, fake: FakeMailtrap) -> None:
        self.fake = fake
        super().__init__(
            _SmtpHandler(fake),
            hostname="smtp.mailtrap.io",
            ident="ESMTP ready",
            data_size_limit=fake.size,
            tls_context=fake.tls if fake.starttls else None,
            auth_require_tls=False,
            authenticator=self._check_login,
            loop=fake.loop,
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.fake.open_connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.fake.open_connections.discard(self)
        super().connection_lost(error)

    async def push(self, status: str | bytes) -> None:
        text = status if isinstance(status, str) else status.decode()
        await super().push(SMTP_TEXTS.get(text, text))

    def _check_login(
        self, _server: SMTP, session: Session, _envelope: Envelope, mechanism: str, login: LoginPassword
    ) -> AuthResult:
        expected = {self.fake.username: self.fake.password, "api": self.fake.token}
        right = expected.get(login.login.decode()) == login.password.decode()
        return self.result(session, mechanism, login.login.decode(), right=right)

    def result(self, session: Session, mechanism: str, username: str, *, right: bool) -> AuthResult:
        """Return the outcome of a login, limits considered."""
        self.fake.logins.append((mechanism, session.ssl is not None))
        problem = ""
        if not right:
            problem = "535 5.7.0 Invalid login or password"
        elif self.fake.over_quota():
            problem = f"535 5.7.0 {QUOTA}"
        elif len(self.fake.open_connections) > self.fake.connections:
            problem = "535 5.7.8 Too many connections per account"
        return AuthResult(success=not problem, handled=False, message=problem or "235 2.0.0 OK", auth_data=username)


class _SmtpHandler:
    """What aiosmtpd asks at each command."""

    def __init__(self, fake: FakeMailtrap) -> None:
        self.fake = fake

    def _planned(self, command: str, argument: str = "") -> str | None:
        """Record the command; return the reply that a test has planned for it."""
        self.fake.commands.append(f"{command} {argument}".strip())
        planned = self.fake.smtp_replies.get(command)
        return planned.pop(0) if planned else None

    async def handle_EHLO(  # noqa: N802, aiosmtpd's name, as below
        self, server: SMTP, session: Session, _envelope: Envelope, name: str, _replies: list[str]
    ) -> list[str]:
        if planned := self._planned("EHLO", name):
            return [planned]
        session.host_name = name
        lines = [server.hostname, f"SIZE {self.fake.size}", "PIPELINING", "ENHANCEDSTATUSCODES", "8BITMIME", "DSN"]
        if self.fake.mechanisms:
            lines.append(f"AUTH {self.fake.mechanisms}")
        if self.fake.starttls and session.ssl is None:
            lines.append("STARTTLS")
        return [f"250-{line}" for line in lines[:-1]] + [f"250 {lines[-1]}"]

    async def handle_AUTH(  # noqa: N802
        self, _server: SMTP, _session: Session, _envelope: Envelope, arguments: list[str]
    ) -> Any:
        return self._planned("AUTH", arguments[0]) or MISSING

    async def auth_CRAM__MD5(self, server: _Smtp, _arguments: list[str]) -> AuthResult:  # noqa: N802
        challenge = f"<{time.time_ns()}@smtp.mailtrap.io>".encode()
        answer = await server.challenge_auth(challenge)
        if not isinstance(answer, bytes):
            return AuthResult(success=False)
        username, _, digest = answer.decode().partition(" ")
        right = hmac.new(self.fake.password.encode(), challenge, "md5").hexdigest()
        matches = username == self.fake.username and hmac.compare_digest(digest, right)
        return server.result(server.session, "CRAM-MD5", username, right=matches)

    async def handle_MAIL(  # noqa: N802
        self, _server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if planned := self._planned("MAIL", address):
            return planned
        if self.fake.mechanisms and not session.authenticated:
            return "530 5.7.1 Authentication required"
        domain = address.rpartition("@")[2]
        if session.auth_data == "api" and domain not in self.fake.verified_domains:
            return f"550 5.7.1 Sending from domain {domain} is not allowed"
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 Ok"

    async def handle_RCPT(  # noqa: N802
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if planned := self._planned("RCPT", address):
            return planned
        if bounce := re.match(r"bounce\+(\d{3})\+(.*)@", address):
            return f"{bounce[1]} {unquote_plus(bounce[2])}"
        envelope.rcpt_tos.append(address)
        return "250 2.1.0 Ok"

    async def handle_DATA(self, _server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        if planned := self._planned("DATA"):
            return planned
        if self.fake.over_rate():
            return f"550 5.7.0 {TOO_MANY}"
        content, sender = envelope.original_content or b"", envelope.mail_from or ""
        message = message_from_bytes(content, policy=SMTP_POLICY)
        assert isinstance(message, EmailMessage)
        if session.auth_data == "api" and message["From"].addresses[0].domain != sender.rpartition("@")[2]:
            return "550 5.7.1 From: Header does not match the sender's domain"
        stream = "transactional" if session.auth_data == "api" else "sandbox"
        self.fake.capture("smtp", stream, sender, envelope.rcpt_tos, message, content)
        return "250 2.0.0 Ok: queued"

    async def handle_RSET(self, *_: object) -> str:  # noqa: N802
        self._planned("RSET")
        return "250 2.0.0 Ok"

    async def handle_QUIT(self, *_: object) -> str:  # noqa: N802
        return self._planned("QUIT") or "221 2.0.0 Bye"


def describe(captured: Captured) -> str:
    """Return a message as a person would want to check it: envelope, headers, text, parts."""
    message = captured.message
    lines = [f"Captured from {captured.transport} ({captured.stream}), for {', '.join(captured.recipients)}"]
    lines += [f"  {name}: {value}" for name, value in message.items() if not name.startswith(("Content-", "MIME-"))]
    text = message.get_body(("plain", "html"))
    lines += ["", *(f"  | {line}" for line in (text.get_content() if text else "").splitlines()), ""]
    for part in message.walk():
        if not part.is_multipart():
            content = part.get_payload(decode=True)
            size = len(content) if isinstance(content, bytes) else 0
            lines.append(f"  {part.get_content_type()}, {size} bytes {part.get_filename() or ''}".rstrip())
    return "\n".join(lines)


def run(fake: FakeMailtrap, *command: str) -> int:
    """Run a command against the servers, show what arrived, and return the command's exit status."""
    seen = len(fake.messages)
    status = subprocess.run(command, env={**os.environ, **fake.settings}, check=False).returncode
    for captured in fake.messages[seen:]:
        print(f"\n{describe(captured)}\n", flush=True)
    return status


def main(arguments: list[str]) -> int:
    """Run the try-out; return the exit status of what ran."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    if arguments and arguments != ["--serve"] and not shutil.which(arguments[0]):
        print(f"fake_mailtrap: no such command: {arguments[0]}", file=sys.stderr)
        return 127
    with FakeMailtrap() as fake:
        if arguments == ["--serve"]:
            print("\n".join(f"{name}='{value}'" for name, value in fake.settings.items()), flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                for number in itertools.count():
                    while len(fake.messages) <= number:
                        time.sleep(0.1)
                    print(textwrap.indent(describe(fake.messages[number]), "# ", lambda _: True), flush=True)
            return 0
        if arguments:
            return run(fake, *arguments)
        scripts = Path(__file__).resolve().parent.parent
        statuses = []
        for script in ("smtp_client.py", "api_client.py"):
            print(f"$ python {script}", flush=True)
            statuses.append(run(fake, sys.executable, str(scripts / script)))
        return max(statuses)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

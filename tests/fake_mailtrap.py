"""A stand-in for Mailtrap on this computer, to try the two scripts without an account.

    python tests/fake_mailtrap.py                 run both scripts, show what arrived
    python tests/fake_mailtrap.py COMMAND ...     run a Python program, show what arrived

It answers as docs.mailtrap.io and github.com/mailtrap/mailtrap-openapi say. Tests make it fail.
"""

import sys

if sys.version_info < (3, 10):
    sys.exit("This needs Python 3.10 or newer.")

import email.policy
import json
import os
import re
import shutil
import socket
import ssl
import struct
import subprocess
import time
from base64 import b64encode
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from http.client import parse_headers
from importlib.util import find_spec
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

for package in ("trustme", "mailtrap", "dotenv"):
    if not find_spec(package):
        sys.exit(f"The package {package} is missing: pip install -r tests/requirements.txt")
import trustme

SIZE = 5 * 1024 * 1024  # bytes of a message as it is sent; the free sandbox takes no more
# Names lead here by what Python runs at its start if it is a sitecustomize.py on PYTHONPATH. They
# stay the real ones, so that certificates are checked.
LOOK_UP = """
import socket
look_up = socket.getaddrinfo
ports = {{443: {api}, 25: {smtp}, 587: {smtp}, 2525: {smtp}}}
def look_up_here(host, port, *rest, **more):
    if str(host).endswith("mailtrap.io"):
        host, port = "127.0.0.1", ports.get(port, port)
    return look_up(host, port, *rest, **more)
socket.getaddrinfo = look_up_here
"""


@dataclass(frozen=True)
class Fault:
    """What goes wrong at a step: a command of SMTP, or greeting, TLS, CONNECT, headers, content."""

    step: str
    reply: bytes | None = None  # in place of the right one; b"" is none
    then: str = ""  # "close", "reset", or "silence" until the client gives up
    takes: bool = False  # whether it takes the message even so
    at: range | tuple[int, ...] = (1,)  # which of the times that the step is reached


@dataclass
class Captured:
    """One message that was taken; the source is what came after DATA, or the JSON."""

    transport: str
    stream: str
    sender: str
    recipients: list[str]
    subject: str
    text: str
    source: Any


class FakeMailtrap(ExitStack):
    """Both servers, on free ports, until the end of a with statement."""

    username, password = "sandbox-user-0815", "pa55w0rd-${HOME}#canary"
    token, sandbox_id = "api-t0ken-${HOME}#canary", "4242"
    rtt = 0.0  # seconds; the round-trip time that it seems to be away

    def __init__(self) -> None:
        super().__init__()
        self.reset()
        self.logins = {  # by what follows AUTH
            "PLAIN " + b64encode(f"\0{user}\0{secret}".encode()).decode(): user
            for user, secret in ((self.username, self.password), ("api", self.token))
        }
        self.settings = {
            "MAILTRAP_SMTP_HOST": "sandbox.smtp.mailtrap.io",
            "MAILTRAP_SMTP_PORT": "2525",
            "MAILTRAP_SMTP_USERNAME": self.username,
            "MAILTRAP_SMTP_PASSWORD": self.password,
            "MAILTRAP_API_TOKEN": self.token,
            "MAILTRAP_STREAM": "sandbox",
            "MAILTRAP_SANDBOX_ID": self.sandbox_id,
        }
        self.authority = trustme.CA()
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        names = "mailtrap.io", "*.smtp.mailtrap.io", "*.api.mailtrap.io"
        self.authority.issue_cert(*names).configure_cert(self.tls)
        self.look_up = LOOK_UP.format(smtp=self.serve(_Smtp), api=self.serve(_Api))
        folder = Path(self.enter_context(TemporaryDirectory()))
        (folder / "sitecustomize.py").write_text(self.look_up)
        self.authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        ca = dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"), str(folder / "ca.pem"))
        self.environment = {"PYTHONPATH": str(folder), "NO_PROXY": "*", "no_proxy": "*", **ca}

    def serve(self, handler: type) -> int:
        """Start a server; return its port."""
        server = self.enter_context(ThreadingTCPServer(("127.0.0.1", 0), handler))
        server.fake, server.daemon_threads = self, True
        Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        self.callback(server.shutdown)
        return server.server_address[1]

    def reset(self, *faults: Fault) -> None:
        """Forget what arrived, and plan what goes wrong next."""
        self.faults = faults
        self.steps: Counter[str] = Counter()  # how often each was reached
        self.names: set[str] = set()  # what clients of SMTP call themselves
        self.messages: list[Captured] = []

    def fault(self, step: str) -> Fault:
        """Return what goes wrong at a step that has been reached, which usually is nothing."""
        self.steps[step] += 1
        planned = (it for it in self.faults if it.step == step and self.steps[step] in it.at)
        return next(planned, Fault(step))

    def take(self, fault: Fault, *captured: Any) -> str:
        """Keep a message, unless a fault says otherwise; return its id."""
        if fault.takes or fault.reply is None:
            self.messages.append(Captured(*captured))
        return str(5_000_000 + len(self.messages))


class _Conversation(StreamRequestHandler):
    """One connection."""

    disable_nagle_algorithm = True

    def handle(self) -> None:
        self.fake: FakeMailtrap = self.server.fake
        time.sleep(self.fake.rtt)  # as long as TCP would have taken
        with suppress(OSError):  # the connection breaks
            self.converse()
        self.connection.close()

    def answer(self, fault: Fault, right: bytes) -> bytes:
        """Answer as planned; return what was answered."""
        reply = right if fault.reply is None else fault.reply
        time.sleep(self.fake.rtt if reply else 0)
        self.connection.sendall(reply)
        while fault.then == "silence" and self.connection.recv(65536):
            pass
        if fault.then == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if fault.then:
            raise ConnectionAbortedError
        return reply

    def start_tls(self) -> None:
        fault = self.fake.fault("TLS")
        if fault != Fault("TLS"):
            self.connection.recv(65536)
            self.answer(fault, b"")
        time.sleep(self.fake.rtt)
        self.connection = self.fake.tls.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb")


class _Smtp(_Conversation):
    def converse(self) -> None:
        self.user, self.envelope, self.greeted_on = "", [], None
        self.answer(self.fake.fault("greeting"), b"220 smtp.mailtrap.io ESMTP ready\r\n")
        while line := self.rfile.readline().decode("latin-1"):
            command, _, rest = line.strip().partition(" ")
            command, address = command.upper(), rest.partition("<")[2].partition(">")[0]
            right = self.right_reply(command, rest, address) + "\r\n"
            code = self.answer(self.fake.fault(command), right.encode())[:3]
            if command == "EHLO":
                self.greeted_on = self.connection
                self.fake.names.add(rest)
            elif command == "RSET":
                self.envelope = []
            elif command == "STARTTLS" and code == b"220":
                self.start_tls()
            elif command == "AUTH" and code == b"235":
                self.user = self.fake.logins[rest]
            elif command in ("MAIL", "RCPT") and code == b"250":
                self.envelope.append(address)
            elif command == "DATA" and code == b"354":
                self.take_content()

    def right_reply(self, command: str, rest: str, address: str) -> str:
        user, domain = address.partition("@")[::2]
        size = int(re.search(r"size=(\d+)|$", rest)[1] or 0)
        hello = f"250-smtp.mailtrap.io\r\n250-STARTTLS\r\n250-SIZE {SIZE}\r\n250 AUTH LOGIN PLAIN"
        mail, unverified = command == "MAIL", self.user == "api" and domain != "example.com"
        bounce = command == "RCPT" and user.startswith("bounce+")  # Mailtrap's bounce emulator
        rules = [  # the first that applies
            (command == "EHLO", hello),
            (command == "STARTTLS", "220 2.0.0 Start TLS"),
            (command == "AUTH" and self.greeted_on != self.connection, "503 5.5.1 EHLO first"),
            (command == "AUTH" and rest in self.fake.logins, "235 2.0.0 OK"),
            (command == "AUTH", "535 5.7.0 Invalid login or password"),
            (mail and not self.user, "530 5.7.1 Authentication required"),
            (mail and self.envelope, "503 5.5.1 Error: nested MAIL command"),
            (mail and unverified, f"550 5.7.1 Sending from domain {domain} is not allowed"),
            (mail and size > SIZE, "552 5.3.4 Error: message too big"),
            (bounce, user.replace("+", " ").removeprefix("bounce ")),
            (command == "DATA", "354 Go ahead"),
            (command == "QUIT", "221 2.0.0 Bye"),
            (True, "250 2.0.0 Ok"),
        ]
        return next(reply for applies, reply in rules if applies)

    def take_content(self) -> None:
        source = bytearray()
        while (line := self.rfile.readline()) != b".\r\n":
            if not line:
                return
            source += line.removeprefix(b".")
        fault = self.fake.fault("content")
        parsed = email.message_from_bytes(source, policy=email.policy.default)
        content = parsed["Subject"], parsed.get_body(["plain"]).get_content(), bytes(source)
        stream = "transactional" if self.user == "api" else "sandbox"
        sender, *recipients = self.envelope
        self.fake.take(fault, "SMTP", stream, sender, recipients, *content)
        self.envelope = []
        self.answer(fault, b"250 2.0.0 Ok: queued\r\n")


class _Api(_Conversation):
    """The API, and a proxy before it if the client asks for one."""

    def converse(self) -> None:
        if self.connection.recv(1, socket.MSG_PEEK) == b"C":
            self.rfile.readline()
            parse_headers(self.rfile)
            self.answer(self.fake.fault("CONNECT"), b"HTTP/1.1 200 Established\r\n\r\n")
        self.start_tls()
        while line := self.rfile.readline().decode():
            headers = parse_headers(self.rfile)
            self.answer(self.fake.fault("headers"), b"")
            body = self.rfile.read(int(headers.get("Content-Length", 0)))
            fault = self.fake.fault("content")
            self.answer(fault, http(*self.right_answer(fault, line.split()[1], headers, body)))

    def right_answer(self, fault: Fault, path: str, headers: Any, body: bytes) -> tuple[int, Any]:
        """Take what is to be taken; return status and answer."""
        streams = {"sandbox": "sandbox", "send": "transactional", "bulk": "bulk"}
        stream = streams.get(headers["Host"].partition(".")[0], "")
        place = f"/{self.fake.sandbox_id}" if stream == "sandbox" else ""
        if headers["Authorization"] != f"Bearer {self.fake.token}":
            return 401, {"success": False, "errors": ["Unauthorized"]}
        if len(body) > SIZE:
            return 413, {"success": False, "errors": ["Request Entity Too Large"]}
        if path == f"/api/send{place}":
            return 200, self.take(fault, stream, json.loads(body))
        if path == f"/api/batch{place}":
            batch = json.loads(body)
            answers = [self.take(fault, stream, batch["base"] | it) for it in batch["requests"]]
            return 200, {"success": True, "responses": answers}
        return self.read_back(path)

    def take(self, fault: Fault, stream: str, mail: Any) -> dict[str, Any]:
        """Take one mail; return the answer."""
        people = [one["email"] for name in ("to", "cc", "bcc") for one in mail.get(name, [])]
        content = mail.get("subject", ""), mail.get("text", ""), mail
        first = self.fake.take(fault, "the API", stream, mail["from"]["email"], people, *content)
        ids = [first] if stream == "sandbox" else [f"{first}-{one}" for one in people]
        return {"success": True, "message_ids": ids}

    def read_back(self, path: str) -> tuple[int, Any]:
        """Return what the published description of May 2026 has, without account ids."""
        folder = f"/api/sandboxes/{self.fake.sandbox_id}/messages"
        pages: dict[str, Any] = {folder: []}
        for number, message in enumerate(self.fake.messages, 5_000_001):
            pages[folder].insert(0, {"id": number, "subject": message.subject})
            pages[f"{folder}/{number}/body.txt"] = message.text
        return (200, pages[path]) if path in pages else (404, {"error": "Not Found"})


def http(status: int, content: object) -> bytes:
    """Return a whole answer: a text as it is, anything else as JSON."""
    is_text = isinstance(content, str)
    body = (content if is_text else json.dumps(content)).encode()
    kind = "text/html; charset=utf-8" if is_text else "application/json"
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def main(command: list[str]) -> int:
    """Run both scripts or a command; return the exit status."""
    if command and not shutil.which(command[0]):
        print(__doc__)
        return 0 if command == ["--help"] else 2
    root, status = Path(__file__).parents[1], 0
    scripts = [[sys.executable, str(root / f"{name}_client.py")] for name in ("smtp", "api")]
    with FakeMailtrap() as fake:
        print("A stand-in plays Mailtrap on this computer; nothing leaves it.", flush=True)
        environment = {**os.environ, **fake.settings, **fake.environment}
        for one in [command] if command else scripts:
            if not command:
                print(f"\n$ python {Path(one[1]).name}", flush=True)
            fake.reset()
            status = max(status, subprocess.call(one, env=environment))
            for it in fake.messages:
                print(f"\nArrived over {it.transport}, in the {it.stream} stream:", flush=True)
                print(f"  from {it.sender} to {', '.join(it.recipients)}\n  subject: {it.subject}")
                print("".join(f"  | {line}\n" for line in it.text.splitlines()), end="", flush=True)
    return status


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("interrupted")

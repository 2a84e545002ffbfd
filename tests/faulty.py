"""Mailtrap in trouble: servers that fail at chosen steps, and know what they took."""

import contextlib
import json
import re
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

SMTP_STEPS = (
    "greeting",
    "EHLO",
    "STARTTLS",
    "TLS",
    "EHLO over TLS",
    "AUTH",
    "MAIL",
    "RCPT",
    "DATA",
    "content",
    "RSET",
    "QUIT",
)
API_STEPS = ("accept", "CONNECT", "TLS", "headers", "body")


@dataclass(frozen=True)
class Fault:
    """What goes wrong at a step: what is answered, and what becomes of the connection."""

    step: str
    reply: bytes | None = b""  # in place of the right one; None for the right one
    then: str = "go on"  # or "close", "reset", "reset inside", "stall" (till the client gives up)
    takes: bool = False  # whether the server keeps the message, at the step that hands it over
    at: Container[int] = (1,)  # at which times that the step is reached


FOREVER = range(1, 1_000_000)


class CutError(OSError):
    """The server ends the connection."""


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        """Take over the socket."""
        self.sock = sock
        self._buffer = b""

    def read(self, end: bytes = b"", size: int = 0) -> bytes:
        """Return what comes, up to and including end, or so many bytes."""
        while end not in self._buffer or len(self._buffer) < size:
            chunk = self.sock.recv(1 << 18)
            if not chunk:
                raise CutError
            self._buffer += chunk
        length = self._buffer.index(end) + len(end) if end else size
        found, self._buffer = self._buffer[:length], self._buffer[length:]
        return found

    def close(self, *, reset: bool) -> None:
        """Close; with reset the client gets "connection reset by peer"."""
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Server:
    """What both have in common; use it in a with statement, to be left when the client is done."""

    def __init__(self, tls: ssl.SSLContext, *faults: Fault) -> None:
        """Plan the faults, at most one for each step."""
        self.tls = tls
        self.taken: list[list[str]] = []  # the recipients of each message
        self.steps: Counter[str] = Counter()
        self.commands: list[str] = []
        self._faults = {fault.step: fault for fault in faults}
        self._client_is_done = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Any:
        """Listen on a free port."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._listen, daemon=True)]
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the last connection, so that what was taken is final."""
        self._client_is_done.set()
        socket.create_connection(("127.0.0.1", self.port)).close()  # wakes accept()
        for thread in self._threads:
            thread.join(5)
        self._listener.close()

    def _listen(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            if self._client_is_done.is_set():
                return sock.close()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(4)
            thread = threading.Thread(target=self._attend, args=[Peer(sock)], daemon=True)
            self._threads.append(thread)
            thread.start()

    def _attend(self, peer: Peer) -> None:
        reset = False
        try:
            self.serve(peer)
        except OSError as cut:
            reset = cut.args == ("reset",)
        with contextlib.suppress(OSError):
            peer.close(reset=reset)

    def serve(self, peer: Peer) -> None:
        """Hold the conversation."""
        raise NotImplementedError

    def fault(self, step: str) -> Fault:
        """Return what is planned for a step that has just been reached; usually the right reply."""
        self.steps[step] += 1
        planned = self._faults.get(step)
        return planned if planned and self.steps[step] in planned.at else Fault(step, None)

    def answer(self, peer: Peer, fault: Fault, right: bytes) -> bytes:
        """Answer as planned; return what was answered."""
        reply = right if fault.reply is None else fault.reply
        peer.sock.sendall(reply)
        if fault.then == "stall":
            self._client_is_done.wait(4)
        if fault.then != "go on":
            raise CutError(fault.then)
        return reply

    def start_tls(self, peer: Peer) -> None:
        """Shake hands, or read what the client says first and have the fault."""
        fault = self.fault("TLS")
        if fault.reply is not None:
            peer.sock.recv(1 << 16)
            self.answer(peer, fault, b"")
        peer.sock = self.tls.wrap_socket(peer.sock, server_side=True)
        self.answer(peer, fault, b"")


class FaultySmtp(Server):
    """Mailtrap's SMTP server; a second MAIL without RSET is a nested one, 503."""

    per_connection = 1_000_000  # messages, before it says 421

    def serve(self, peer: Peer) -> None:
        """Answer command after command."""
        plain = b"250-smtp.mailtrap.io\r\n250-SIZE 5242880\r\n250 STARTTLS\r\n"
        secure = b"250-smtp.mailtrap.io\r\n250-SIZE 5242880\r\n250 AUTH PLAIN LOGIN CRAM-MD5\r\n"
        usual = {
            "EHLO": plain,
            "EHLO over TLS": secure,
            "STARTTLS": b"220 2.0.0 Start TLS\r\n",
            "AUTH": b"235 2.0.0 OK\r\n",
            "DATA": b"354 Go ahead\r\n",
            "QUIT": b"221 2.0.0 Bye\r\n",
        }
        recipients: list[str] | None = None
        messages = 0
        self.answer(peer, self.fault("greeting"), b"220 smtp.mailtrap.io ESMTP ready\r\n")
        while True:
            command = peer.read(b"\r\n")[:-2].decode("latin-1")
            step = re.split("[ :]", command)[0].upper()
            self.commands.append(command)
            if step == "EHLO" and isinstance(peer.sock, ssl.SSLSocket):
                step = "EHLO over TLS"
            if step == "MAIL" and recipients is not None:
                peer.sock.sendall(b"503 5.5.1 nested MAIL command\r\n")
                continue
            if step == "MAIL" and messages == self.per_connection:
                peer.sock.sendall(b"421 4.7.0 Too many messages on this connection\r\n")
                raise CutError
            reply = self.answer(peer, self.fault(step), usual.get(step, b"250 2.0.0 Ok\r\n"))
            if step == "STARTTLS" and reply.startswith(b"220"):
                self.start_tls(peer)
            elif step == "MAIL" and reply.startswith(b"250"):
                recipients = []
            elif step == "RCPT" and recipients is not None and reply.startswith(b"250"):
                recipients.append(command[command.index("<") + 1 : command.index(">")])
            elif step in ("RSET", "EHLO over TLS"):
                recipients = None
            elif step == "DATA" and reply.startswith(b"354"):
                fault = self.fault("content")
                if fault.then == "reset inside":
                    peer.read(size=9)
                    raise CutError("reset")
                peer.read(b"\r\n.\r\n")
                messages += 1
                if fault.takes or fault.reply is None:
                    self.taken.append(recipients or [])
                recipients = None
                self.answer(peer, fault, b"250 2.0.0 Ok: queued\r\n")


class FaultyApi(Server):
    """Mailtrap's API, behind a proxy or not."""

    def serve(self, peer: Peer) -> None:
        """Open a tunnel if it is asked for, shake hands, and answer request after request."""
        self.answer(peer, self.fault("accept"), b"")
        if peer.sock.recv(1, socket.MSG_PEEK) == b"C":
            peer.read(b"\r\n\r\n")
            established = b"HTTP/1.1 200 Connection established\r\n\r\n"
            self.answer(peer, self.fault("CONNECT"), established)
        self.start_tls(peer)
        while True:
            headers = peer.read(b"\r\n\r\n").decode("latin-1")
            self.answer(peer, self.fault("headers"), b"")
            length = re.search(r"(?i)\ncontent-length: (\d+)", headers)
            content = json.loads(peer.read(size=int(length[1]) if length else 0) or b"{}")
            fault = self.fault("body")
            right = self.take(content, keep=fault.takes or fault.reply is None)
            self.answer(peer, fault, http(200, right))

    def take(self, content: Any, *, keep: bool) -> dict[str, Any]:
        """Keep a message or a batch, if asked to; return the right answer."""
        mails = content.get("requests", [content])
        recipients = [[one["email"] for one in mail.get("to", [])] for mail in mails]
        good = [all("@" in email for email in emails) for emails in recipients]
        if keep:
            pairs = zip(recipients, good, strict=True)
            self.taken += [emails for emails, is_good in pairs if is_good]
        taken = {"success": True, "message_ids": ["5000001"]}
        refused = {"success": False, "errors": ["'email' is invalid"]}
        if "requests" not in content:
            return taken
        return {"success": True, "responses": [taken if one else refused for one in good]}


def http(status: int, body: object, *headers: str) -> bytes:
    """Return a whole answer: HTML if the body is a text in bytes, otherwise JSON."""
    is_html = isinstance(body, bytes)
    text = body if is_html else json.dumps(body).encode()
    kind = "text/html" if is_html else "application/json"
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Type: {kind}"]
    lines += [f"Content-Length: {len(text)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + text

"""Mailtrap in trouble: servers that fail at one chosen step, and know what they took."""

import contextlib
import json
import re
import socket
import ssl
import struct
import threading
from dataclasses import dataclass

SMTP_STEPS = (
    *("greeting", "EHLO", "STARTTLS", "TLS", "EHLO over TLS"),
    *("AUTH", "MAIL", "RCPT", "DATA", "content", "RSET", "QUIT"),
)
API_STEPS = ("accept", "CONNECT", "TLS", "headers", "body")


@dataclass(frozen=True)
class Fault:
    """What goes wrong at one step, once: what is answered, and what becomes of the connection."""

    step: str
    reply: bytes | None = b""  # in place of the right one; None for the right one
    then: str = "go on"  # or "close", "reset", "stall" (until the client has given up)
    takes: bool = False  # whether the server keeps the message, at the step that hands it over


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

    def __init__(self, tls: ssl.SSLContext, *faults: Fault, forever: bool = False) -> None:
        """Plan the faults, at most one for each step; each happens once, or forever."""
        self.tls = tls
        self.taken = 0
        self.steps: list[str] = []
        self._faults = {fault.step: fault for fault in faults}
        self._forever = forever
        self._client_is_done = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "Server":
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

    def answer(self, peer: Peer, step: str, right: bytes) -> bytes:
        """Answer a step, with its fault if one is planned; return what was answered."""
        self.steps.append(step)
        fault = self._faults.get(step, Fault(step, None))
        if not self._forever:
            self._faults.pop(step, None)
        reply = right if fault.reply is None else fault.reply
        peer.sock.sendall(reply)
        if fault.then == "stall":
            self._client_is_done.wait(4)
        if fault.then != "go on":
            raise CutError(fault.then)
        return reply

    def start_tls(self, peer: Peer) -> None:
        """Shake hands, or read what the client says first and have the fault."""
        if "TLS" in self._faults and self._faults["TLS"].reply is not None:
            peer.sock.recv(1 << 16)
            self.answer(peer, "TLS", b"")
        peer.sock = self.tls.wrap_socket(peer.sock, server_side=True)
        self.answer(peer, "TLS", b"")

    def take(self, step: str) -> None:
        """Keep the message, unless a fault planned for the step says otherwise."""
        fault = self._faults.get(step)
        self.taken += fault is None or fault.takes or fault.reply is None


class FaultySmtp(Server):
    """Mailtrap's SMTP server."""

    def serve(self, peer: Peer) -> None:
        """Answer command after command."""
        plain = b"250-smtp.mailtrap.io\r\n250-SIZE 5242880\r\n250 STARTTLS\r\n"
        secure = b"250-smtp.mailtrap.io\r\n250-SIZE 5242880\r\n250 AUTH PLAIN LOGIN CRAM-MD5\r\n"
        right = {
            "STARTTLS": b"220 2.0.0 Start TLS\r\n",
            "AUTH": b"235 2.0.0 OK\r\n",
            "DATA": b"354 Go ahead\r\n",
            "QUIT": b"221 2.0.0 Bye\r\n",
        }
        self.answer(peer, "greeting", b"220 smtp.mailtrap.io ESMTP ready\r\n")
        while True:
            command = peer.read(b"\r\n")[:-2].upper().decode("latin-1")
            step = re.split("[ :]", command)[0]
            if step == "EHLO" and isinstance(peer.sock, ssl.SSLSocket):
                self.answer(peer, "EHLO over TLS", secure)
                continue
            usual = plain if step == "EHLO" else right.get(step, b"250 2.0.0 Ok\r\n")
            reply = self.answer(peer, step, usual)
            if step == "STARTTLS" and reply.startswith(b"220"):
                self.start_tls(peer)
            elif step == "DATA" and reply.startswith(b"354"):
                peer.read(b"\r\n.\r\n")
                self.take("content")
                self.answer(peer, "content", b"250 2.0.0 Ok: queued\r\n")


class FaultyApi(Server):
    """Mailtrap's API, and the proxy in front of it."""

    def serve(self, peer: Peer) -> None:
        """Open a tunnel, shake hands, and answer request after request."""
        self.answer(peer, "accept", b"")
        peer.read(b"\r\n\r\n")
        self.answer(peer, "CONNECT", b"HTTP/1.1 200 Connection established\r\n\r\n")
        self.start_tls(peer)
        while True:
            headers = peer.read(b"\r\n\r\n").decode("latin-1")
            self.answer(peer, "headers", b"")
            length = re.search(r"(?i)\ncontent-length: (\d+)", headers)
            peer.read(size=int(length[1]) if length else 0)
            self.take("body")
            self.answer(peer, "body", http(200, {"success": True, "message_ids": ["5000001"]}))


def http(status: int, body: object, *headers: str) -> bytes:
    """Return a whole answer: HTML if the body is a text in bytes, otherwise JSON."""
    is_html = isinstance(body, bytes)
    text = body if is_html else json.dumps(body).encode()
    kind = "text/html" if is_html else "application/json"
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Type: {kind}"]
    lines += [f"Content-Length: {len(text)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + text

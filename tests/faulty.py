"""Mailtrap in trouble: an SMTP server and an API that fail at one chosen step, and know what they took.

Each serves the documented conversation with sockets alone, so that it can break it anywhere: a cut, a
reset, a stall, or any bytes in place of the right reply.
"""

import contextlib
import json
import re
import select
import socket
import ssl
import struct
import threading
from collections.abc import Iterable
from dataclasses import dataclass

API_HOST = "sandbox.api.mailtrap.io"
REMOTE = "127.1"  # reaches 127.0.0.1, but is no loopback host to smtp_client, so it insists on TLS and login
SMTP_STEPS = (
    *("greeting", "EHLO", "STARTTLS", "TLS", "EHLO over TLS"),
    *("AUTH", "MAIL", "RCPT", "DATA", "content", "RSET", "QUIT"),
)
API_STEPS = ("accept", "CONNECT", "TLS", "headers", "body")


@dataclass(frozen=True)
class Fault:
    """What goes wrong at one step, once: what is answered, and what becomes of the connection."""

    step: str
    reply: bytes | None = b""
    """In place of the right reply; None for the right one."""
    then: str = "close"
    """Or "reset", "stall" (until the client has given up), "go on"."""
    takes: bool = False
    """At the step that hands the message over: whether the server keeps it."""


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
    """What both have in common; use it in a with statement, to be left when the client has closed."""

    def __init__(self, tls: ssl.SSLContext, faults: Iterable[Fault]) -> None:
        """Plan the faults, at most one for each step."""
        self.tls = tls
        self.taken = 0
        self._faults = {fault.step: fault for fault in faults}
        self._client_is_done = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "Server":
        """Listen on a free port."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._start(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the last connection, so that what was taken is final."""
        self._client_is_done.set()
        socket.create_connection(("127.0.0.1", self.port)).close()  # wakes accept()
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()
        self._listener.close()

    def _start(self, job: object, *arguments: object) -> None:
        self._threads.append(threading.Thread(target=job, args=arguments, daemon=True))  # type: ignore[arg-type]
        self._threads[-1].start()

    def _listen(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            if self._client_is_done.is_set():
                sock.close()
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(4)
            self._start(self._attend, Peer(sock))

    def _attend(self, peer: Peer) -> None:
        reset = False
        try:
            self.serve(peer)
        except CutError as cut:
            reset = cut.args == ("reset",)
        except OSError:
            pass
        with contextlib.suppress(OSError):
            peer.close(reset=reset)

    def serve(self, peer: Peer) -> None:
        """Hold the conversation."""
        raise NotImplementedError

    def answer(self, peer: Peer, step: str, right: bytes) -> bytes:
        """Answer a step, with its fault if one is planned; return what was answered."""
        fault = self._faults.pop(step, Fault(step, None, "go on"))
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
        plain = b"250-smtp.mailtrap.io\r\n250-SIZE 5242880\r\n250-PIPELINING\r\n250 STARTTLS\r\n"
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
            reply = self.answer(peer, step, plain if step == "EHLO" else right.get(step, b"250 2.0.0 Ok\r\n"))
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
        if not peer.read(b"\r\n\r\n").startswith(f"CONNECT {API_HOST}:443 ".encode()):
            peer.sock.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            return
        self.answer(peer, "CONNECT", b"HTTP/1.1 200 Connection established\r\n\r\n")
        self.start_tls(peer)
        while True:
            headers = peer.read(b"\r\n\r\n").decode("latin-1")
            self.answer(peer, "headers", b"")
            length = re.search(r"(?i)\ncontent-length: (\d+)", headers)
            peer.read(size=int(length[1]) if length else 0)
            if headers.startswith("POST /api/send/"):
                self.take("body")
                self.answer(peer, "body", http(200, {"success": True, "message_ids": ["5000001"]}))
            else:
                peer.sock.sendall(http(404, {"success": False, "errors": ["Not Found"]}))


@dataclass(frozen=True)
class Cut:
    """Where a way ends: what is sent in one piece, a TLS record or some, arrives in part, and nothing after it."""

    sender: str
    """Whose piece: "client" or "server"."""
    piece: int
    arrives: slice
    then: str


class Way(Server):
    """The way to a server on another port of 127.0.0.1, with a cut."""

    def __init__(self, target: int, cut: Cut) -> None:
        """Plan the cut."""
        super().__init__(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), [])
        self.target, self.cut = target, cut

    def serve(self, peer: Peer) -> None:
        """Carry what comes, up to the cut."""
        pieces = {"client": 0, "server": 0}
        with socket.create_connection(("127.0.0.1", self.target)) as onward:
            while True:
                for source in select.select([peer.sock, onward], [], [], 4)[0]:
                    sender, sink = ("client", onward) if source is peer.sock else ("server", peer.sock)
                    piece = source.recv(1 << 18)
                    last = (sender, pieces[sender]) == (self.cut.sender, self.cut.piece)
                    sink.sendall(piece[self.cut.arrives] if last else piece)
                    pieces[sender] += 1
                    if last and self.cut.then == "stall":
                        self._client_is_done.wait(4)
                    if last or not piece:
                        raise CutError(self.cut.then)


def http(status: int, body: object, *headers: str) -> bytes:
    """Return a whole answer: HTML if the body is a text in bytes, otherwise JSON."""
    kind, text = ("text/html", body) if isinstance(body, bytes) else ("application/json", json.dumps(body).encode())
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Type: {kind}", f"Content-Length: {len(text)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + text

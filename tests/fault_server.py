"""A web server for tests whose network goes wrong on demand.

A fault is a word: ``stall`` (headers, half of the body, then silence for as long as the client
waits), ``cut`` (half of the body, then the connection is closed), ``reset`` (the same, broken off),
``wrong`` (other bytes), ``short`` (half of the content, and headers that fit it), ``429`` (with
``Retry-After: 1``), ``503``. Faults wait in lists; each answer takes the first, and one with a
``*`` behind it stays.
"""

from __future__ import annotations

import io
import json
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, BinaryIO

FAULTS = {"stall", "cut", "reset", "wrong", "short", "429", "503"}
HALVES = {"stall", "cut", "reset"}
BLOCK = 1 << 16
OTHER_BYTES = bytes(byte ^ 0x55 for byte in range(256))


class Server(ThreadingHTTPServer):
    """One thread for each connection, on a free port of this machine.

    Attributes:
        url: where it is.
        stopping: set when answers under way have to end.
        lock: for what several answers change.
        errors: what went wrong inside it.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, handler: type[Handler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.errors: list[BaseException] = []
        self.connections: set[socket.socket] = set()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Answer until the block ends; then end what is under way, and every open connection.

        Raises:
            Exception: what went wrong inside the server, unless the block itself failed.
        """
        thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.stopping.set()
            self.shutdown()
            thread.join()
            self.server_close()
            with self.lock:
                for connection in self.connections:
                    with suppress(OSError):  # the client was faster
                        connection.shutdown(socket.SHUT_RDWR)
        for error in self.errors:
            raise error

    def handle_error(self, *_: Any) -> None:
        """Keep what went wrong here for the test; that clients hang up is nothing."""
        error = sys.exception()
        if error is not None and not isinstance(error, ConnectionError):
            self.errors.append(error)

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond the end of the server."""
        if self.stopping.wait(max(0.0, seconds)):
            raise ConnectionAbortedError("the server stops")


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection; a server of its own defines ``answer``."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def answer(self) -> None:
        """Answer one request of any method."""
        raise NotImplementedError

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def setup(self) -> None:
        super().setup()
        with self.server.lock:
            self.server.connections.add(self.connection)

    def finish(self) -> None:
        with self.server.lock:
            self.server.connections.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet: tests read what the server has kept instead."""

    @property
    def has_body(self) -> bool:
        """Whether the answer has more than headers."""
        return self.command != "HEAD"

    def next_fault(self, faults: list[str]) -> str | None:
        """What goes wrong this time; None if nothing does."""
        with self.server.lock:
            if not faults:
                return None
            fault = faults[0].removesuffix("*")
            if faults[0] == fault:
                del faults[0]
        if fault not in FAULTS:
            raise ValueError(f"{fault!r} is no fault; one of {sorted(FAULTS)}")
        return fault

    def send(
        self,
        status: int,
        content: bytes | BinaryIO,
        headers: dict[str, str],
        length: int = -1,
        fault: str | None = None,
        rate: float | None = None,
        count: Callable[[int], None] | None = None,
    ) -> None:
        """Headers and a body, or what a fault leaves of it.

        Args:
            status: of the answer.
            content: the body, or a file that is read from where it stands.
            headers: beside Content-Length.
            length: bytes of the body, where it is a file.
            fault: what goes wrong; of ``short``, ``429`` and ``503`` the caller takes care.
            rate: bytes per second; None: no limit.
            count: told how many bytes have been sent, block by block.
        """
        if isinstance(content, bytes):
            content, length = io.BytesIO(content), len(content)
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if not self.has_body:
            return
        left = length // 2 if fault in HALVES else length
        step = min(BLOCK, max(1, int(rate / 20))) if rate else BLOCK
        begun, sent = time.monotonic(), 0
        while sent < left:
            block = content.read(min(step, left - sent))
            if not block:
                raise EOFError(f"{self.path}: the content ends after {sent} of {length} bytes")
            self.wfile.write(block.translate(OTHER_BYTES) if fault == "wrong" else block)
            sent += len(block)
            if count is not None:
                count(len(block))
            if rate:
                self.server.pause(begun + sent / rate - time.monotonic())
        if fault in HALVES:
            self.close_connection = True
        if fault == "stall":
            self.silence()
        elif fault == "reset":
            self._reset()

    def json(self, value: Any, fault: str | None = None) -> None:
        """A value as JSON."""
        if fault in ("429", "503"):
            self.busy(fault)
            return
        content = json.dumps(value).encode()
        if fault == "short":
            content = content[: len(content) // 2]
        self.send(200, content, {"Content-Type": "application/json"}, fault=fault)

    def busy(self, fault: str) -> None:
        """The answer of a server that has too much to do."""
        headers = {"Retry-After": "1"} if fault == "429" else {}
        self.send(int(fault), b'{"error": "come back later"}', headers)

    def silence(self) -> None:
        """Say nothing until the client hangs up or the server stops."""
        self.close_connection = True
        while not self.server.stopping.wait(0.02):
            readable, _, _ = select.select([self.connection], [], [], 0)
            if readable and not self.connection.recv(1, socket.MSG_PEEK):
                return

    def _reset(self) -> None:
        """Break the connection off instead of closing it."""
        self.server.pause(0.1)  # the client's kernel forgets what was not read by then
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with self.server.lock:
            self.server.connections.discard(self.connection)
        self.rfile.close()
        self.connection.close()

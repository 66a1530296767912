"""A dataset of the Hugging Face Hub in miniature, for the real `datasets` client.

One repository, ``someone/pile``, with its rows in one .jsonl file. Tests start klmap in a process
of its own with the environment that ``Hub.environment`` gives, so nothing reaches the real Hub.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.hub_server import Hub, git_hash

NAME = "someone/pile"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROWS: list[dict[str, Any]] = [
    {"text": f"Document {n}: " + "wörter und zahlen " * (n % 9), "meta": {"set": "abc"[n % 3]}}
    for n in range(60)
]
FILES = {
    "README.md": b"---\nlicense: cc0-1.0\n---\n",
    "train.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
}


@contextmanager
def serve() -> Iterator[Hub]:
    """Run the server on a free port until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    server.hub = hub  # type: ignore[attr-defined]
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet: tests read the list of requests instead."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.hub.requests.append(f"{self.command} {path}")  # type: ignore[attr-defined]
        file = re.fullmatch(rf"/datasets/{NAME}/resolve/[^/]+/(.+)", path)
        if file and file[1] in FILES:
            self._file(FILES[file[1]])
        elif file:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        elif re.fullmatch(rf"/api/datasets/{NAME}(/revision/[^/]+)?", path):
            self._json({"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": n} for n in FILES]})
        elif re.fullmatch(rf"/api/datasets/{NAME}/(tree|paths-info)/[^/]+/?", path):
            self._json([self._entry(name) for name in FILES])
        elif re.match(rf"/api/datasets/{NAME}/tree/", path):
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    @staticmethod
    def _entry(name: str) -> dict[str, Any]:
        content = FILES[name]
        return {"type": "file", "path": name, "size": len(content), "oid": git_hash(content)}

    def _file(self, content: bytes) -> None:
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{git_hash(content)}"'}
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if part is None:
            self._send(200, content, headers)
            return
        start, end = int(part[1]), min(int(part[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        self._send(206, content[start : end + 1], headers)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

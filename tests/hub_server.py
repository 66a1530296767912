"""A Hugging Face Hub in miniature, for the real client library.

Serves model folders over HTTP on this machine: model information, file lists, and files with the
headers that the client checks. Tests start klmap in a process of its own with the environment
that ``environment`` gives, so nothing reaches the real Hub.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """One model repository.

    Attributes:
        folder: the files it serves.
        commit: what its branch ``main`` points to.
        revisions: further branches and tags, each with its commit.
        state: ``ok``, ``gated`` (files refused), ``private`` (everything refused), ``broken``
            (every answer is an internal error).
        info: further keys of the model information (createdAt, cardData, safetensors).
        served: names of the files that were downloaded.
        short: names of files of which half is served, as after a broken upload.
    """

    folder: Path
    commit: str
    revisions: dict[str, str] = field(default_factory=dict)
    state: str = "ok"
    info: dict[str, Any] = field(default_factory=dict)
    served: list[str] = field(default_factory=list)
    short: set[str] = field(default_factory=set)

    def commit_of(self, revision: str) -> str | None:
        """The commit of a branch, tag or commit; None if there is none."""
        known = {"main": self.commit, self.commit: self.commit, **self.revisions}
        known |= {commit: commit for commit in self.revisions.values()}
        return known.get(revision)


@dataclass
class Hub:
    """The running server.

    Attributes:
        url: what HF_ENDPOINT has to be.
        repositories: what it serves; tests change it while it runs.
        requests: method and path of every request, in order.
        moved: old ids, each with the new one.
    """

    url: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    moved: dict[str, str] = field(default_factory=dict)

    def environment(self, home: Path) -> dict[str, str]:
        """Variables for a process that must see this Hub and nothing else."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING_FACE"))}
        return {
            **kept,
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
        }


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a Hub on a free port until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def git_hash(content: bytes) -> str:
    """The git object id of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet: tests read the list of requests instead."""

    @property
    def hub(self) -> Hub:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        return hub

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        information = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        tree = re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)/?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = tree or information or file
        if match is None:
            self._fail(404, "RepoNotFound")
            return
        name = self.hub.moved.get(match[1], match[1])
        repository = self.hub.repositories.get(name)
        if repository is None or repository.state == "private":
            self._fail(401, "RepoNotFound")
            return
        if repository.state == "broken":
            self._fail(500, None)
            return
        commit = repository.commit_of(match[2] or "main")
        if commit is None:
            self._fail(404, "RevisionNotFound")
        elif tree:
            self._json([self._entry(path) for path in sorted(repository.folder.iterdir())])
        elif information:
            self._json(self._information(name, repository, commit))
        elif repository.state == "gated":
            self._fail(403, "GatedRepo")
        else:
            self._file(repository, commit, file[3] if file else "")

    @staticmethod
    def _entry(path: Path) -> dict[str, Any]:
        content = path.read_bytes()
        return {"type": "file", "path": path.name, "size": len(content), "oid": git_hash(content)}

    @staticmethod
    def _information(name: str, repository: Repository, commit: str) -> dict[str, Any]:
        siblings = []
        for path in sorted(repository.folder.iterdir()):
            content = path.read_bytes()
            entry: dict[str, Any] = {
                "rfilename": path.name,
                "size": len(content),
                "blobId": git_hash(content),
            }
            if path.suffix == ".safetensors":
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        return {
            "_id": "0",
            "id": name,
            "modelId": name,
            "sha": commit,
            "private": False,
            "gated": "auto" if repository.state == "gated" else False,
            "disabled": False,
            "tags": [],
            "downloads": 1,
            "likes": 1,
            "createdAt": "2023-04-01T12:00:00.000Z",
            "siblings": siblings,
            **repository.info,
        }

    def _file(self, repository: Repository, commit: str, name: str) -> None:
        path = repository.folder / name
        if not path.is_file():
            self._fail(404, "EntryNotFound", {"X-Repo-Commit": commit})
            return
        content = path.read_bytes()
        if name in repository.short:
            content = content[: len(content) // 2]
        if self.command == "GET":
            repository.served.append(name)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git_hash(content)}"'}
        self._send(200, content, "application/octet-stream", headers)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), "application/json", {})

    def _fail(self, status: int, code: str | None, headers: dict[str, str] | None = None) -> None:
        named = {"X-Error-Code": code} if code else {}
        self._send(status, b"{}", "application/json", {**named, **(headers or {})})

    def _send(self, status: int, content: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

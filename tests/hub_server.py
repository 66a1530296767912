"""A Hugging Face Hub in miniature, for the real client library.

Serves model and dataset folders over HTTP on this machine: information, file lists, and files with
the headers that the client checks, large ones through a redirect to another host as the real Hub
does. What goes wrong on a real network goes wrong here on demand. Tests start klmap in a process
of its own with the environment that ``Hub.environment`` gives, so nothing reaches the real Hub.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests import hub_files
from tests.fault_server import Handler, Server

_ROUTES = "revision|tree|paths-info|xet-read-token"
_API = re.compile(
    rf"/api/(?P<kind>models|datasets)/(?P<id>[^/]+(?:/(?!(?:{_ROUTES})/)[^/]+)?)"
    rf"(?:/(?P<route>{_ROUTES})/(?P<revision>[^/]+)(?:/(?P<inside>.+?))?)?/?"
)
_RESOLVE = re.compile(
    r"/(?P<kind>datasets/)?(?P<id>[^/]+(?:/(?!resolve/)[^/]+)?)"
    r"/resolve/(?P<revision>[^/]+)/(?P<inside>.+)"
)
_CDN = re.compile(r"/cdn/([0-9a-f]{64})/(.+)")
_CAS = re.compile(r"/cas/(broken|stall)(/.*)?")


@dataclass
class Repository:
    """One repository.

    Faults (``tests.fault_server``) meet the GETs of a file; of a ranged request, the range is
    spoilt. A HEAD is always right.

    Attributes:
        folder: the files it serves, read anew for every request.
        commit: what its branch ``main`` points to.
        revisions: further branches and tags, each with its commit.
        state: ``ok``; ``gated`` (everybody sees it, only ``tokens`` get its files); ``private``
            (only ``tokens`` see it); ``broken`` (every answer is an internal error).
        info: further keys of the model information, which win over what the files say.
        tokens: who may read a gated or private repository.
        faults: what goes wrong with each file.
        information_faults: what goes wrong with the model information.
        xet: None, or the chunk service that large files point to: ``broken`` (answers with
            internal errors) or ``stall`` (never answers).
        short: names of files that are half as long as the list says, as after a broken upload.
        served: names of the files of which a body was sent, one for each GET.
        sent: bytes of each file's bodies, of all attempts together.
    """

    folder: Path
    commit: str
    revisions: dict[str, str] = field(default_factory=dict)
    state: str = "ok"
    info: dict[str, Any] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    faults: dict[str, list[str]] = field(default_factory=dict)
    information_faults: list[str] = field(default_factory=list)
    xet: str | None = None
    short: set[str] = field(default_factory=set)
    served: list[str] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)

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
        repositories: what it serves, by id, datasets as ``datasets/<id>``; tests change it while
            it runs.
        requests: method and path of every request, in order.
        moved: old ids, each with the new one; requests are redirected.
        tokens_seen: path and token (None without one) of every request, in order.
        busy: the largest number of requests that were in work at the same time.
        delay: seconds before each answer.
        rate: bytes per second at which the body of a file is sent, each for itself; None: no limit.
    """

    url: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    moved: dict[str, str] = field(default_factory=dict)
    tokens_seen: list[tuple[str, str | None]] = field(default_factory=list)
    busy: int = 0
    delay: float = 0.0
    rate: float | None = None

    @property
    def cdn(self) -> str:
        """Where large files are, to the client another host than the Hub."""
        return self.url.replace("127.0.0.1", "localhost")

    def environment(self, home: Path, xet: bool = False) -> dict[str, str]:
        """Variables for a process that must see this Hub and nothing else.

        Args:
            home: where the process keeps its cache and token.
            xet: whether it may use the chunk service.
        """
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING_FACE"))}
        here = "127.0.0.1,localhost"
        return {
            **kept,
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            **({} if xet else {"HF_HUB_DISABLE_XET": "1"}),
            "NO_PROXY": here,
            "no_proxy": here,
        }


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a Hub on a free port until the block ends."""
    server = _Server(_Handler)
    with server.running():
        yield server.hub


class _Server(Server):
    def __init__(self, handler: type[Handler]) -> None:
        super().__init__(handler)
        self.hub = Hub(self.url)
        self.in_work = 0


class _Handler(Handler):
    server: _Server

    def answer(self) -> None:
        hub, server = self.server.hub, self.server
        form = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.form = parse_qs(form.decode(errors="replace"))
        self.path_only = urlsplit(self.path).path
        self.query = parse_qs(urlsplit(self.path).query)
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        self.token = token if scheme == "Bearer" else None
        with server.lock:
            hub.requests.append(f"{self.command} {unquote(self.path_only)}")
            hub.tokens_seen.append((unquote(self.path_only), self.token))
            server.in_work += 1
            hub.busy = max(hub.busy, server.in_work)
        try:
            server.pause(hub.delay)
            self._route()
        finally:
            with server.lock:
                server.in_work -= 1

    def _route(self) -> None:
        if cdn := _CDN.fullmatch(self.path_only):
            self._from_cdn(cdn[1], unquote(cdn[2]))
        elif cas := _CAS.fullmatch(self.path_only):
            self._from_chunk_service(cas[1])
        elif match := _API.fullmatch(self.path_only) or _RESOLVE.fullmatch(self.path_only):
            self._from_repository(match)
        else:
            self._fail(404, None, "there is no such path here")

    def _from_repository(self, match: re.Match[str]) -> None:
        hub = self.server.hub
        prefix = "datasets/" if (match["kind"] or "").startswith("datasets") else ""
        name = unquote(match["id"])
        new = hub.moved.get(prefix + name)
        if new is not None:
            new = quote(new.removeprefix(prefix))
            target = self.path[: match.start("id")] + new + self.path[match.end("id") :]
            self.send(307, f"Redirecting to {target}".encode(), {"Location": target})
            return
        repository = hub.repositories.get(prefix + name)
        hidden = repository is not None and repository.state == "private"
        if repository is None or (hidden and self.token not in repository.tokens):
            # The real Hub does not tell a stranger whether a private repository exists.
            self._fail(404 if self.token else 401, "RepoNotFound", "Repository not found")
            return
        if repository.state == "broken":
            self._fail(500, None, "Internal Error - We're working hard to fix this!")
            return
        commit = repository.commit_of(unquote(match["revision"] or "main"))
        inside = unquote(match["inside"] or "")
        route = match["route"] if match.re is _API else "resolve"
        if commit is None:
            self._fail(404, "RevisionNotFound", "Invalid rev id")
        elif route in ("resolve", "xet-read-token") and not self._may_read(name, repository):
            return
        elif route == "resolve":
            self._file(prefix + name, repository, commit, inside)
        elif route == "xet-read-token":
            self._chunk_token(repository)
        elif route == "tree":
            self._tree(repository, commit, inside)
        elif route == "paths-info":
            wanted = [repository.folder / path for path in self.form.get("paths", [])]
            self._entries(repository, [path for path in wanted if path.exists()])
        else:
            fault = self.next_fault(repository.information_faults)
            self.json(self._information(name, repository, commit), fault)

    def _may_read(self, name: str, repository: Repository) -> bool:
        """Whether this client gets the files; tells it where not."""
        if repository.state != "gated" or self.token in repository.tokens:
            return True
        if self.token is None:
            words = "You must have access to it and be authenticated to access it. Please log in."
            self._fail(401, "GatedRepo", f"Access to model {name} is restricted. {words}")
        else:
            words = "is restricted and you are not in the authorized list."
            self._fail(403, "GatedRepo", f"Access to model {name} {words}")
        return False

    def _information(self, name: str, repository: Repository, commit: str) -> dict[str, Any]:
        folder = repository.folder
        names = hub_files.names(folder)
        blobs = self.query.get("blobs", [""])[0].lower() == "true"
        data = repository.info.get("cardData", hub_files.card_data(folder))
        found = {
            "_id": "0",
            "id": name,
            "modelId": name,
            "sha": commit,
            "private": repository.state == "private",
            "gated": "auto" if repository.state == "gated" else False,
            "disabled": False,
            "tags": hub_files.tags(folder, data),
            "downloads": len(self.server.hub.requests),
            "likes": 1,
            "createdAt": "2023-04-01T12:00:00.000Z",
            "cardData": data,
            "siblings": [
                hub_files.sibling(folder, name) if blobs else {"rfilename": name} for name in names
            ],
            "safetensors": hub_files.safetensors(folder),
            **repository.info,
        }
        wanted = {"_id", "id", *self.query.get("expand", found)}
        return {key: value for key, value in found.items() if key in wanted and value is not None}

    def _tree(self, repository: Repository, commit: str, inside: str) -> None:
        folder = repository.folder / inside
        if not folder.is_dir():
            self._fail(404, "EntryNotFound", f"{inside} does not exist", {"X-Repo-Commit": commit})
            return
        deep = self.query.get("recursive", [""])[0].lower() in ("true", "1")
        self._entries(repository, sorted(folder.rglob("*") if deep else folder.iterdir()))

    def _entries(self, repository: Repository, paths: list[Path]) -> None:
        xet = repository.xet is not None
        self.json([hub_files.tree_entry(repository.folder, path, xet) for path in paths])

    def _file(self, key: str, repository: Repository, commit: str, name: str) -> None:
        """A small file itself, or the way to a large one."""
        path = repository.folder / name
        headers = {"X-Repo-Commit": commit}
        if not path.is_file():
            self._fail(404, "EntryNotFound", "Entry not found", headers)
        elif hub_files.is_large(path):
            digest = hub_files.sha256(path)
            target = f"{self.server.hub.cdn}/cdn/{digest}/{quote(name)}?signed={quote(key)}"
            headers |= {"Location": target, "ETag": f'"{digest}"', "X-Linked-Etag": f'"{digest}"'}
            headers["X-Linked-Size"] = str(_size(repository, name))
            if repository.xet is not None:
                headers |= self._chunk_headers(key, repository, commit, path)
            self.send(302, f"Found. Redirecting to {target}".encode(), headers)
        else:
            headers["ETag"] = f'"{hub_files.git_hash(path)}"'
            self._content(repository, name, headers)

    def _from_cdn(self, digest: str, name: str) -> None:
        repository = self.server.hub.repositories.get(self.query.get("signed", [""])[0])
        if repository is None:
            self._fail(403, None, "not signed")
        elif self.headers.get("Authorization"):
            # As the real storage does: a signed address and a token are one too many.
            self._fail(400, None, "Only one auth mechanism allowed")
        elif not (path := repository.folder / name).is_file() or hub_files.sha256(path) != digest:
            self._fail(404, None, "NoSuchKey")
        else:
            self._content(repository, name, {"ETag": f'"{digest[:32]}"'})

    def _content(self, repository: Repository, name: str, headers: dict[str, str]) -> None:
        """A file or a range of it, spoilt where the test wants it so."""
        fault = self.next_fault(repository.faults.get(name, [])) if self.has_body else None
        if fault in ("429", "503"):
            self.busy(fault)
            return
        size = _size(repository, name)
        headers["Accept-Ranges"] = "bytes"
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        start, end, status = 0, size, 200
        if wanted and self.has_body and (wanted[1] or wanted[2]):
            if wanted[1]:
                start, end = int(wanted[1]), min(int(wanted[2] or size) + 1, size)
            else:
                start = max(0, size - int(wanted[2]))
            if start >= end:
                headers["Content-Range"] = f"bytes */{size}"
                self._fail(416, None, "Range Not Satisfiable", headers)
                return
            status = 206
        if fault == "short":
            end = start + (end - start) // 2
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        if self.has_body:
            repository.served.append(name)

        def count(size: int) -> None:
            with self.server.lock:
                repository.sent[name] = repository.sent.get(name, 0) + size

        with (repository.folder / name).open("rb") as file:
            file.seek(start)
            rate = self.server.hub.rate
            self.send(status, file, headers, end - start, fault, rate, count)

    def _chunk_headers(
        self, key: str, repository: Repository, commit: str, path: Path
    ) -> dict[str, str]:
        """How a client finds a file in the chunk service."""
        hub = self.server.hub
        name = key if key.startswith("datasets/") else f"models/{key}"
        route = f"{hub.url}/api/{name}/xet-read-token/{commit}"
        digest = hub_files.xet_hash(path)
        plan = f"{hub.url}/cas/{repository.xet}/v1/reconstructions/{digest}"
        return {
            "X-Xet-Hash": digest,
            "X-Xet-Refresh-Route": route,
            "Link": f'<{route}>; rel="xet-auth", <{plan}>; rel="xet-reconstruction-info"',
        }

    def _chunk_token(self, repository: Repository) -> None:
        expires = int(time.time()) + 3600
        service = f"{self.server.hub.url}/cas/{repository.xet}"
        headers = {
            "X-Xet-Cas-Url": service,
            "X-Xet-Access-Token": "chunks",
            "X-Xet-Token-Expiration": str(expires),
        }
        answer = {"casUrl": service, "accessToken": "chunks", "exp": expires}
        self.send(200, json.dumps(answer).encode(), headers)

    def _from_chunk_service(self, mode: str) -> None:
        if mode == "stall":
            self.silence()
        else:
            self._fail(500, None, "the chunk service is out of order")

    def _fail(
        self, status: int, code: str | None, message: str, headers: dict[str, str] | None = None
    ) -> None:
        named = {"X-Error-Code": code} if code else {}
        content = json.dumps({"error": message}).encode()
        self.send(status, content, {**named, "X-Error-Message": message, **(headers or {})})


def _size(repository: Repository, name: str) -> int:
    size = (repository.folder / name).stat().st_size
    return size // 2 if name in repository.short else size

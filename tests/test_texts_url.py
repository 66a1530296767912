"""Texts from a URL: the hash decides, bad networks are outlasted, a mirror changes nothing."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from klmap import config, configfile, texts, webfile
from klmap.config_texts import UrlTexts
from klmap.errors import ConfigError, InputError, KlmapError
from tests.project import copy_clone

SCRIPT = Path(__file__).parents[1] / "scripts" / "texts.py"
RECORDS = [
    {
        "index": number,
        "pile_idx": 7 * number,
        "chunk_idx": 0,
        "pile_set_name": f"Set {number % 3}",
        "text": f"Text {number}: " + "wörter und zahlen " * 50,
    }
    for number in range(500)
]
BODY = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS).encode()
SHA256 = hashlib.sha256(BODY).hexdigest()
HALF = len(BODY) // 2
QUICK = webfile.Patience(connect=2, silence=0.4, attempts=4, first_wait=0.01, longest_wait=3)


@dataclass
class Server:
    """A web server that serves one file.

    Attributes:
        url: where it listens, without a slash at the end.
        body: the file.
        acts: what it does to the next requests, one each; after that it answers as it should.
            ``(what, bytes)`` stops so far into the file, or into another (body, etag behind it).
        etag: the name of the file's state; None leaves the header out.
        ranges: whether it sends parts.
        requests: the headers of every request, with ``path`` among them.
        sent: bytes of the file that were sent.
    """

    url: str
    body: bytes = BODY
    acts: list[Any] = field(default_factory=list)
    etag: str | None = '"first"'
    ranges: bool = True
    requests: list[dict[str, str]] = field(default_factory=list)
    sent: int = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet: tests read the list of requests instead."""

    def do_GET(self) -> None:
        web: Server = self.server.web  # type: ignore[attr-defined]
        names = {name.lower(): value for name, value in self.headers.items()}
        web.requests.append({**names, "path": self.path})
        act = web.acts.pop(0) if web.acts else ("ok",)
        if act[0] == "status":
            self._head(act[1], 2, act[2] if len(act) > 2 else {})
            self.wfile.write(b"{}")
            return
        body, etag = act[2:] or (web.body, web.etag)
        status, headers = 200, {"Content-Type": "application/jsonl"}
        asked = self.headers.get("Range")
        if asked and web.ranges and self.headers.get("If-Range") == etag:
            start, status = int(asked.removeprefix("bytes=").removesuffix("-")), 206
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            body = body[start:]
        if etag:
            headers["ETag"] = etag
        if act[0] == "gzip":
            body = gzip.compress(body)
            headers["Content-Encoding"] = "gzip"
        self._head(status, len(body), headers)
        end = act[1] if act[0] in ("reset", "close", "stall") else len(body)
        web.sent += len(body[:end])
        self.wfile.write(body[:end])
        self.wfile.flush()
        if act[0] == "stall":
            self.server.over.wait(20)  # type: ignore[attr-defined]
        if act[0] == "reset":
            time.sleep(0.1)
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        if act[0] in ("reset", "close", "stall"):
            self.close_connection = True
            self.connection.close()

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def handle(self) -> None:
        try:
            super().handle()
        except (OSError, ValueError):
            """The client has given up, or this test has closed the connection."""

    def finish(self) -> None:
        try:
            super().finish()
        except (OSError, ValueError):
            """As above."""


@contextmanager
def serving() -> Iterator[Server]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.over = threading.Event()  # type: ignore[attr-defined]
    web = Server(f"http://127.0.0.1:{server.server_port}")
    server.web = web  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.over.set()  # type: ignore[attr-defined]
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def web() -> Iterator[Server]:
    with serving() as server:
        yield server


def fetch(web: Server, folder: Path, sha256: str = SHA256) -> bytes:
    target = folder / "file"
    webfile.download(f"{web.url}/texts.jsonl", sha256, target, QUICK)
    return target.read_bytes()


def url_set(web: Server, path: str = "/texts.jsonl", **keys: Any) -> UrlTexts:
    sha256 = hashlib.sha256(web.body).hexdigest()
    keys = {"source": "url", "url": web.url + path, "sha256": sha256, **keys}
    return UrlTexts.model_validate(keys)


def make(folder: Path, recipe: Any) -> tuple[bytes, dict[str, Any]]:
    texts.build(recipe, folder / "texts.jsonl", folder / "texts.json")
    assert sorted(path.name for path in folder.iterdir()) == ["texts.json", "texts.jsonl"]
    return (folder / "texts.jsonl").read_bytes(), json.loads((folder / "texts.json").read_text())


def run_script(web: Server, output: Path, **keys: Any) -> subprocess.CompletedProcess[str]:
    recipe = {"source": "url", "url": f"{web.url}/texts.jsonl", "sha256": SHA256, **keys}
    return subprocess.run(
        command(recipe, output),
        env={**os.environ, "HF_TOKEN": "hf_secret"},
        capture_output=True,
        text=True,
        check=False,
    )


def command(recipe: dict[str, Any], output: Path) -> list[str]:
    parts = [sys.executable, str(SCRIPT), "--recipe", json.dumps(recipe)]
    return [*parts, "--texts", str(output / "texts.jsonl"), "--manifest", f"{output}/texts.json"]


# ------------------------------------------------------------------------------- the set


def test_the_published_file_becomes_a_set(web: Server, tmp_path: Path) -> None:
    output = tmp_path / "out"
    result = run_script(web, output, domain_field="pile_set_name")
    assert result.returncode == 0, result.stderr
    made = texts.read_texts(output / "texts.jsonl", output / "texts.json")
    assert [(text.text, text.domain) for text in made] == [
        (record["text"], record["pile_set_name"]) for record in RECORDS
    ]
    assert sorted(path.name for path in output.iterdir()) == ["texts.json", "texts.jsonl"]
    assert f"{len(BODY):,} of {len(BODY):,} bytes" in result.stderr
    assert len(web.requests) == 1
    assert "authorization" not in web.requests[0], "no token leaves for a foreign host"


def test_the_same_file_gives_the_same_bytes_from_every_mirror(web: Server, tmp_path: Path) -> None:
    paths = {"a": "/texts.jsonl", "b": "/copies/pile.jsonl?key=secret", "c": "/download/17"}
    made = [
        make(tmp_path / name, url_set(web, path, format="jsonl", n=20))
        for name, path in paths.items()
    ]
    assert made[0] == made[1] == made[2], "the manifest is an input of scores: no url in it"
    assert made[0][1]["recipe"]["sha256"] == SHA256
    origins = [json.loads(line)["origin"] for line in made[0][0].splitlines()]
    assert all(origin.startswith(f"{SHA256[:12]}.jsonl:") for origin in origins)


def test_records_may_be_cut_and_sampled(web: Server, tmp_path: Path) -> None:
    _, manifest = make(tmp_path / "url", url_set(web, chunk=True, n=30, max_bytes=128))
    assert manifest["n"] == 30
    assert manifest["candidates"] > len(RECORDS)


def test_records_may_be_prompts_and_responses(web: Server, tmp_path: Path) -> None:
    fields = {"prompt": "pile_set_name", "response": "text"}
    lines, manifest = make(tmp_path, url_set(web, fields=fields, separator=": "))
    found = [json.loads(line) for line in lines.splitlines()]
    assert [(record["prompt"], record["text"], record["origin"]) for record in found] == [
        (f"{record['pile_set_name']}: ", record["text"], f"{SHA256[:12]}.jsonl:{number}")
        for number, record in enumerate(RECORDS, start=1)
    ]
    assert manifest["mean_prompt_bytes"] == len("Set 0: ")


def test_other_kinds_of_file_are_told_by_ending_or_format(web: Server, tmp_path: Path) -> None:
    web.body = b"one\ntwo\n"
    assert make(tmp_path / "a", url_set(web, "/A.TXT?download=1"))[1]["n"] == 2
    assert make(tmp_path / "b", url_set(web, "/get?id=5", format="txt"))[1]["n"] == 2
    table = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(RECORDS[:5]), table)
    web.body = table.getvalue()
    assert make(tmp_path / "c", url_set(web, "/texts.parquet"))[1]["n"] == 5


def test_a_broken_record_is_named_with_address_and_line(web: Server, tmp_path: Path) -> None:
    web.body = b'{"text": "one"}\n{"body": "two"}\n'
    with pytest.raises(InputError) as caught:
        make(tmp_path / "out", url_set(web, "/texts.jsonl?key=secret"))
    assert str(caught.value).startswith(f"{web.url}/texts.jsonl?...:2: no field 'text'")
    assert list((tmp_path / "out").iterdir()) == []


# ------------------------------------------------------------------------------- refusals


def test_another_file_than_expected_is_refused(web: Server, tmp_path: Path) -> None:
    expected = "0" * 64
    result = run_script(web, tmp_path / "out", sha256=expected)
    assert result.returncode == 1
    for words in (f"{web.url}/texts.jsonl", SHA256, expected, f"{len(BODY):,} bytes"):
        assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (404, "answers 404 Not Found: no such file; check the address"),
        (410, "no such file"),
        (401, "not a file for everybody, and klmap sends no password or token"),
        (403, "answers 403 Forbidden: not a file for everybody"),
        (204, "answers 204 No Content instead of a file"),
    ],
)
def test_a_refusal_is_final_and_explained(
    web: Server, tmp_path: Path, status: int, words: str
) -> None:
    web.acts = [("status", status)] * 9
    with pytest.raises(InputError, match=words) as caught:
        make(tmp_path, url_set(web))
    assert f"{web.url}/texts.jsonl" in str(caught.value)
    assert len(web.requests) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_key_in_the_address_is_not_shown(web: Server, tmp_path: Path) -> None:
    web.acts = [("status", 503), ("status", 404)]
    output = tmp_path / "out"
    result = run_script(web, output, url=f"{web.url}/texts.jsonl?key=secret")
    assert result.returncode == 1
    assert "404" in result.stderr
    assert "secret" not in result.stderr


# ------------------------------------------------------------------------------- bad networks


def test_a_busy_server_is_asked_again(web: Server, tmp_path: Path) -> None:
    web.acts = [("status", 503), ("status", 429), ("status", 500)]
    assert fetch(web, tmp_path) == BODY
    assert len(web.requests) == 4


def test_a_server_is_left_alone_for_as_long_as_it_asks(web: Server, tmp_path: Path) -> None:
    web.acts = [("status", 429, {"Retry-After": "1"})]
    start = time.monotonic()
    assert fetch(web, tmp_path) == BODY
    assert time.monotonic() - start >= 1
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    for asked in ("3600", later):
        web.acts = [("status", 503, {"Retry-After": asked})]
        with pytest.raises(KlmapError, match=r"left alone for 3[56]\d\d s; run again after that"):
            fetch(web, tmp_path)


@pytest.mark.parametrize("how", ["reset", "close", "stall"])
def test_what_breaks_off_is_carried_on(web: Server, tmp_path: Path, how: str) -> None:
    web.acts = [(how, HALF)]
    assert fetch(web, tmp_path) == BODY
    assert len(web.requests) == 2
    start = int(web.requests[1]["range"].removeprefix("bytes=").removesuffix("-"))
    assert HALF - webfile.BLOCK <= start <= HALF
    assert web.requests[1]["if-range"] == web.etag
    assert web.sent <= len(BODY) + webfile.BLOCK, "at most one block came twice"


def test_a_file_that_was_replaced_meanwhile_comes_whole(web: Server, tmp_path: Path) -> None:
    web.acts = [("reset", HALF, BODY[::-1], '"old"')]
    assert fetch(web, tmp_path) == BODY
    assert web.requests[1]["if-range"] == '"old"'


@pytest.mark.parametrize("lacks", ["etag", "ranges"])
def test_without_parts_it_begins_again(web: Server, tmp_path: Path, lacks: str) -> None:
    web.acts = [("reset", HALF), ("close", HALF)]
    web.etag, web.ranges = (None, True) if lacks == "etag" else ('"first"', False)
    assert fetch(web, tmp_path) == BODY
    assert ("range" in web.requests[1]) == (lacks == "ranges")


def test_a_part_that_is_not_there_is_not_asked_for_twice(web: Server, tmp_path: Path) -> None:
    web.acts = [("reset", HALF), ("status", 416)]
    assert fetch(web, tmp_path) == BODY
    assert ["range" in request for request in web.requests] == [False, True, False]


def test_a_body_that_the_server_packs_all_the_same_is_unpacked(web: Server, tmp_path: Path) -> None:
    web.acts = [("gzip",)]
    assert fetch(web, tmp_path) == BODY
    assert web.requests[0]["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (("status", 503), "answers 503 Service Unavailable"),
        (("reset", 0), "Connection reset by peer"),
        (("close", 0), "closed before the end of the file"),
        (("stall", 0), "the server fell silent"),
    ],
)
def test_a_server_that_never_recovers_is_given_up(
    web: Server, tmp_path: Path, act: tuple[Any, ...], words: str
) -> None:
    web.acts = [act] * 20
    with pytest.raises(KlmapError, match=f"{words}; given up after 4 attempts that brought noth"):
        fetch(web, tmp_path)
    assert len(web.requests) == QUICK.attempts


def test_progress_earns_new_patience(web: Server, tmp_path: Path) -> None:
    web.acts = [("close", 2 * webfile.BLOCK)] * 3 + [("status", 503)] * 3
    assert fetch(web, tmp_path) == BODY
    assert len(web.requests) == 7


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/texts.jsonl"
        with pytest.raises(KlmapError, match=r"refused; given up after 4 attempts.*Run again"):
            webfile.download(address, SHA256, tmp_path / "file", QUICK)


def test_redirects_are_followed_to_another_host(web: Server, tmp_path: Path) -> None:
    with serving() as other:
        web.acts = [("status", 302, {"Location": f"{other.url}/elsewhere?signed=1"})] * 2
        other.acts = [("reset", HALF)]
        assert fetch(web, tmp_path) == BODY
        assert [request["path"] for request in other.requests] == ["/elsewhere?signed=1"] * 2
        assert "range" in other.requests[1]
    for target, words in (("/texts.jsonl", "TooManyRedirects"), ("file:///x", "InvalidSchema")):
        web.acts = [("status", 302, {"Location": target})] * 40
        with pytest.raises(InputError, match=words):
            fetch(web, tmp_path)


def test_ctrl_c_leaves_nothing_behind(web: Server, tmp_path: Path) -> None:
    web.acts = [("stall", HALF)]
    recipe = {"source": "url", "url": f"{web.url}/texts.jsonl", "sha256": SHA256}
    process = subprocess.Popen(command(recipe, tmp_path), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 20
    while not any(path.stat().st_size for path in tmp_path.iterdir()):
        assert time.monotonic() < deadline, "nothing was received"
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=20)
    assert process.returncode == 130, words
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------- configuration

GOOD = f"source: url, url: 'https://example.org/texts.jsonl', sha256: {SHA256}"


def load(folder: Path, keys: str) -> config.Config:
    path = folder / "config.yaml"
    path.write_text(f"texts:\n  mine: {{{keys}}}\nmodels: [org/name]\n")
    return configfile.load(path)


def fingerprint(folder: Path, keys: str) -> str:
    read = load(folder, keys)
    return config.fingerprint(read.spec("mine", read.models[0]))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (f", sha256: {SHA256}", "", "texts.mine.sha256: missing; `sha256sum FILE` prints it"),
        (SHA256, "0" * 64, "texts.mine.sha256: 0 was read as a number; put the 64 digits in quote"),
        (SHA256, SHA256[:-1], f"'{SHA256[:-1]}' is not 64 hexadecimal digits; `sha256sum FILE`"),
        ("https://example.org", "file:///home", "is a file of this machine; use source: file"),
        ("https://example.org", "ftp://example.org", "is no address of a file; it begins with"),
        ("https://example.org/", "", "is no address of a file; it begins with https:// or http"),
        ("texts.jsonl", "texts.jsonl.gz", "is packed (.gz), which is not read here; give the"),
        ("texts.jsonl", "texts.jsonl.zst", "is packed (.zst)"),
        ("texts.jsonl", "get?id=5", "say which of them the file is, such as format: jsonl"),
        ("source: url", "source: url, format: csv", "'csv' is not one of jsonl, parquet, txt"),
        ("source: url", "source: url, path: a.txt", "path: unknown key; known keys: n, max_bytes"),
    ],
)
def test_a_bad_key_names_place_finding_and_fix(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in GOOD
    load(tmp_path, GOOD)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, GOOD.replace(old, new))
    assert str(caught.value).startswith("config.yaml: texts.mine.")
    assert message in str(caught.value)
    assert str(caught.value).endswith("(line 2)")


def test_an_address_with_a_commit_needs_no_hash_and_stands_for_the_file(tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    pinned = f"source: url, url: 'https://example.org/{commit}/texts.jsonl'"
    first = fingerprint(tmp_path, pinned)
    assert fingerprint(tmp_path, pinned.replace(commit, commit[::-1])) != first
    assert fingerprint(tmp_path, f"{pinned}, sha256: {SHA256}") != first
    with pytest.raises(ConfigError, match="sha256: missing"):
        load(tmp_path, pinned.replace(commit, commit[:12]))


def test_a_text_set_without_a_hash_is_named_by_what_came(tmp_path: Path, web: Server) -> None:
    recipe = url_set(web, f"/{'a' * 40}/texts.jsonl", sha256=None)
    lines, manifest = make(tmp_path / "out", recipe)
    assert json.loads(lines.splitlines()[0])["origin"] == f"{SHA256[:12]}.jsonl:1"
    assert manifest["recipe"]["url"] == recipe.url


def test_a_password_in_the_address_is_refused_unseen(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a user name or a password") as caught:
        load(tmp_path, GOOD.replace("example.org", "me:secret@example.org"))
    assert "secret" not in str(caught.value)


def test_the_hash_decides_the_fingerprint_and_the_address_does_not(tmp_path: Path) -> None:
    before = fingerprint(tmp_path, GOOD)
    for old, new in [
        ("example.org", "mirror.example.com/deep"),
        ("texts.jsonl'", "get?id=5', format: jsonl"),
        ("source: url", "source: url, format: jsonl"),
        (SHA256, SHA256.upper()),
    ]:
        assert old in GOOD
        assert fingerprint(tmp_path, GOOD.replace(old, new)) == before
    for old, new in [
        (SHA256, SHA256[::-1]),
        ("texts.jsonl", "texts.txt"),
        ("source: url", "source: url, domain_field: pile_set_name"),
        ("source: url", "source: url, n: 100"),
    ]:
        assert fingerprint(tmp_path, GOOD.replace(old, new)) != before


@pytest.mark.workflow
def test_another_mirror_makes_no_job(web: Server, tmp_path: Path) -> None:
    project = copy_clone(tmp_path / "klmap")
    keys = {"source": "url", "url": f"{web.url}/it's {{a}} & b.jsonl", "sha256": SHA256, "n": 10}
    project.configure(texts={"tiny": keys}, models=["org/name"])
    target = "results/tiny/texts.json"
    project.run(target)
    assert project.planned(target) == {}
    project.configure(texts={"tiny": {**keys, "url": "https://mirror.example.org/b.jsonl"}})
    assert project.planned(target) == {}
    project.configure(texts={"tiny": {**keys, "sha256": SHA256[::-1]}})
    assert project.planned(target) == {"texts": 1}

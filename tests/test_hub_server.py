"""The Hub of the tests, as the real client library finds it."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import hub_files
from tests.fault_server import FAULTS
from tests.hub_server import Hub, Repository, serve

COMMIT = "a" * 40
README = "---\nlicense: mit\nbase_model: [org/x, org/y]\n---\n# A model\n"
WEIGHTS = 60_000

CLIENT = """
import hashlib, json, os, sys
from concurrent.futures import ThreadPoolExecutor
from huggingface_hub import HfApi, hf_hub_download

def download(id, name, **options):
    try:
        path = hf_hub_download(id, name, **options)
    except Exception as error:
        return type(error).__name__
    return [os.path.basename(os.path.realpath(path)),
            hashlib.sha256(open(path, "rb").read()).hexdigest()]

def information(id, **options):
    try:
        info = HfApi().model_info(id, **options)
    except Exception as error:
        return type(error).__name__
    return {key: getattr(info, key) for key in ("id", "sha", "gated", "private", "tags")} | {
        "safetensors": info.safetensors,
        "created": str(info.created_at),
        "base": info.card_data and info.card_data.base_model,
        "files": {f.rfilename: [f.size, f.blob_id, f.lfs] for f in info.siblings},
    }
"""


def ask(hub: Hub, home: Path, code: str, **variables: str) -> Any:
    """What an expression is in a process with the real client that sees this Hub alone."""
    done = subprocess.run(
        [sys.executable, "-c", f"{CLIENT}\nprint(json.dumps({code}))"],
        env=hub.environment(home) | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def get(hub: Hub, path: str, method: str = "GET", **headers: str) -> tuple[int, Any, bytes]:
    """Status, headers and body of a plain request."""
    connection = http.client.HTTPConnection(hub.url.removeprefix("http://"), timeout=10)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as running:
        yield running


@pytest.fixture
def model(hub: Hub, tmp_path: Path) -> Repository:
    """A model with a small file, a large one, and one in a folder, as org/m."""
    folder = tmp_path / "model"
    (folder / "original").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text(README)
    (folder / "original" / "params.json").write_text('{"a": 1}')
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "BF16", "shape": [100, 200], "data_offsets": [0, 40_000]},
        "b": {"dtype": "F32", "shape": [5], "data_offsets": [40_000, 40_020]},
        "c": {"dtype": "F32", "shape": [], "data_offsets": [40_020, 40_024]},
    }
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + os.urandom(WEIGHTS)
    (folder / "model.safetensors").write_bytes(content)
    hub.repositories["org/m"] = Repository(folder, COMMIT, revisions={"step/1": "b" * 40})
    return hub.repositories["org/m"]


def test_information_says_what_the_files_are(hub: Hub, model: Repository, tmp_path: Path) -> None:
    full, plain, branch, listed = ask(
        hub,
        tmp_path / "home",
        "[information('org/m', files_metadata=True), information('org/m'),"
        " information('org/m', revision='step/1'),"
        " [[f.path, f.size, f.lfs and f.lfs.sha256] for f in"
        "  HfApi().list_repo_tree('org/m', recursive=True) if hasattr(f, 'size')]]",
    )
    content = (model.folder / "model.safetensors").read_bytes()
    assert (full["id"], full["sha"], full["gated"], full["private"]) == (
        "org/m",
        COMMIT,
        False,
        False,
    )
    assert full["created"].startswith("2023-04-01")
    assert full["base"] == ["org/x", "org/y"]
    assert set(full["tags"]) >= {"license:mit", "base_model:org/x", "base_model:merge:org/y"}
    assert full["safetensors"] == {"parameters": {"BF16": 20_000, "F32": 6}, "total": 20_006}
    names = ["README.md", "config.json", "model.safetensors", "original/params.json"]
    assert list(full["files"]) == names
    assert full["files"]["config.json"] == [2, "9e26dfeeb6e641a33dae4961196235bdb965b21b", None]
    size, blob, lfs = full["files"]["model.safetensors"]
    assert (size, lfs["sha256"], lfs["size"]) == (len(content), sha256(content), len(content))
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(content)}\n"
    assert lfs["pointer_size"] == len(pointer + f"size {size}\n")
    assert len(blob) == 40
    assert plain["files"] == {name: [None, None, None] for name in names}, "as the real Hub"
    assert branch["sha"] == "b" * 40
    assert listed == [
        [name, (model.folder / name).stat().st_size, sha256(content) if "tensors" in name else None]
        for name in names
    ]


def test_what_a_test_says_wins_over_the_files(hub: Hub, model: Repository) -> None:
    model.info = {"safetensors": None, "cardData": {"base_model": "org/z"}, "gated": "manual"}
    (model.folder / "adapter_config.json").write_text("{}")
    found = json.loads(get(hub, "/api/models/org/m")[2])
    assert "safetensors" not in found
    assert found["tags"][1:] == ["base_model:org/z", "base_model:adapter:org/z"]
    assert found["gated"] == "manual"
    assert set(json.loads(get(hub, "/api/models/org/m?expand=sha")[2])) == {"_id", "id", "sha"}


@pytest.mark.parametrize("xet", [None, "broken"])
def test_files_small_and_large(
    hub: Hub, model: Repository, tmp_path: Path, xet: str | None
) -> None:
    model.xet = xet
    names = ["config.json", "original/params.json", "model.safetensors"]
    found = ask(
        hub,
        tmp_path / "home",
        f"[download('org/m', n) for n in {names}] + [download('org/m', 'absent.txt')]",
        HF_TOKEN="hf_secret",
    )
    content = [(model.folder / name).read_bytes() for name in names]
    assert [digest for _, digest in found[:3]] == [sha256(part) for part in content]
    assert [blob for blob, _ in found[:3]] == [
        hub_files.git_hash(model.folder / names[0]),
        hub_files.git_hash(model.folder / names[1]),
        sha256(content[2]),
    ], "the client's cache is named by what the Hub calls the files"
    assert found[3] == "RemoteEntryNotFoundError"
    assert model.served == names
    assert model.sent == {name: len(part) for name, part in zip(names, content, strict=True)}
    storage = f"/cdn/{sha256(content[2])}/model.safetensors"
    assert hub.requests.count(f"GET {storage}") == 1
    tokens = dict(hub.tokens_seen)
    assert tokens.pop(storage) is None, "the token stays with the Hub"
    assert set(tokens.values()) == {"hf_secret"}


def test_ranges(hub: Hub, model: Repository) -> None:
    content = (model.folder / "model.safetensors").read_bytes()
    status, headers, _ = get(hub, "/org/m/resolve/main/model.safetensors", "HEAD")
    assert (status, headers["X-Linked-Size"]) == (302, str(len(content)))
    assert headers["X-Repo-Commit"] == COMMIT
    assert headers["Location"].startswith("http://localhost:")
    path = headers["Location"].partition("/cdn/")
    wanted = {"bytes=5-9": content[5:10], "bytes=9-": content[9:], "bytes=-7": content[-7:]}
    for text, part in wanted.items():
        status, headers, body = get(hub, path[1] + path[2], Range=text)
        assert (status, body) == (206, part)
        start = content.index(part)
        assert headers["Content-Range"] == f"bytes {start}-{start + len(part) - 1}/{len(content)}"
    status, headers, _ = get(hub, path[1] + path[2], Range=f"bytes={len(content)}-")
    assert (status, headers["Content-Range"]) == (416, f"bytes */{len(content)}")
    assert get(hub, "/org/m/resolve/main/config.json", Range="bytes=1-1")[2] == b"}"
    model.faults["model.safetensors"] = ["short", "wrong"]
    assert get(hub, path[1] + path[2], Range="bytes=100-199")[2] == content[100:150]
    spoilt = get(hub, path[1] + path[2], Range="bytes=100-199")[2]
    assert len(spoilt) == 100
    assert spoilt != content[100:200]
    assert get(hub, path[1] + path[2].partition("?")[0])[0] == 403, "not signed"
    assert get(hub, path[1] + path[2], Authorization="Bearer hf_x")[0] == 400
    (model.folder / "model.safetensors").write_bytes(b"new")
    assert get(hub, path[1] + path[2])[0] == 404, "addressed by content"


def test_a_cut_download_is_resumed(hub: Hub, model: Repository, tmp_path: Path) -> None:
    size = 24 << 20  # the client keeps whole pieces of 10 MiB
    with (model.folder / "pytorch_model.bin").open("wb") as file:
        file.truncate(size)
    model.faults["pytorch_model.bin"] = ["cut"]
    found = ask(hub, tmp_path / "home", "download('org/m', 'pytorch_model.bin')")
    assert found == [sha256(bytes(size))] * 2
    assert model.served == ["pytorch_model.bin"] * 2
    assert model.sent == {"pytorch_model.bin": size // 2 + size - (10 << 20)}


def test_a_renamed_model_is_redirected(hub: Hub, model: Repository, tmp_path: Path) -> None:
    hub.moved |= {"old/m": "org/m", "m": "org/m"}
    info, *found = ask(
        hub,
        tmp_path / "home",
        "[information('old/m', revision='step/1', files_metadata=True),"
        " download('old/m', 'config.json'), download('m', 'model.safetensors')]",
        HF_TOKEN="hf_secret",
    )
    assert (info["id"], info["sha"], info["files"]["config.json"][0]) == ("org/m", "b" * 40, 2)
    assert [digest for _, digest in found] == [
        sha256((model.folder / name).read_bytes()) for name in ("config.json", "model.safetensors")
    ]
    assert "HEAD /m/resolve/main/model.safetensors" in hub.requests
    assert "HEAD /org/m/resolve/main/model.safetensors" in hub.requests
    assert get(hub, "/api/models/old/m?blobs=true")[1]["Location"] == "/api/models/org/m?blobs=true"


def test_who_may_read_what(hub: Hub, model: Repository, tmp_path: Path) -> None:
    model.state, model.tokens = "gated", {"hf_good"}
    hub.repositories["org/p"] = Repository(
        model.folder, COMMIT, state="private", tokens={"hf_good"}
    )
    hub.repositories["org/b"] = Repository(model.folder, COMMIT, state="broken")
    code = (
        "[[information(id, token=t), download(id, n, token=t)]"
        " for id, n in (('org/m', 'config.json'), ('org/m', 'model.safetensors'),"
        " ('org/p', 'config.json'), ('org/absent', 'config.json'))"
        " for t in (False, 'hf_other', 'hf_good')] + [information('org/b')]"
    )
    *found, broken = ask(hub, tmp_path / "home", code)
    assert broken == "HfHubHTTPError"
    kinds = [
        (info if isinstance(info, str) else info["gated"], file if isinstance(file, str) else "")
        for info, file in found
    ]
    gated = [("auto", "GatedRepoError")] * 2 + [("auto", "")]
    hidden = [("RepositoryNotFoundError",) * 2] * 2
    assert kinds == [*gated, *gated, *hidden, (False, ""), *hidden, hidden[0]]
    assert found[8][0]["private"] is True
    assert get(hub, "/org/m/resolve/main/config.json")[0] == 401
    assert get(hub, "/org/m/resolve/main/config.json", Authorization="Bearer x")[0] == 403
    assert json.loads(get(hub, "/api/models/org/m/tree/main")[2])
    assert set(model.served) == {"config.json", "model.safetensors"}


def test_every_fault_is_seen(hub: Hub, model: Repository, tmp_path: Path) -> None:
    kinds = sorted(FAULTS)
    for place in ("small", "large"):
        for fault in kinds:
            name = f"{place}-{fault}" + (".bin" if place == "large" else "")
            (model.folder / name).write_bytes(name.encode() * 40)
            model.faults[name] = [fault]
    names = sorted(model.faults)
    found = ask(
        hub,
        tmp_path / "home",
        f"list(ThreadPoolExecutor(16).map(lambda n: download('org/m', n), {names}))",
        HF_HUB_DOWNLOAD_TIMEOUT="2",
    )
    assert not any(model.faults.values()), "each was met"
    assert 1 < hub.busy <= 16
    for name, result in zip(names, found, strict=True):
        content = (model.folder / name).read_bytes()
        fault = name.removesuffix(".bin").partition("-")[2]
        gets, sent = model.served.count(name), model.sent.get(name, 0)
        whole, half = len(content), len(content) // 2
        if fault in ("cut", "stall"):
            assert (result[1], gets, sent) == (sha256(content), 2, half + whole), name
        elif fault == "429":
            assert (result[1], gets, sent) == (sha256(content), 1, whole), name
        elif fault == "wrong":
            assert (gets, sent) == (1, whole), name
            assert result[1] != sha256(content), "the client does not look at hashes"
        else:
            error = {"503": "HfHubHTTPError", "reset": "ReadError", "short": "OSError"}[fault]
            assert result == error, name
            assert (gets, sent) == ((0, 0) if fault == "503" else (1, half)), name


def test_faults_of_the_information(hub: Hub, model: Repository, tmp_path: Path) -> None:
    model.information_faults = ["429", "503", "cut", "short", "reset"]
    found = ask(hub, tmp_path / "home", "[information('org/m') for _ in range(6)]")
    errors = ["HfHubHTTPError"] * 2 + ["RemoteProtocolError", "JSONDecodeError", "ReadError"]
    assert found[:5] == errors
    assert found[5]["id"] == "org/m"
    model.information_faults = ["429*"]
    for _ in range(3):
        status, headers, _ = get(hub, "/api/models/org/m")
        assert (status, headers["Retry-After"]) == (429, "1")


@pytest.mark.parametrize("mode", ["broken", "stall"])
def test_the_chunk_service_fails(hub: Hub, model: Repository, tmp_path: Path, mode: str) -> None:
    model.xet = mode
    process = subprocess.Popen(
        [sys.executable, "-c", f"{CLIENT}\ndownload('org/m', 'model.safetensors')"],
        env=hub.environment(tmp_path / "home", xet=True) | {"HF_TOKEN": "hf_secret"},
        stderr=subprocess.DEVNULL,
    )
    try:
        wanted = f"GET /cas/{mode}/"
        deadline = time.monotonic() + 20
        while not any(request.startswith(wanted) for request in hub.requests):
            assert process.poll() is None, hub.requests
            assert time.monotonic() < deadline, hub.requests
            time.sleep(0.05)
        time.sleep(0.3)
        assert process.poll() is None, "it does not give up at once"
    finally:
        process.kill()
        process.wait()
    assert model.served == []
    seen = {token for path, token in hub.tokens_seen if path.startswith("/cas/")}
    assert seen == {"chunks"}, "the user's token stays with the Hub"


def test_pace(hub: Hub, model: Repository) -> None:
    (model.folder / "config.json").write_bytes(bytes(30_000))
    hub.rate, hub.delay = 100_000.0, 0.2
    begun = time.monotonic()
    answers: list[int] = []

    def load() -> None:
        answers.append(len(get(hub, "/org/m/resolve/main/config.json")[2]))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [30_000] * 3
    assert 0.45 < time.monotonic() - begun < 2.0, "each connection has the rate for itself"
    assert hub.busy == 3


def test_the_end_of_the_server_ends_a_stall(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}" * 100)
    with serve() as hub:
        repository = Repository(tmp_path, COMMIT, faults={"config.json": ["stall*"]})
        hub.repositories["org/m"] = repository
        address = hub.url.removeprefix("http://")
        connections = [http.client.HTTPConnection(address, timeout=10) for _ in range(2)]
        answers = []
        for connection in connections:
            connection.request("GET", "/org/m/resolve/main/config.json")
            answers.append(connection.getresponse())
            assert answers[-1].read(100) == b"{}" * 50
        sockets = [connection.sock for connection in connections]
        assert select.select(sockets, [], [], 0.3)[0] == [], "open and silent"
    for answer in answers:
        with pytest.raises(http.client.IncompleteRead):
            answer.read()
    assert repository.sent == {"config.json": 200}


def test_a_mistake_in_a_test_is_not_swallowed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="'stal' is no fault"), serve() as hub:  # noqa: PT012
        hub.repositories["org/m"] = Repository(tmp_path, COMMIT, faults={"config.json": ["stal"]})
        with pytest.raises(http.client.RemoteDisconnected):
            get(hub, "/org/m/resolve/main/config.json")


def test_hashes_follow_the_content_and_are_kept(hub: Hub, model: Repository) -> None:
    path = "/org/m/resolve/main/model.safetensors"
    first = get(hub, path, "HEAD")[1]["X-Linked-Etag"]
    read = hub_files._hashes.cache_info().misses
    assert get(hub, path, "HEAD")[1]["X-Linked-Etag"] == first
    assert hub_files._hashes.cache_info().misses == read, "not read again"
    (model.folder / "model.safetensors").write_bytes(b"new")
    assert get(hub, path, "HEAD")[1]["X-Linked-Etag"] == f'"{sha256(b"new")}"'

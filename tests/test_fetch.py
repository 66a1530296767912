"""How weights come: linked where they are here, else downloaded, over networks that go wrong."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from klmap import cards, fetch, resolve
from klmap.cards import Card
from klmap.errors import InputError
from tests import hub_models
from tests.hub_models import COMMIT, Klmap, shards
from tests.hub_server import Repository, serve

MB = 1 << 20
WEIGHTS = {"model.embed_tokens.weight": ("BF16", [128, 32 * 1024])}
"""Eight megabytes: fetching them twice shows, beside what is on its way when a network breaks."""
NAMES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
LARGE = "model.safetensors"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hub_models.model(tmp_path_factory.mktemp("models") / "large", WEIGHTS)


@pytest.fixture
def folder(large: Path, tmp_path: Path) -> Path:
    """A copy of the model that a test may spoil."""
    return Path(shutil.copytree(large, tmp_path / "copy"))


# Local folders


def test_fetch_links_a_folder(folder: Path, tmp_path: Path) -> None:
    card = resolve.resolve("x/y", None, folder)
    fetch.fetch(card, tmp_path / "weights", folder)
    found = sorted((tmp_path / "weights").iterdir())
    assert [path.name for path in found] == card.names
    assert all(path.is_symlink() and path.resolve() == folder / path.name for path in found)


def test_fetch_refuses_a_folder_that_changed(folder: Path, tmp_path: Path) -> None:
    card = resolve.resolve("x/y", None, folder)
    config = folder / "config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(InputError, match=r"changed since its card was made.*snakemake refresh"):
        fetch.fetch(card, tmp_path / "weights", folder)
    config.unlink()
    with pytest.raises(InputError, match=r"config\.json missing"):
        fetch.fetch(card, tmp_path / "weights", folder)
    assert not (tmp_path / "weights").exists()


def test_fetch_refuses_another_chat_template(folder: Path, tmp_path: Path) -> None:
    template = folder / "chat_template.jinja"
    template.write_text("{{ messages }}")
    card = resolve.resolve("x/y", None, folder)
    fetch.fetch(card, tmp_path / "weights", folder)
    assert (tmp_path / "weights" / template.name).is_file()
    template.write_text("{{ messages[0] }}")
    with pytest.raises(InputError, match=r"another chat_template\.jinja.*snakemake refresh"):
        fetch.fetch(card, tmp_path / "again", folder)
    template.unlink()
    with pytest.raises(InputError, match=r"chat_template\.jinja missing"):
        fetch.fetch(card, tmp_path / "again", folder)


def test_fetch_of_a_failed_card_hands_the_reason_on(tmp_path: Path) -> None:
    fetch.fetch(Card(id="x/y", error="gone"), tmp_path / "weights")
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["FAILED"]
    assert fetch.failure_in(tmp_path / "weights") == "gone"


# The Hub


@pytest.fixture
def klmap(tmp_path: Path) -> Iterator[Klmap]:
    with serve() as running:
        variables = {"KLMAP_HUB_PATIENCE": "2", "KLMAP_STALL_SECONDS": "20"}
        yield Klmap(running, tmp_path, variables)


@pytest.fixture
def made(klmap: Klmap, folder: Path) -> Repository:
    """A model of eight megabytes as org/m, and its card as card.json."""
    made = klmap.upload("org/m", folder)
    write_card(klmap, "org/m")
    shutil.rmtree(klmap.home)  # with the config.json that resolve has left in the cache
    made.served.clear()
    made.sent.clear()
    return made


def write_card(klmap: Klmap, id: str, name: str = "card.json", **variables: str) -> Card:
    done = klmap("resolve.py", "--id", id, "--card", name, **variables)
    assert done.returncode == 0, done.stdout
    return cards.read_card(klmap.folder / name)


def options(id: str = "m", card: str = "card.json") -> tuple[object, ...]:
    return "--card", card, "--weights", Path("models", id, "weights")


def is_complete(weights: Path, folder: Path, names: list[str] = NAMES) -> bool:
    """Whether these files came and nothing else, and nothing is left beside their folder."""
    found = sorted(path.name for path in weights.iterdir())
    beside = [path.name for path in weights.parent.iterdir()]
    same = all((weights / name).read_bytes() == (folder / name).read_bytes() for name in names)
    return same and (found, beside) == (names, ["weights"])


def test_only_what_the_card_names_comes(klmap: Klmap, made: Repository) -> None:
    for name in ("notes.txt", "pytorch_model.bin", "code.py"):
        (made.folder / name).write_text("not needed")
    done = klmap("fetch.py", *options())
    assert done.returncode == 0, done.stdout
    assert is_complete(klmap.folder / "models/m/weights", made.folder)
    assert sorted(made.served) == NAMES, "each once"
    assert "4 files, " in done.stdout
    assert not list((klmap.home).rglob(LARGE)), "not in the account's cache as well"


def test_shards_come_side_by_side(klmap: Klmap, tmp_path: Path) -> None:
    shards(hub_models.model(tmp_path / "s", None), [1000] * 6)
    klmap.upload("org/s", tmp_path / "s")
    names = write_card(klmap, "org/s").names
    klmap.hub.busy = 0
    klmap.hub.delay = 0.1
    assert klmap("fetch.py", *options()).returncode == 0
    assert is_complete(tmp_path / "models/m/weights", tmp_path / "s", names)
    # The server may count an answer a little longer than the client waits for it.
    assert 2 <= klmap.hub.busy <= 8


def test_renamed_model_is_fetched(klmap: Klmap, made: Repository) -> None:
    klmap.hub.moved["old/m"] = "org/m"
    write_card(klmap, "old/m")
    assert klmap("fetch.py", *options()).returncode == 0
    assert is_complete(klmap.folder / "models/m/weights", made.folder)


def test_old_card_without_hashes_still_works(klmap: Klmap, made: Repository) -> None:
    card = cards.read_card(klmap.folder / "card.json")
    card.files = [{"name": entry["name"], "size": entry["size"]} for entry in card.files]
    cards.write_card(klmap.folder / "card.json", card)
    done = klmap("fetch.py", *options())
    assert done.returncode == 0, done.stdout
    assert is_complete(klmap.folder / "models/m/weights", made.folder)


# Faults of the network


@dataclass
class Outcome:
    """What a fetch with a fault ended in."""

    status: int
    said: str
    seconds: float
    made: Repository
    sent: int
    source: Path


ONCE = ["cut", "reset", "stall", "short", "wrong", "429", "503"]
FOREVER = ["wrong*", "short*", "stall*", "503*"]
STALLS = {"stall": "4", "stall*": "1.5", "503*": "1.5"}
"""Patience with each fault in seconds; no wait is longer than it."""


@pytest.fixture(scope="module")
def network(
    large: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Klmap, dict[str, Outcome]]]:
    """One fetch for every fault, all at the same time: most of it is waiting."""
    with serve() as running:
        folder = tmp_path_factory.mktemp("network")
        klmap = Klmap(running, folder, {"KLMAP_HUB_PATIENCE": "1"})
        klmap.upload("org/m", large)
        write_card(klmap, "org/m")

        def one(fault: str) -> Outcome:
            name = fault.replace("*", "-for-ever")
            made = klmap.upload(f"org/{name}", large, faults={LARGE: [fault]})
            card = cards.read_card(folder / "card.json")
            card.id = f"org/{name}"
            cards.write_card(folder / f"{name}.json", card)
            stall = STALLS.get(fault, "20")
            begun = time.monotonic()
            done = klmap("fetch.py", *options(name, f"{name}.json"), "--stall", stall)
            seconds = time.monotonic() - begun
            sent, source = made.sent.get(LARGE, 0), folder / "models" / name
            return Outcome(done.returncode, done.stdout, seconds, made, sent, source)

        faults = [*ONCE, *FOREVER]
        with ThreadPoolExecutor(max_workers=len(faults)) as pool:
            yield klmap, dict(zip(faults, pool.map(one, faults), strict=True))


Network = tuple[Klmap, dict[str, Outcome]]


@pytest.mark.parametrize("fault", ONCE)
def test_one_fault_is_survived(network: Network, fault: str) -> None:
    found = network[1][fault]
    assert found.status == 0, found.said
    assert is_complete(found.source / "weights", found.made.folder)
    assert not found.made.faults[LARGE], "it has met the fault"
    size = (found.made.folder / LARGE).stat().st_size
    assert found.sent <= size * (2 if fault == "wrong" else 1) + 2 * MB


@pytest.mark.parametrize("fault", FOREVER)
def test_a_lasting_fault_ends(network: Network, fault: str) -> None:
    """Within a bounded time, with a reason, and without doing the same work for ever."""
    found = network[1][fault]
    assert found.seconds < 60
    assert "Traceback" not in found.said
    assert not (found.source / "weights").exists()
    size = (found.made.folder / LARGE).stat().st_size
    assert found.sent <= 2 * size + 2 * MB
    if fault == "wrong*":
        assert found.status == 3, "the same twice: the upload itself is damaged"
        assert f"{LARGE} has the hash" in found.said
        assert "its upload is damaged: tell its owner" in found.said
        assert [path.name for path in found.source.iterdir()] == ["weights.failed.json"]
    else:
        assert found.status == 1
        assert "run again to go on" in found.said
        partial = found.source / ".weights.partial"
        whole = [name for name in NAMES if name != LARGE]
        assert sorted(p.name for p in partial.iterdir() if not p.name.startswith(LARGE)) == whole


@pytest.mark.parametrize("fault", ["stall*", "503*"])
def test_after_the_fault_only_the_rest_comes(network: Network, fault: str) -> None:
    klmap, outcomes = network
    found = outcomes[fault]
    made, name = found.made, found.source.name
    made.faults.clear()
    made.served.clear()
    here = sum(p.stat().st_size for p in (found.source / ".weights.partial").glob(f"{LARGE}*"))
    done = klmap("fetch.py", *options(name, f"{name}.json"))
    assert done.returncode == 0, done.stdout
    assert is_complete(found.source / "weights", made.folder)
    assert made.served == [LARGE]
    size = (made.folder / LARGE).stat().st_size
    assert made.sent[LARGE] - found.sent == size - here
    assert "files are here from an earlier attempt" in done.stdout


@pytest.mark.parametrize("name", ["tokenizer.json", LARGE])
def test_a_broken_upload_is_no_fault_of_the_network(
    klmap: Klmap, made: Repository, name: str
) -> None:
    made.short.add(name)
    done = klmap("fetch.py", *options())
    assert done.returncode == 3, done.stdout
    assert f"{name} has " in done.stdout
    assert "its upload is damaged" in done.stdout
    assert made.served.count(name) == 2
    record = klmap.folder / "models/m/weights.failed.json"
    assert list((klmap.folder / "models/m").iterdir()) == [record]
    again = klmap("fetch.py", *options())
    assert again.returncode == 3
    assert "its upload is damaged" in again.stdout
    assert made.served.count(name) == 2, "nobody downloads it again to see the same"
    made.short.clear()
    record.unlink()
    assert klmap("fetch.py", *options()).returncode == 0
    assert not record.exists()


def test_a_part_of_another_content_is_not_built_upon(klmap: Klmap, made: Repository) -> None:
    """Left by an earlier commit, say: it is noticed, and the file comes again as a whole."""
    partial = klmap.folder / "models/m/.weights.partial"
    partial.mkdir(parents=True)
    (partial / f"{LARGE}.part").write_bytes(b"x" * MB)
    (partial / "tokenizer.json").write_bytes(b"x" * (made.folder / "tokenizer.json").stat().st_size)
    (partial / "of_another_model.bin").write_bytes(b"x")
    done = klmap("fetch.py", *options())
    assert done.returncode == 0, done.stdout
    assert is_complete(klmap.folder / "models/m/weights", made.folder)


@pytest.mark.parametrize("mode", ["broken", "stall"])
def test_plain_http_takes_over_from_the_chunk_service(
    klmap: Klmap, made: Repository, mode: str
) -> None:
    made.xet = mode
    klmap.xet = True
    done = klmap("fetch.py", *options(), "--stall", "2")
    assert done.returncode == 0, done.stdout
    assert is_complete(klmap.folder / "models/m/weights", made.folder)
    assert any("/cas/" in request for request in klmap.hub.requests), "it was asked"
    assert made.sent[LARGE] <= (made.folder / LARGE).stat().st_size + 2 * MB
    assert not (klmap.home / "xet").exists(), "its cache stays in the folder that goes"


# Killed


def in_the_middle(klmap: Klmap, made: Repository) -> tuple[subprocess.Popen[str], psutil.Process]:
    """A fetch that has half of the weights, and its download."""
    klmap.hub.rate = 8 * MB
    running = klmap.start("fetch.py", *options())
    deadline = time.monotonic() + 30
    while made.sent.get(LARGE, 0) < 4 * MB:
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.02)
    (download,) = psutil.Process(running.pid).children(recursive=True)
    return running, download


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_fetch_takes_its_download_along(
    klmap: Klmap, made: Repository, how: signal.Signals
) -> None:
    running, download = in_the_middle(klmap, made)
    running.send_signal(how)
    download_ended = psutil.wait_procs([download], timeout=2)[0]
    running.communicate(timeout=10)
    assert download_ended, "the download goes on by itself"
    assert not (klmap.folder / "models/m/weights").exists()
    klmap.hub.rate = None
    done = klmap("fetch.py", *options())
    assert done.returncode == 0, done.stdout
    assert is_complete(klmap.folder / "models/m/weights", made.folder)
    assert made.sent[LARGE] <= (made.folder / LARGE).stat().st_size + 2 * MB


def test_a_download_whose_fetch_died_at_its_start_ends(klmap: Klmap, tmp_path: Path) -> None:
    """Killed between starting the download and asking it for files."""
    environment = klmap.hub.environment(klmap.home)
    with subprocess.Popen(
        [hub_models.PYTHON, "-m", "klmap.download"],
        env=environment | {"PYTHONPATH": str(hub_models.ROOT / "scripts")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=tmp_path,
        text=True,
    ) as process:
        said, _ = process.communicate(timeout=20)
    assert process.returncode != 0
    assert "Traceback" not in said
    assert klmap.hub.requests == []


# Gone, and not allowed


def withdraw(klmap: Klmap) -> None:
    klmap.hub.repositories["org/m"].state = "gated"


def delete(klmap: Klmap) -> None:
    del klmap.hub.repositories["org/m"]


def hide(klmap: Klmap) -> None:
    klmap.hub.repositories["org/m"].state = "private"


def drop_the_commit(klmap: Klmap) -> None:
    """The history was rewritten."""
    klmap.hub.repositories["org/m"].commit = "d" * 40


def drop_a_file(klmap: Klmap) -> None:
    (klmap.hub.repositories["org/m"].folder / "tokenizer.json").unlink()


CHANGES: list[tuple[Callable[[Klmap], None], str]] = [
    (withdraw, "gated; ask for access at"),
    (delete, "not on the Hub, or private"),
    (hide, "not on the Hub, or private"),
    (drop_the_commit, "has no revision"),
    (drop_a_file, "a file is missing on the Hub"),
]


@pytest.mark.parametrize(("change", "words"), CHANGES, ids=[c.__name__ for c, _ in CHANGES])
def test_what_changed_since_the_card_was_made_is_said(
    klmap: Klmap, made: Repository, change: Callable[[Klmap], None], words: str
) -> None:
    change(klmap)
    assert made.served == []
    done = klmap("fetch.py", *options())
    assert done.returncode == 3, done.stdout
    assert words in done.stdout
    assert not list(Path(klmap.folder / "models/m").iterdir())
    done = klmap("fetch.py", *options(), "--on-failure", "skip")
    assert done.returncode == 0, done.stdout
    weights = klmap.folder / "models/m/weights"
    assert [path.name for path in weights.iterdir()] == ["FAILED"]
    assert words in (fetch.failure_in(weights) or "")
    assert [path.name for path in weights.parent.iterdir()] == ["weights"]


def test_deleted_in_the_middle(klmap: Klmap, made: Repository) -> None:
    """What has arrived of a model that is gone takes no room any more."""
    running, _ = in_the_middle(klmap, made)
    running.kill()
    running.communicate()
    assert (klmap.folder / "models/m/.weights.partial/tokenizer.json").is_file()
    delete(klmap)
    assert klmap("fetch.py", *options()).returncode == 3
    assert not list((klmap.folder / "models/m").iterdir())


@pytest.mark.parametrize("place", ["HF_TOKEN", "home/token"])
def test_a_token_is_used_and_shown_to_nobody(
    klmap: Klmap, folder: Path, tmp_path: Path, place: str
) -> None:
    token = "hf_" + "s3cret" * 5
    made = klmap.upload("org/m", folder, state="gated", tokens={token})
    made.faults[LARGE] = ["cut"]
    variables = {"HF_TOKEN": token} if place == "HF_TOKEN" else {}
    if not variables:
        klmap.home.mkdir()
        (klmap.home / "token").write_text(token)
    said = klmap("resolve.py", "--id", "org/m", "--card", "card.json", **variables).stdout
    done = klmap("fetch.py", *options(), **variables)
    assert done.returncode == 0, done.stdout
    assert is_complete(tmp_path / "models/m/weights", folder)
    seen = klmap.hub.tokens_seen
    assert {used for path, used in seen if path.startswith("/cdn/")} == {None}
    assert token in {used for path, used in seen if "/resolve/" in path}
    assert token not in said + done.stdout
    (klmap.home / "token").unlink(missing_ok=True)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or token.encode() not in path.read_bytes(), path


# What is here already


def links(weights: Path) -> list[str]:
    """What is not on the disk a second time."""
    return sorted(path.name for path in weights.iterdir() if path.is_symlink())


def test_the_cache_of_the_account_is_linked(klmap: Klmap, made: Repository) -> None:
    klmap.fill_cache("org/m", *NAMES)
    made.served.clear()
    klmap.hub.requests.clear()
    done = klmap("fetch.py", *options())
    assert done.returncode == 0, done.stdout
    weights = klmap.folder / "models/m/weights"
    assert is_complete(weights, made.folder)
    assert links(weights) == [LARGE], "what is small is copied: nodes may not see the cache"
    assert klmap.hub.requests == []
    done = klmap("fetch.py", *options("offline"), HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stdout
    assert links(klmap.folder / "models/offline/weights") == [LARGE]


def test_what_a_cache_lacks_is_downloaded(klmap: Klmap, made: Repository) -> None:
    klmap.fill_cache("org/m", LARGE)
    made.served.clear()
    assert klmap("fetch.py", *options()).returncode == 0
    weights = klmap.folder / "models/m/weights"
    assert is_complete(weights, made.folder)
    assert links(weights) == [LARGE]
    assert LARGE not in made.served
    done = klmap("fetch.py", *options("offline"), HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "is in no cache and HF_HUB_OFFLINE is set" in done.stdout
    assert f"`hf download org/m --revision {COMMIT}`" in done.stdout


def test_a_cache_of_another_commit_is_not_used(klmap: Klmap, made: Repository) -> None:
    klmap.fill_cache("org/m", *NAMES)
    made.served.clear()
    made.commit = "c" * 40
    hub_models.safetensors(made.folder / LARGE, {"other": ("BF16", [100])})
    write_card(klmap, "org/m")
    assert klmap("fetch.py", *options()).returncode == 0
    weights = klmap.folder / "models/m/weights"
    assert is_complete(weights, made.folder)
    assert links(weights) == []


@pytest.mark.parametrize("kind", ["cache", "org/name"])
def test_a_mirror_is_linked(klmap: Klmap, made: Repository, tmp_path: Path, kind: str) -> None:
    if kind == "cache":
        klmap.fill_cache("org/m", *NAMES)
        shutil.move(klmap.home / "hub", tmp_path / "mirror")
    else:
        shutil.copytree(made.folder, tmp_path / "mirror" / "org" / "m")
    klmap.hub.requests.clear()
    mirrors = ("--mirrors", tmp_path / "absent", tmp_path / "mirror")
    done = klmap("fetch.py", *options(), *mirrors)
    assert done.returncode == 0, done.stdout
    weights = klmap.folder / "models/m/weights"
    assert is_complete(weights, made.folder)
    assert links(weights) == [LARGE]
    assert (weights / LARGE).resolve().is_relative_to(tmp_path / "mirror")
    assert klmap.hub.requests == []


def test_other_content_in_a_mirror_is_not_used(
    klmap: Klmap, made: Repository, tmp_path: Path
) -> None:
    mirror = Path(shutil.copytree(made.folder, tmp_path / "mirror" / "org" / "m"))
    content = bytearray((mirror / LARGE).read_bytes())
    content[-1] ^= 1
    (mirror / LARGE).write_bytes(content)
    (mirror / "tokenizer.json").write_text("{}")
    done = klmap("fetch.py", *options(), "--mirrors", tmp_path / "mirror")
    assert done.returncode == 0, done.stdout
    assert is_complete(tmp_path / "models/m/weights", made.folder)
    assert sorted(made.served) == [LARGE, "tokenizer.json"]

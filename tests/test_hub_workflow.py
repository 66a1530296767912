"""The workflow on models of a Hub: every kind of repository, a small disk, killed in the middle."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from klmap import disk
from klmap.files import read_tsv
from tests import hub_models
from tests.builders import tiny_model, tiny_texts
from tests.hub_server import Hub, Repository, serve
from tests.project import AGGREGATION, SNAKEMAKE, Project, copy_clone
from tests.test_quantized import Packer, pack
from tests.test_remote_code import code_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_secretsecretsecret"
MB = 10**6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "llama", "llama")


def upload(hub: Hub, folder: Path, model: Path, id: str, seed: int = 0, extra: int = 0) -> Path:
    """A model of its own on the Hub: the same shape, other numbers, and unused bytes."""
    target = folder / id.replace("/", "--")
    shutil.copytree(model, target)
    generator = torch.Generator().manual_seed(seed)
    tensors = load_file(target / "model.safetensors")
    moved = {
        name: tensor + 0.01 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in tensors.items()
    }
    if extra:
        moved["unused"] = torch.zeros(extra, dtype=torch.int8)
    save_file(moved, target / "model.safetensors", metadata={"format": "pt"})
    hub.repositories[id] = Repository(target, COMMIT)
    return target


def project(folder: Path, hub: Hub, **changes: object) -> Project:
    """A clone that sees the Hub, with twelve texts."""
    clone = copy_clone(folder)
    tiny_texts(folder / "texts.jsonl", n=12)
    clone.environment = hub.environment(folder / "home") | {
        "KLMAP_HUB_PATIENCE": "10",
        "KLMAP_STALL_SECONDS": "2",
        "KLMAP_DISK_GRACE": "2",
    }
    clone.configure(texts={"tiny": {"source": "file", "path": "texts.jsonl"}}, **changes)
    return clone


@contextmanager
def watched(clone: Project) -> Iterator[list[int]]:
    """The most bytes that downloaded files took at any time, as the only entry of a list."""
    most, stop = [0], threading.Event()
    models = clone.folder / "results" / "models"

    def look() -> None:
        while not stop.is_set():
            taken = sum(
                disk.size_of(folder / name)
                for folder in models.glob("*")
                for name in (disk.WEIGHTS, disk.PARTIAL)
            )
            most[0] = max(most[0], taken)
            time.sleep(0.01)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        stop.set()
        thread.join()


def leftovers(clone: Project) -> list[str]:
    """Weights and parts of them that should be gone."""
    models = clone.folder / "results" / "models"
    rest = [path for path in models.glob("*/*") if path.name != "card.json"]
    return [str(path) for path in rest if path.parent.name != "_disk"]


# A configuration that mixes all kinds

UNUSABLE = {
    "org/gated": ("needs a token", "has no access yet; ask for it at"),
    "org/private": ("gone", "not on the Hub, or private"),
    "org/missing": ("gone", "not on the Hub, or private"),
    "org/empty": ("not a causal LM", "empty; give a repository that holds a model"),
    "org/translator": ("not a causal LM", "an encoder-decoder"),
    "org/encoder": ("not a causal LM", "no causal language-model head"),
    "org/adapter": ("not a causal LM", "only an adapter (PEFT)"),
    "org/gguf": ("not a causal LM", "only GGUF files"),
    "org/code": ("needs remote code", "give the model remote_code: true and revision: "),
    "org/fp8": ("unusable", "already quantised (fp8"),
    "org/huge": ("too large", "raise hardware.disk_budget_gb"),
}
DAMAGED = {"org/damaged": "its upload is damaged"}
USABLE = (
    "org--sharded",
    "org--pickled",
    "org--tied",
    "org--gptq",
    "org--open-gated",
    "old--name",
    f"org--code@{COMMIT}",
    "org--cut",
    "org--busy",
)


def fill(hub: Hub, folder: Path, model: Path, marker: Path) -> None:
    """Put one repository of each kind on the Hub."""
    for seed, name in enumerate(("renamed", "open-gated", "cut", "busy", "damaged")):
        upload(hub, folder, model, f"org/{name}", seed)
    kinds: dict[str, Path] = {"code": code_model(folder / "code", marker)}
    kinds["tied"] = tiny_model(folder / "tied", "gpt2", tie_word_embeddings=True)
    kinds["sharded"] = tiny_model(folder / "sharded", "gpt_neox")
    split(kinds["sharded"])
    kinds["pickled"] = tiny_model(folder / "pickled", "gpt2", seed=5)
    tensors = load_file(kinds["pickled"] / "model.safetensors")
    torch.save(tensors, kinds["pickled"] / "pytorch_model.bin")
    (kinds["pickled"] / "model.safetensors").unlink()
    pack(model, folder / "gptq", Packer())
    kinds["gptq"] = folder / "gptq"
    for name, files in {
        "empty": (".gitattributes",),
        "adapter": ("adapter_config.json", "adapter_model.safetensors"),
        "gguf": ("config.json", "model.Q4_K_M.gguf"),
    }.items():
        kinds[name] = folder / name
        kinds[name].mkdir()
        for file in files:
            (kinds[name] / file).write_text("{}")
    for name, keys in {
        "translator": {"is_encoder_decoder": True, "architectures": ["T5Model"]},
        "encoder": {"architectures": ["BertForMaskedLM"], "model_type": "bert"},
        "fp8": {"quantization_config": {"quant_method": "fp8"}},
        "gated": {},
        "private": {},
    }.items():
        kinds[name] = hub_models.model(folder / name, **keys)
    kinds["huge"] = hub_models.model(folder / "huge", {"layer": ("BF16", [3 * MB])})
    for name, path in kinds.items():
        hub.repositories[f"org/{name}"] = Repository(path, COMMIT)
    hub.moved["old/name"] = "org/renamed"
    for name, tokens in {"gated": set(), "open-gated": {TOKEN}}.items():
        hub.repositories[f"org/{name}"].state = "gated"
        hub.repositories[f"org/{name}"].tokens = tokens
    hub.repositories["org/private"].state = "private"
    hub.repositories["org/damaged"].faults = {"model.safetensors": ["wrong*"]}
    hub.repositories["org/cut"].faults = {"model.safetensors": ["reset", "stall"]}
    hub.repositories["org/busy"].faults = {"model.safetensors": ["503", "429"]}
    hub.repositories["org/busy"].information_faults = ["429", "503"]


def split(folder: Path) -> None:
    """Two shards with an index instead of one file of weights."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    where = {}
    for number in (1, 2):
        file = f"model-{number:05}-of-00002.safetensors"
        part = {name: tensors[name] for name in names[number - 1 :: 2]}
        save_file(part, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[tuple[Project, Hub]]:
    """The configuration of all kinds, not yet run."""
    folder = tmp_path_factory.mktemp("mixed")
    with serve() as hub:
        fill(hub, folder, model, folder / "marker.txt")
        ids = [id for id in (*UNUSABLE, *DAMAGED) if id != "org/private"]
        clone = project(
            folder / "clone",
            hub,
            models=[
                "org/private",
                *ids,
                *(f"org/{name}" for name in ("sharded", "pickled", "tied", "gptq", "open-gated")),
                "old/name",
                {"id": "org/code", "revision": COMMIT, "remote_code": True},
                "org/cut",
                "org/busy",
            ],
            on_model_failure="skip",
            hardware={"max_gpus": 0, "disk_budget_gb": 0.002, "cpus": 1},
        )
        assert clone.environment is not None
        clone.environment["HF_TOKEN"] = TOKEN
        yield clone, hub


def test_preflight_says_all_of_it_before(mixed: tuple[Project, Hub]) -> None:
    clone, hub = mixed
    done = clone.snakemake("--cores", "2", "preflight", check=False)
    rows = {row["model"]: row for row in read_tsv(clone.folder / "results/preflight.tsv")}
    for id, (state, words) in UNUSABLE.items():
        row = rows[id.replace("/", "--")]
        assert row["state"] == state, row
        assert words in " ".join(row.values()) or id == "org/huge", row
        # The table wraps long reasons, so only their beginning is looked for.
        assert re.search(rf"{row['model']} +{state}", done.stdout), done.stdout
    assert {rows[name]["state"] for name in USABLE} == {"ready"}
    assert "the run" in done.stdout, "totals"
    assert done.returncode == 1, "a model larger than the disk budget is an error"
    served = {(id, name) for id, found in hub.repositories.items() for name in found.served}
    beyond = {what for what in served if what[1] != "config.json"}
    assert beyond == {("org/gptq", "model.safetensors")}, "of packed weights the header is read"


def test_all_kinds_run_to_a_map(mixed: tuple[Project, Hub]) -> None:
    clone, hub = mixed
    asked = len(hub.requests)
    assert "resolve" not in clone.planned(), "pre-flight has asked already"
    with watched(clone) as most:
        said = clone.run()
    assert most[0] <= 2 * MB
    folder = clone.folder / "results" / "tiny"
    assert (folder / "map.html").is_file()
    assert sorted(row["model"] for row in read_tsv(folder / "models.tsv")) == sorted(USABLE)
    reasons = {row["model"]: row["reason"] for row in read_tsv(folder / "failures.tsv")}
    expected = {id: words for id, (_, words) in UNUSABLE.items()} | DAMAGED
    assert sorted(reasons) == sorted(id.replace("/", "--") for id in expected)
    for id, words in expected.items():
        reason = reasons[id.replace("/", "--")]
        assert words in reason
        assert id in reason or "org--huge" in reason, "every reason names its model"
        assert "\n" not in reason
    assert leftovers(clone) == []
    asked_again = [line for line in hub.requests[asked:] if line.split()[1].startswith("/api/")]
    assert asked_again == [], "the cards are there, so nobody asks what a model is"
    for repository in hub.repositories.values():
        for name in set(repository.served) - {"config.json"}:
            size = (repository.folder / name).stat().st_size
            damaged = repository.faults.get(name) == ["wrong*"]
            # Half of a file that was cut comes in whole megabytes; these are smaller than one.
            allowed = 2 * size if damaged else 2.6 * size
            assert repository.sent[name] <= allowed, (repository.folder, name)
    assert not (clone.folder.parent / "marker.txt").exists() or "code@" in said


def test_the_token_is_nowhere(mixed: tuple[Project, Hub]) -> None:
    clone, hub = mixed
    assert any(token == TOKEN for _, token in hub.tokens_seen), "it was needed"
    assert not [path for path, token in hub.tokens_seen if token and path.startswith("/cdn/")]
    for path in clone.folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert TOKEN.encode() not in path.read_bytes(), path


def test_a_second_run_has_nothing_to_do(mixed: tuple[Project, Hub]) -> None:
    clone, hub = mixed
    asked = len(hub.requests)
    assert clone.planned() == {}
    shutil.rmtree(clone.folder / ".snakemake")
    assert clone.planned() == {}
    assert len(hub.requests) == asked


def test_refresh_finds_what_moved_and_what_is_gone(mixed: tuple[Project, Hub]) -> None:
    clone, hub = mixed
    hub.repositories["org/tied"].commit = "d" * 40
    gone = hub.repositories.pop("org/sharded")
    before = clone.scores()
    said = clone.run("refresh")
    assert re.search(rf"org--tied +moved +{COMMIT[:12]} -> dddddddddddd", said)
    assert re.search(
        r"org--sharded +gone +its card and its scores are kept: org/sharded: not", said
    )
    drawn = {name: count for name, count in AGGREGATION.items() if name != "index"}
    assert clone.planned() == {"fetch": 1, "score": 1, **drawn}
    clone.run()
    after = clone.scores()
    assert [name for name in before if before[name] != after[name]] == ["org--tied"]
    assert "org--sharded" in {
        row["model"] for row in read_tsv(clone.folder / "results/tiny/models.tsv")
    }
    hub.repositories["org/sharded"] = gone


def test_a_token_that_comes_later_helps_after_a_refresh(mixed: tuple[Project, Hub]) -> None:
    clone, hub = mixed
    hub.repositories["org/gated"].folder = hub.repositories["org/cut"].folder
    hub.repositories["org/gated"].tokens = {TOKEN}
    assert "usable again" in clone.run("refresh")
    clone.run()
    assert "org--gated" in {
        row["model"] for row in read_tsv(clone.folder / "results/tiny/models.tsv")
    }


# The disk


def weights_served(hub: Hub) -> list[str]:
    """Models in the order in which the first of their weights were sent."""
    found = [re.match(r"HEAD /(org/\w+)/resolve/\w+/model\.safetensors", r) for r in hub.requests]
    return list(dict.fromkeys(match[1] for match in found if match))


def test_fetching_stays_in_the_budget_and_in_order(tmp_path: Path, model: Path) -> None:
    names = ["org/e", "org/b", "org/d", "org/a", "org/c"]
    with serve() as hub:
        for seed, id in enumerate(names):
            upload(hub, tmp_path, model, id, seed)
        size = sum(path.stat().st_size for path in (tmp_path / "org--e").iterdir())
        limit = 2.5 * (size + 8 * disk.OVERHEAD)
        clone = project(
            tmp_path / "clone",
            hub,
            models=names,
            hardware={"max_gpus": 0, "disk_budget_gb": limit / 1e9, "cpus": 2},
        )
        with watched(clone) as most:
            clone.run("--resources", "downloads=4")
        assert size < most[0] <= limit
        assert weights_served(hub) == names
        assert leftovers(clone) == []
        assert all(hub.repositories[id].served.count("model.safetensors") == 1 for id in names)


def test_a_failed_score_does_not_block_the_disk(tmp_path: Path, model: Path) -> None:
    """Its weights fill the budget and stay, as a retry would need them; nobody works on them."""
    with serve() as hub:
        broken = upload(hub, tmp_path, model, "org/broken")
        tensors = load_file(broken / "model.safetensors")
        nan = {name: torch.full_like(tensor, torch.nan) for name, tensor in tensors.items()}
        save_file(nan, broken / "model.safetensors", metadata={"format": "pt"})
        upload(hub, tmp_path, model, "org/fine", 1)
        size = sum(path.stat().st_size for path in broken.iterdir())
        clone = project(
            tmp_path / "clone",
            hub,
            models=["org/broken", "org/fine"],
            hardware={"max_gpus": 0, "disk_budget_gb": 1.5 * size / 1e9, "cpus": 1},
        )
        clone.run("scores", check=False)
        assert sorted(clone.scores()) == ["org--fine"]
        log = (clone.folder / "logs/fetch/org--fine.log").read_text()
        assert "org--broken: its weights are removed, because no job uses them" in log


def test_killed_and_started_again(tmp_path: Path, model: Path) -> None:
    """SIGKILL of everything in the middle of a download: no dead end, nothing twice, no rest."""
    with serve() as hub:
        names = ["org/a", "org/b", "org/c"]
        for seed, id in enumerate(names):
            upload(hub, tmp_path, model, id, seed, extra=3 * MB)
        size = sum(path.stat().st_size for path in (tmp_path / "org--a").iterdir())
        clone = project(
            tmp_path / "clone",
            hub,
            models=names,
            hardware={"max_gpus": 0, "disk_budget_gb": 1.5 * size / 1e9, "cpus": 1},
        )
        hub.rate = size / 8
        whole = (tmp_path / "org--a" / "model.safetensors").stat().st_size
        with watched(clone) as most:
            head = subprocess.Popen(
                [SNAKEMAKE, "--cores", "2"],
                cwd=clone.folder,
                env=clone.variables,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            partial = clone.folder / "results/models/org--a" / disk.PARTIAL
            deadline = time.monotonic() + 60
            while disk.size_of(partial) < size / 2:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            head.send_signal(signal.SIGKILL)
            head.wait()
            time.sleep(2.5)
            before = disk.size_of(partial)
            time.sleep(1)
            assert disk.size_of(partial) == before, "the download ends with its workflow"
            hub.rate = None
            clone.run("--unlock")
            clone.run()
        assert most[0] <= 1.5 * size
        assert leftovers(clone) == []
        assert sorted(clone.scores()) == ["org--a", "org--b", "org--c"]
        assert hub.repositories["org/a"].sent["model.safetensors"] < 1.5 * whole


def test_scoring_needs_no_network(tmp_path: Path, model: Path) -> None:
    with serve() as hub:
        upload(hub, tmp_path, model, "org/a")
        upload(hub, tmp_path, model, "org/b", 1)
        clone = project(tmp_path / "clone", hub, models=["org/a", "org/b"])
        clone.run("--until", "fetch", "--notemp")
        clone.run("--until", "texts")
    assert clone.environment is not None
    clone.environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
    clone.run()
    assert len(clone.scores()) == 2


def test_filled_caches_and_mirrors_are_linked(tmp_path: Path, model: Path) -> None:
    """HF_HUB_OFFLINE, a cache and nothing else: no card, no network, and still a map."""
    with serve() as hub:
        for seed, name in enumerate("ab"):
            upload(hub, tmp_path, model, f"org/{name}", seed)
        clone = project(tmp_path / "clone", hub, models=["org/a", "org/b"])
        cached = hub_models.Klmap(hub, clone.folder, {})
        shared = hub_models.Klmap(hub, tmp_path / "shared", {})
        shared.folder.mkdir()
        names = sorted(path.name for path in model.iterdir())
        cached.fill_cache("org/a", *names)
        shared.fill_cache("org/b", *names)
        sent = {id: dict(found.sent) for id, found in hub.repositories.items()}
        clone.configure(hardware={"mirrors": [str(shared.home / "hub")], "max_gpus": 0})
        assert clone.environment is not None
        clone.environment["HF_HUB_OFFLINE"] = "1"
        with watched(clone) as most:
            clone.run()
        assert most[0] < 100_000, "no weights, only the small files"
        assert {id: dict(found.sent) for id, found in hub.repositories.items()} == sent
        assert len(clone.scores()) == 2

"""Cards, downloads and refreshes, against local folders and a Hub on this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from klmap import cards, fetch, refresh, repository, resolve
from klmap.cards import Card
from klmap.errors import InputError, PermanentFailure
from klmap.files import write_tsv
from tests.builders import CONTEXT, tiny_model
from tests.hub_server import Hub, Repository, serve

ROOT = Path(__file__).parent.parent
COMMIT = "a" * 40
README = "---\nlicense: mit\nbase_model: [org/base, org/another]\n---\n# A model\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return tiny_model(folder, "llama", dtype=torch.bfloat16, readme=README)


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    """A copy of the model that a test may spoil."""
    return Path(shutil.copytree(model, tmp_path / "copy"))


# Local folders


def test_card_of_a_folder(folder: Path) -> None:
    card = resolve.resolve("demo/tiny", "step20", folder)
    assert (card.id, card.revision) == ("demo/tiny", "step20")
    assert (card.architecture, card.model_type) == ("LlamaForCausalLM", "llama")
    assert (card.context, card.vocabulary, card.dtype) == (CONTEXT, 512, "bfloat16")
    assert card.parameters == 2 * 512 * 32 + 2 * (4 * 32 * 32 + 3 * 32 * 64 + 2 * 32) + 32
    assert card.bytes == (folder / "model.safetensors").stat().st_size
    assert (card.license, card.base_model) == ("mit", ["org/another", "org/base"])
    assert card.created_at is None
    assert card.names == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert len(card.commit) == 40
    assert card.error == ""


def test_card_follows_content_alone(folder: Path, tmp_path: Path) -> None:
    first = resolve.resolve("x/y", None, folder)
    (folder / "notes.txt").write_text("not needed for scoring")
    moved = folder.rename(tmp_path / "elsewhere")
    (moved / "model.safetensors").touch()
    assert resolve.resolve("x/y", None, moved) == first
    text = (moved / "tokenizer_config.json").read_text()
    (moved / "tokenizer_config.json").write_text(text + "\n")
    changed = resolve.resolve("x/y", None, moved)
    assert changed.commit != first.commit
    assert changed.tokenizer_sha256 != first.tokenizer_sha256


def test_card_round_trip(folder: Path, tmp_path: Path) -> None:
    card = resolve.resolve("x/y", None, folder)
    cards.write_card(tmp_path / "card.json", card)
    assert cards.read_card(tmp_path / "card.json") == card
    assert "error" not in json.loads((tmp_path / "card.json").read_text())
    (tmp_path / "card.json").write_text('{"id": "x/y", "likes": 3}')
    with pytest.raises(InputError, match="likes"):
        cards.read_card(tmp_path / "card.json")


def edit_config(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def only(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for path in folder.iterdir():
            path.unlink()
        for name in names:
            (folder / name).write_text("{}")

    return change


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def half_shards(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


REFUSALS: list[tuple[Callable[[Path], None], str]] = [
    (only(), "empty"),
    (only("notes.txt"), "neither config.json nor weights"),
    (only("adapter_config.json", "adapter_model.safetensors"), "only an adapter"),
    (only("config.json", "model.Q4_K_M.gguf"), "only GGUF files"),
    (only("config.json", "tf_model.h5"), "weights, only those of another framework"),
    (without("config.json"), "weights but no config.json"),
    (without("model.safetensors"), "config.json but no weights"),
    (without("tokenizer.json"), "no tokenizer"),
    (half_shards, "1 of 2 weight files missing"),
    (truncated, "not a complete safetensors file"),
    (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read"),  # type: ignore[list-item]
    (edit_config(is_encoder_decoder=True), "an encoder-decoder"),
    (edit_config(model_type="t5", architectures=["T5Model"]), "an encoder-decoder"),
    (edit_config(architectures=["BertForMaskedLM"]), "no causal language-model head"),
    (edit_config(architectures=["LlamaForSequenceClassification"]), "no causal language-model"),
    (edit_config(architectures=["LlamaModel"]), "bare body"),
    (edit_config(quantization_config={"quant_method": "fp8"}), r"already quantised \(fp8; klmap"),
    (edit_config(quantization_config={"quant_method": "mxfp4"}), r"already quantised \(mxfp4; kl"),
]


@pytest.mark.parametrize(("spoil", "message"), REFUSALS, ids=[text for _, text in REFUSALS])
def test_what_cannot_be_scored_is_recognised(
    folder: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(folder)
    with pytest.raises(PermanentFailure, match=message) as error:
        resolve.resolve("x/y", None, folder)
    assert str(folder) in str(error.value)
    card = resolve.resolve_or_explain("x/y", None, folder)
    assert card.error == str(error.value)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(PermanentFailure, match="absent does not exist"):
        resolve.resolve("./absent", None, tmp_path / "absent")


def test_shards_and_pickled_weights(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(bytes(1000))
    assert "pytorch_model.bin" not in resolve.resolve("x/y", None, folder).names
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text("{}")
    names = resolve.resolve("x/y", None, folder).names
    assert "model-00001-of-00001.safetensors" in names
    assert "model.safetensors.index.json" in names
    (folder / "model-00001-of-00001.safetensors").unlink()
    card = resolve.resolve("x/y", None, folder)
    assert "pytorch_model.bin" in card.names
    assert (card.bytes, card.dtype, card.parameters) == (1000, "bfloat16", 500)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 2048}, 2048),
        ({"n_positions": 1024}, 1024),
        ({"max_seq_len": 512}, 512),
        ({"text_config": {"max_position_embeddings": 77}}, 77),
        ({"model_type": "mamba", "max_position_embeddings": 2048}, None),
        ({"model_type": "rwkv", "context_length": 1024}, None),
        ({"model_type": "bloom"}, None),
    ],
)
def test_context_length(config: dict[str, Any], expected: int | None) -> None:
    assert repository.context_length(config) == expected


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


def test_fetch_of_a_failed_card_hands_the_reason_on(tmp_path: Path) -> None:
    fetch.fetch(Card(id="x/y", error="gone"), tmp_path / "weights")
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["FAILED"]
    assert fetch.failure_in(tmp_path / "weights") == "gone"


# The Hub


@pytest.fixture
def server(folder: Path) -> Iterator[Hub]:
    with serve() as running:
        running.repositories["org/tiny"] = Repository(
            folder,
            COMMIT,
            revisions={"step1": "b" * 40},
            info={
                "cardData": {"base_model": "org/base", "license": "mit"},
                "safetensors": {"parameters": {"BF16": 1000, "F32": 1}, "total": 1001},
            },
        )
        yield running


@pytest.fixture
def klmap(server: Hub, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a script of klmap that sees the server and nothing else."""

    def run(script: str, *options: object, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "scripts" / script), *map(str, options)],
            env=server.environment(tmp_path / "home") | {"KLMAP_HUB_PATIENCE": "2"} | variables,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


Run = Callable[..., subprocess.CompletedProcess[str]]


def test_card_of_a_hub_model(klmap: Run, server: Hub, tmp_path: Path) -> None:
    done = klmap("resolve.py", "--id", "org/tiny", "--card", "card.json")
    assert done.returncode == 0, done.stderr
    card = cards.read_card(tmp_path / "card.json")
    assert (card.commit, card.revision) == (COMMIT, None)
    assert (card.parameters, card.dtype, card.context) == (1001, "bfloat16", CONTEXT)
    assert (card.base_model, card.license) == (["org/base"], "mit")
    assert card.created_at == "2023-04-01T12:00:00+00:00"
    assert server.repositories["org/tiny"].served == ["config.json"], "no weights yet"
    text = (tmp_path / "card.json").read_text()
    assert "downloads" not in text
    done = klmap("resolve.py", "--id", "org/tiny", "--revision", "step1", "--card", "step1.json")
    assert cards.read_card(tmp_path / "step1.json").commit == "b" * 40


def packed_like_gptq(folder: Path) -> None:
    """One packed layer of 64 inputs and 32 outputs, and 100 ordinary parameters."""
    tensors = {
        "layer.qweight": torch.zeros(8, 32, dtype=torch.int32),
        "layer.qzeros": torch.zeros(2, 4, dtype=torch.int32),
        "layer.scales": torch.ones(2, 32, dtype=torch.float16),
        "layer.g_idx": torch.zeros(64, dtype=torch.int32),
        "norm.weight": torch.ones(100, dtype=torch.float16),
    }
    save_file(tensors, folder / "model.safetensors")
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    edit_config(quantization_config=settings)(folder)


def test_packed_weights_are_counted_as_weights(
    klmap: Run, server: Hub, folder: Path, tmp_path: Path
) -> None:
    packed_like_gptq(folder)
    local = resolve.resolve("x/y", None, folder)
    server.repositories["org/tiny"].info["safetensors"] = {
        "parameters": {"I32": 328, "F16": 164},
        "total": 492,
    }
    done = klmap("resolve.py", "--id", "org/tiny", "--card", "card.json")
    assert done.returncode == 0, done.stderr
    remote = cards.read_card(tmp_path / "card.json")
    for card in (local, remote):
        assert (card.quantization, card.parameters, card.dtype) == (
            "gptq-4bit",
            64 * 32 + 100,
            "float16",
        )
    (folder / "model.safetensors").write_bytes(b"\xff" * 3000)
    done = klmap("resolve.py", "--id", "org/tiny", "--card", "card.json")
    assert done.returncode == 0, done.stderr
    assert "parameters are estimated from the size" in done.stderr
    assert cards.read_card(tmp_path / "card.json").parameters == 1500


def test_fetch_downloads_what_the_card_names(
    klmap: Run, server: Hub, folder: Path, tmp_path: Path
) -> None:
    (folder / "notes.txt").write_text("not needed")
    klmap("resolve.py", "--id", "org/tiny", "--card", "card.json")
    done = klmap("fetch.py", "--card", "card.json", "--weights", "weights")
    assert done.returncode == 0, done.stderr
    found = sorted((tmp_path / "weights").iterdir())
    assert [path.name for path in found] == cards.read_card(tmp_path / "card.json").names
    assert all(path.read_bytes() == (folder / path.name).read_bytes() for path in found)
    assert "notes.txt" not in server.repositories["org/tiny"].served
    assert not list(tmp_path.glob(".*tmp"))


def test_wrong_size_is_not_kept(klmap: Run, server: Hub, tmp_path: Path) -> None:
    klmap("resolve.py", "--id", "org/tiny", "--card", "card.json")
    server.repositories["org/tiny"].short.add("tokenizer.json")
    done = klmap("fetch.py", "--card", "card.json", "--weights", "weights")
    assert done.returncode == 3, "the same twice: the upload itself is damaged"
    assert "tokenizer.json has" in done.stderr
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize(
    ("id", "status", "words"),
    [
        ("org/absent", 3, ["not on the Hub", "check the spelling"]),
        ("copy", 3, ["a folder of that name exists here: write ./copy"]),
        ("org/tiny@nope", 3, ["no revision 'nope'"]),
        ("org/gated", 3, ["gated", "hf auth login"]),
        ("org/private", 3, ["private", "hf auth login"]),
        ("org/broken", 1, ["the Hub answered with an error", "500"]),
        ("a/b/c", 3, ["not an id of the Hub"]),
    ],
)
def test_troubles_of_the_hub(
    klmap: Run, server: Hub, folder: Path, tmp_path: Path, id: str, status: int, words: list[str]
) -> None:
    for state in ("gated", "private", "broken"):
        server.repositories[f"org/{state}"] = Repository(folder, COMMIT, state=state)
    name, _, revision = id.partition("@")
    options = ["--id", name, *(["--revision", revision] if revision else [])]
    done = klmap("resolve.py", *options, "--card", "card.json")
    assert done.returncode == status, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "card.json").exists()


def test_skip_writes_a_card_that_says_why(klmap: Run, tmp_path: Path) -> None:
    done = klmap("resolve.py", "--id", "org/absent", "--on-failure", "skip", "--card", "card.json")
    assert done.returncode == 0, done.stderr
    assert "not on the Hub" in cards.read_card(tmp_path / "card.json").error


def test_no_network_is_no_verdict_on_the_model(klmap: Run, tmp_path: Path) -> None:
    options = ("--id", "org/tiny", "--on-failure", "skip", "--card", "card.json")
    for variables, words in (
        ({"HF_HUB_OFFLINE": "1"}, "no cache holds this model"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached"),
    ):
        done = klmap("resolve.py", *options, **variables)
        assert done.returncode == 1
        assert words in done.stderr
        assert not (tmp_path / "card.json").exists()


def test_renamed_model_is_followed_and_said(klmap: Run, server: Hub, tmp_path: Path) -> None:
    server.moved["old/tiny"] = "org/tiny"
    done = klmap("resolve.py", "--id", "old/tiny", "--card", "card.json")
    assert done.returncode == 0
    assert "the Hub calls this model org/tiny now" in done.stderr
    assert cards.read_card(tmp_path / "card.json").id == "old/tiny"


# Refresh


@pytest.fixture
def mapped(tmp_path: Path, model: Path) -> tuple[list[refresh.Source], Path]:
    """Three local sources, two of them with a card."""
    sources = []
    for name in ("one", "two", "new"):
        folder = Path(shutil.copytree(model, tmp_path / "models" / name))
        sources.append(refresh.Source(name, f"./{name}", None, folder))
        if name != "new":
            card = resolve.resolve(f"./{name}", None, folder)
            cards.write_card(tmp_path / "cards" / name / "card.json", card)
    return sources, tmp_path / "cards"


def stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    paths = sorted(folder.glob("*/card.json"))
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in paths}


def test_refresh_without_news_touches_nothing(
    mapped: tuple[list[refresh.Source], Path],
) -> None:
    sources, folder = mapped
    before = stamps(folder)
    assert refresh.refresh(sources, folder) == []
    assert stamps(folder) == before, "and makes no card for a model without one"


def test_refresh_rewrites_only_what_moved(mapped: tuple[list[refresh.Source], Path]) -> None:
    sources, folder = mapped
    before = stamps(folder)
    tiny_model(sources[1].folder or Path(), "llama", seed=7)
    news = refresh.refresh(sources, folder)
    assert [(item.source, item.change) for item in news] == [("two", "moved")]
    after = stamps(folder)
    changed = [path.parent.name for path in before if before[path] != after[path]]
    assert changed == ["two"]
    new = cards.read_card(folder / "two" / "card.json")
    assert new.commit[:12] in news[0].detail
    assert refresh.refresh(sources, folder) == []


def test_refresh_keeps_the_card_of_a_model_that_is_gone(
    mapped: tuple[list[refresh.Source], Path],
) -> None:
    sources, folder = mapped
    before = stamps(folder)
    shutil.rmtree(sources[0].folder or Path())
    news = refresh.refresh(sources, folder)
    assert [(item.source, item.change) for item in news] == [("one", "failing")]
    assert "does not exist" in news[0].detail
    assert stamps(folder) == before


def test_refresh_mends_a_card_with_an_error(mapped: tuple[list[refresh.Source], Path]) -> None:
    sources, folder = mapped
    path = folder / "one" / "card.json"
    cards.write_card(path, Card(id="./one", error="no weights"))
    news = refresh.refresh(sources, folder)
    assert [(item.source, item.change) for item in news] == [("one", "usable again")]
    assert cards.read_card(path).error == ""


def test_refresh_of_hub_models(klmap: Run, server: Hub, tmp_path: Path) -> None:
    card = tmp_path / "cards" / "org--tiny" / "card.json"
    klmap("resolve.py", "--id", "org/tiny", "--card", card)
    write_tsv(
        tmp_path / "index.tsv",
        ["source", "id", "revision", "folder"],
        [["org--tiny", "org/tiny", None, None]],
    )
    options = ("--index", "index.tsv", "--cards", "cards")
    before = card.stat().st_mtime_ns
    assert klmap("refresh.py", *options).returncode == 0
    assert card.stat().st_mtime_ns == before
    server.repositories["org/tiny"].commit = "c" * 40
    done = klmap("refresh.py", *options)
    assert "moved" in done.stderr
    assert f"{COMMIT[:12]} -> cccccccccccc" in done.stderr
    assert cards.read_card(card).commit == "c" * 40
    server.repositories["org/tiny"].state = "broken"
    done = klmap("refresh.py", *options)
    assert done.returncode == 0
    assert "unreachable" in done.stderr
    del server.repositories["org/tiny"]
    done = klmap("refresh.py", *options)
    assert "failing" in done.stderr
    assert cards.read_card(card).commit == "c" * 40

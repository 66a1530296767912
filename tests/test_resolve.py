"""What is found out of a model before its weights are fetched: of folders, the Hub and caches."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError

from klmap import cards, hub, repository, resolve
from klmap.errors import InputError, KlmapError, PermanentFailure
from klmap.files import read_json
from tests import hub_models
from tests.builders import CONTEXT, tiny_model
from tests.hub_models import COMMIT, Klmap, shards
from tests.hub_server import serve

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


def test_a_chat_template_is_named_and_changes_no_commit(folder: Path, tmp_path: Path) -> None:
    plain = resolve.resolve("x/y", None, folder)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    chat = resolve.resolve("x/y", None, folder)
    assert (chat.commit, chat.tokenizer_sha256) == (plain.commit, plain.tokenizer_sha256)
    assert chat.chat_template_sha256 == hashlib.sha256(b"{{ messages }}").hexdigest()
    assert set(chat.names) - set(plain.names) == {"chat_template.jinja"}
    for card, known in ((plain, False), (chat, True)):
        cards.write_card(tmp_path / "card.json", card)
        assert ("chat_template_sha256" in read_json(tmp_path / "card.json")) == known
        assert cards.read_card(tmp_path / "card.json") == card


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


# The Hub


@pytest.fixture
def klmap(tmp_path: Path) -> Iterator[Klmap]:
    with serve() as running:
        yield Klmap(running, tmp_path, {"KLMAP_HUB_PATIENCE": "2"})


def card_of(klmap: Klmap, id: str, *options: object, **variables: str) -> cards.Card:
    """The card that resolve writes; fails the test where it writes none."""
    done = klmap("resolve.py", "--id", id, *options, "--card", "card.json", **variables)
    assert done.returncode == 0, done.stdout
    return cards.read_card(klmap.folder / "card.json")


def test_card_of_a_hub_model(klmap: Klmap, tmp_path: Path) -> None:
    made = klmap.upload("org/m", hub_models.model(tmp_path / "m"), revisions={"step1": "b" * 40})
    card = card_of(klmap, "org/m")
    assert dataclasses.asdict(card) == {
        "id": "org/m",
        "revision": None,
        "commit": COMMIT,
        "architecture": "LlamaForCausalLM",
        "model_type": "llama",
        "parameters": 1001,
        "bytes": (made.folder / "model.safetensors").stat().st_size,
        "dtype": "bfloat16",
        "context": 256,
        "vocabulary": 100,
        "tokenizer_sha256": card.tokenizer_sha256,
        "base_model": ["org/base"],
        "created_at": "2023-04-01T12:00:00+00:00",
        "license": "mit",
        "files": card.files,
        "error": "",
        "state": "",
        "quantization": None,
        "relation": "finetune",
        "gated": False,
        "active_parameters": None,
        "chat_template_sha256": None,
        "private": False,
    }
    assert len(card.tokenizer_sha256 or "") == 64
    assert card.names == NAMES
    assert not any(cards.mismatch(made.folder / e["name"], e) for e in card.files)
    assert all(cards.stored_hash(entry) for entry in card.files)
    assert made.served == ["config.json"], "once, and no weights"
    step = card_of(klmap, "org/m", "--revision", "step1")
    assert (step.commit, step.revision) == ("b" * 40, "step1")


def test_few_questions_for_each_model(klmap: Klmap, tmp_path: Path) -> None:
    """The model information, and for config.json a HEAD and a GET; later the first alone."""
    shards(hub_models.model(tmp_path / "m", None), [10] * 30)
    klmap.upload("org/m", tmp_path / "m")
    card_of(klmap, "org/m")
    assert len(klmap.hub.requests) <= 3, klmap.hub.requests
    klmap.hub.requests.clear()
    card_of(klmap, "org/m")
    assert klmap.hub.requests == ["GET /api/models/org/m"], "config.json is in the cache"


def test_nothing_volatile_is_in_a_card(klmap: Klmap, tmp_path: Path) -> None:
    made = klmap.upload("org/m", hub_models.model(tmp_path / "m"))
    card_of(klmap, "org/m")
    before = (tmp_path / "card.json").read_bytes()
    made.info |= {
        "downloads": 10**6,
        "downloadsAllTime": 10**7,
        "likes": 99,
        "lastModified": "2031-01-01T00:00:00.000Z",
        "trendingScore": 7,
        "spaces": ["a/b"],
        "inference": "warm",
    }
    shutil.rmtree(klmap.home)
    card_of(klmap, "org/m")
    assert (tmp_path / "card.json").read_bytes() == before


def sharded(folder: Path) -> None:
    shards(hub_models.model(folder, None), [300, 700])


def pickled(folder: Path) -> None:
    (hub_models.model(folder, None) / "pytorch_model.bin").write_bytes(bytes(1000))


def tied(folder: Path) -> None:
    weights = {"model.embed_tokens.weight": ("BF16", [100, 10])}
    hub_models.model(folder, weights, tie_word_embeddings=True)


PACKED = {
    "layer.qweight": ("I32", [8, 32]),
    "layer.qzeros": ("I32", [2, 4]),
    "layer.scales": ("F16", [2, 32]),
    "layer.g_idx": ("I32", [64]),
    "norm.weight": ("F16", [100]),
}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}


def gptq(folder: Path) -> None:
    """One packed layer of 64 inputs and 32 outputs, and 100 ordinary parameters."""
    hub_models.model(folder, PACKED, quantization_config=GPTQ)


def front_matter(text: str) -> Callable[[Path], None]:
    return lambda folder: void(hub_models.model(folder, readme=f"---\n{text}\n---\n"))


def changed(**config: Any) -> Callable[[Path], None]:
    return lambda folder: void(hub_models.model(folder, **config))


def void(_: object) -> None:
    """Nothing of it is needed."""


def in_several_formats(folder: Path) -> None:
    hub_models.model(folder)
    for name in ("pytorch_model.bin", "tf_model.h5", "model.Q4.gguf"):
        (folder / name).write_bytes(bytes(10))
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.safetensors").write_bytes(bytes(10))


NAMES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
READY: dict[str, tuple[Callable[[Path], None], dict[str, Any], dict[str, Any]]] = {
    "single file": (changed(), {}, {"parameters": 1001, "dtype": "bfloat16", "names": NAMES}),
    "shards": (sharded, {}, {"parameters": 1000, "dtype": "bfloat16"}),
    "only .bin": (pickled, {}, {"parameters": 500, "dtype": "bfloat16", "bytes": 1000}),
    "tied weights": (tied, {}, {"parameters": 1000}),
    "several formats": (in_several_formats, {}, {"parameters": 1001, "names": NAMES}),
    "counts missing": (changed(), {"safetensors": None}, {"parameters": 1001}),
    "counts of shards missing": (sharded, {"safetensors": None}, {"parameters": 1000}),
    "gptq": (
        gptq,
        {},
        {
            "parameters": 64 * 32 + 100,
            "dtype": "float16",
            "quantization": "gptq-4bit",
            "relation": "quantized",
        },
    ),
    "merge": (
        front_matter("base_model: [org/y, org/x]"),
        {},
        {"relation": "merge", "base_model": ["org/x", "org/y"], "license": None},
    ),
    "merge of one by its tags": (
        front_matter("base_model: org/x\ntags: [merge]"),
        {"tags": ["merge"]},
        {"relation": "merge"},
    ),
    "relation stated": (
        front_matter("base_model: org/x\nbase_model_relation: quantized"),
        {"tags": ["base_model:finetune:org/x"]},
        {"relation": "quantized"},
    ),
    "relation by the Hub": (
        front_matter("base_model: org/x"),
        {"tags": ["base_model:org/x", "base_model:quantized:org/x"]},
        {"relation": "quantized"},
    ),
    "no parents": (
        front_matter("license: [mit, apache-2.0]"),
        {"tags": ["merge"]},
        {"relation": None, "base_model": [], "license": "mit, apache-2.0"},
    ),
    "no README": (changed(readme=None), {}, {"relation": None, "license": None}),
    "recurrent": (
        changed(model_type="mamba", architectures=["MambaForCausalLM"]),
        {},
        {"context": None},
    ),
    "flags": (changed(), {"gated": "manual", "private": True}, {"gated": True, "private": True}),
}


@pytest.mark.parametrize("kind", READY)
def test_what_a_card_says(klmap: Klmap, tmp_path: Path, kind: str) -> None:
    make, info, expected = READY[kind]
    make(tmp_path / "m")
    made = klmap.upload("org/m", tmp_path / "m", info=info)
    card = card_of(klmap, "org/m")
    assert {key: getattr(card, key) for key in expected} == expected
    assert all(size < 10**6 for size in made.sent.values()), "no weights, headers at most"


def test_a_folder_is_the_same_on_the_hub(klmap: Klmap, folder: Path) -> None:
    klmap.upload("org/m", folder)
    there, here = card_of(klmap, "org/m"), resolve.resolve("org/m", None, folder)
    same = ("parameters", "bytes", "dtype", "context", "vocabulary", "names", "license", "relation")
    assert [getattr(there, key) for key in same] == [getattr(here, key) for key in same]


def test_weights_that_cannot_be_counted_are_estimated(klmap: Klmap, tmp_path: Path) -> None:
    gptq(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"\xff" * 3000)
    klmap.upload("org/m", tmp_path / "m")
    done = klmap("resolve.py", "--id", "org/m", "--card", "card.json")
    assert "parameters are estimated from the size" in done.stdout
    assert cards.read_card(tmp_path / "card.json").parameters == 1500


def bare(*names: str) -> Callable[[Path], None]:
    """A repository of these files alone."""

    def make(folder: Path) -> None:
        folder.mkdir()
        for name in names:
            (folder / name).write_text("{}")

    return make


OWN_CODE = {
    "model_type": "nobody_knows",
    "architectures": ["NobodyForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_nobody.NobodyForCausalLM"},
}
NO_MODEL, NEEDS_CODE = repository.NO_MODEL, repository.NEEDS_CODE
REFUSED: dict[str, tuple[Callable[[Path], None], str, list[str]]] = {
    "empty": (bare("README.md", ".gitattributes"), NO_MODEL, ["empty; give a repository"]),
    "adapter": (
        bare("adapter_config.json", "adapter_model.safetensors"),
        NO_MODEL,
        ["only an adapter", "merge_and_unload()"],
    ),
    "GGUF": (bare("model.Q4_K_M.gguf"), NO_MODEL, ["only GGUF files", "original repository"]),
    "another framework": (bare("config.json", "tf_model.h5"), NO_MODEL, ["convert them"]),
    "encoder-decoder": (
        changed(model_type="t5", architectures=["T5ForConditionalGeneration"]),
        NO_MODEL,
        ["an encoder-decoder", "causal language models"],
    ),
    "encoder": (
        changed(model_type="bert", architectures=["BertForMaskedLM"]),
        NO_MODEL,
        ["BertForMaskedLM has no causal language-model head", "give the repository of"],
    ),
    "fp8": (
        changed(quantization_config={"quant_method": "fp8"}),
        "unusable",
        ["already quantised (fp8", "float16, bfloat16 or float32"],
    ),
    "no tokenizer": (changed(tokenizer=False), "unusable", ["no tokenizer", "copy"]),
    "unknown type": (
        changed(model_type="nobody_knows", architectures=["NobodyForCausalLM"]),
        NO_MODEL,
        ["knows no causal language model of type 'nobody_knows'", "brings no code"],
    ),
    "own code": (changed(**OWN_CODE), NEEDS_CODE, ["remote_code: true", f"revision: {COMMIT}"]),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_scored_is_refused_without_its_weights(
    klmap: Klmap, tmp_path: Path, kind: str
) -> None:
    make, state, words = REFUSED[kind]
    make(tmp_path / "m")
    made = klmap.upload("org/m", tmp_path / "m")
    card = card_of(klmap, "org/m", "--on-failure", "skip")
    assert card.state == state
    assert card.error.startswith("org/m: ")
    assert all(word in card.error for word in words), card.error
    assert set(made.served) <= {"config.json"}


def test_code_is_needed_once_it_may_run(klmap: Klmap, tmp_path: Path) -> None:
    hub_models.model(tmp_path / "m", **OWN_CODE)
    (tmp_path / "m" / "modeling_nobody.py").write_text("raise SystemExit('this ran')")
    klmap.upload("org/m", tmp_path / "m")
    card = card_of(klmap, "org/m", "--revision", COMMIT, "--remote-code")
    assert card.names == sorted([*NAMES, "modeling_nobody.py"])
    options = ("--id", "org/m", "--revision", "main", "--remote-code", "--card", "branch.json")
    done = klmap("resolve.py", *options)
    assert done.returncode == 3
    assert "'main' is no commit, and its code could change; with remote_code: true write " in (
        done.stdout
    )
    assert f"revision: {COMMIT}" in done.stdout


@pytest.mark.parametrize(
    ("id", "status", "words"),
    [
        ("org/absent", 3, ["not on the Hub", "check the spelling"]),
        ("m", 3, ["a folder of that name exists here: write ./m"]),
        ("org/m@nope", 3, ["no revision 'nope'", "/org/m/tree/main"]),
        ("org/gated", 3, ["gated; ask for access at", "hf auth login"]),
        ("org/private", 3, ["private", "hf auth login"]),
        ("org/broken", 1, ["the Hub answered with an error", "500", "run again later"]),
        ("a/b/c", 3, ["not an id of the Hub"]),
        ("org/empty", 3, ["empty; give a repository that holds a model"]),
    ],
)
def test_troubles_of_the_hub(
    klmap: Klmap, tmp_path: Path, id: str, status: int, words: list[str]
) -> None:
    folder = hub_models.model(tmp_path / "m")
    for state in ("ok", "gated", "private", "broken"):
        klmap.upload(f"org/{state if state != 'ok' else 'm'}", folder, state=state)
    bare("README.md")(tmp_path / "empty")
    klmap.upload("org/empty", tmp_path / "empty")
    name, _, revision = id.partition("@")
    options = ["--id", name, *(["--revision", revision] if revision else [])]
    done = klmap("resolve.py", *options, "--card", "card.json")
    assert done.returncode == status, done.stdout
    assert all(word in done.stdout for word in words), done.stdout
    assert "Traceback" not in done.stdout
    assert not (tmp_path / "card.json").exists()


@pytest.mark.parametrize(("state", "flag"), [("gated", "gated"), ("private", "private")])
def test_a_token_opens_what_it_may(klmap: Klmap, tmp_path: Path, state: str, flag: str) -> None:
    made = klmap.upload("org/m", hub_models.model(tmp_path / "m"), state=state, tokens={"hf_mine"})
    stranger = card_of(klmap, "org/m", "--on-failure", "skip", HF_TOKEN="hf_other")
    if state == "gated":
        assert stranger.state == hub.NEEDS_TOKEN
        assert "the account of your token has no access yet; ask for it at" in stranger.error
    else:
        assert stranger.state == hub.GONE
        assert "not on the Hub, or private" in stranger.error
    card = card_of(klmap, "org/m", HF_TOKEN="hf_mine")
    assert (card.error, getattr(card, flag), card.parameters) == ("", True, 1001)
    made.info["safetensors"] = None
    assert card_of(klmap, "org/m", HF_TOKEN="hf_mine") == card, "headers are read with the token"
    cdn = [token for path, token in klmap.hub.tokens_seen if path.startswith("/cdn/")]
    assert set(cdn) == {None}, "but the storage behind the Hub never sees it"


def test_skip_writes_a_card_that_says_why(klmap: Klmap) -> None:
    card = card_of(klmap, "org/absent", "--on-failure", "skip")
    assert "not on the Hub" in card.error
    assert card.state == hub.GONE


def test_renamed_model_is_followed_and_said(klmap: Klmap, tmp_path: Path) -> None:
    made = klmap.upload("org/m", hub_models.model(tmp_path / "m"), info={"safetensors": None})
    klmap.hub.moved["old/m"] = "org/m"
    done = klmap("resolve.py", "--id", "old/m", "--card", "card.json")
    assert done.returncode == 0, done.stdout
    assert "the Hub calls this model org/m now" in done.stdout
    card = cards.read_card(tmp_path / "card.json")
    assert (card.id, card.commit, card.parameters) == ("old/m", made.commit, 1001)


# A network that is not well


FAULTS = ["429", "503", "cut", "reset", "short", "stall"]
LASTING = ["429*", "503*", "stall*"]
PLACES = ["information", "config.json"]


@dataclasses.dataclass
class Outcome:
    """What resolving a model behind a fault ended in."""

    status: int
    said: str
    seconds: float
    faults: list[str]
    requests: list[str]
    card: Path


Outcomes = dict[tuple[str, str], Outcome]


@pytest.fixture(scope="module")
def unwell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    """One model for every fault, all asked about at the same time: most of it is waiting."""
    folder = tmp_path_factory.mktemp("unwell")
    short = {"KLMAP_HUB_TIMEOUT": "2", "HF_HUB_DOWNLOAD_TIMEOUT": "2"}
    with serve() as running:
        klmap = Klmap(running, folder, short)
        hub_models.model(folder / "m")

        def one(case: tuple[str, str]) -> Outcome:
            where, fault = case
            name = f"{where}-{fault}".replace("*", "-for-ever")
            made = klmap.upload(f"org/{name}", folder / "m")
            faults = made.information_faults
            if where != "information":
                faults = made.faults.setdefault(where, [])
            faults.append(fault)
            card = folder / f"{name}.json"
            options = ("--id", f"org/{name}", "--on-failure", "skip", "--card", card)
            patience = "5" if fault in LASTING else "20"
            begun = time.monotonic()
            done = klmap("resolve.py", *options, KLMAP_HUB_PATIENCE=patience)
            seconds = time.monotonic() - begun
            requests = [r for r in running.requests if re.search(rf"/{name}(/|$)", r)]
            return Outcome(done.returncode, done.stdout, seconds, faults, requests, card)

        cases = [(where, fault) for where in PLACES for fault in FAULTS]
        cases += [("information", fault) for fault in LASTING]
        with ThreadPoolExecutor(max_workers=len(cases)) as pool:
            yield dict(zip(cases, pool.map(one, cases), strict=True))


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_of_the_network_is_survived(unwell: Outcomes, where: str, fault: str) -> None:
    found = unwell[where, fault]
    assert found.status == 0, found.said
    assert not found.faults, "it has met the fault"
    assert cards.read_card(found.card).parameters == 1001
    assert 4 <= len(found.requests) <= 5, found.requests
    if fault == "429":
        assert found.seconds >= 1, "what Retry-After asked for"


@pytest.mark.parametrize("fault", LASTING)
def test_a_hub_out_of_order_is_given_up_soon(unwell: Outcomes, fault: str) -> None:
    found = unwell["information", fault]
    assert found.status == 1, found.said
    assert found.seconds < 30
    assert "the Hub " in found.said
    assert "Traceback" not in found.said
    assert 2 <= len(found.requests) <= 4, "politely"
    assert not found.card.exists(), "no verdict on the model"


def test_no_network_is_no_verdict_on_the_model(klmap: Klmap, tmp_path: Path) -> None:
    options = ("--id", "org/m", "--on-failure", "skip", "--card", "card.json")
    for variables, words in (
        ({"HF_HUB_OFFLINE": "1"}, "no cache holds this model"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached"),
    ):
        begun = time.monotonic()
        done = klmap("resolve.py", *options, **variables)
        assert done.returncode == 1
        assert words in done.stdout
        assert "Traceback" not in done.stdout
        assert time.monotonic() - begun < 10
        assert not (tmp_path / "card.json").exists()


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(hub, "time", SimpleNamespace(monotonic=clock.monotonic, sleep=clock.sleep))
    monkeypatch.setattr(hub, "_turnstile", hub._Turnstile())
    return clock


def answers(clock: Clock, *given: tuple[int, dict[str, str]] | str) -> tuple[Any, list[float]]:
    """A question with these answers, and when each was asked for."""
    waiting, asked = list(given), []

    def question() -> str:
        asked.append(clock.now)
        answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        if isinstance(answer, str):
            return answer
        request = httpx2.Request("GET", "http://hub/api/models/org/m")
        response = httpx2.Response(answer[0], headers=answer[1], request=request)
        raise HfHubHTTPError("busy", response=response)

    return question, asked


@pytest.mark.parametrize(
    ("status", "headers", "least"),
    [
        (429, {"Retry-After": "37"}, 37),
        (503, {"Retry-After": "37"}, 37),
        (429, {"RateLimit": '"api";r=0;t=55'}, 55),
        (429, {}, 0.75),
        (500, {}, 0.75),
    ],
)
def test_the_hub_is_not_asked_before_the_time_it_names(
    clock: Clock, status: int, headers: dict[str, str], least: float
) -> None:
    question, asked = answers(clock, (status, headers), "fine")
    assert hub.ask("org/m", None, question) == "fine"
    assert len(asked) == 2
    assert least <= asked[1] - asked[0] <= least + 2
    if status == 429:
        hub._turnstile.wait()


def test_waiting_binds_every_question(clock: Clock) -> None:
    """A rate limit counts for the account: no other thread asks in the meantime."""
    hub._turnstile.close(30)
    question, asked = answers(clock, "fine")
    hub.ask("org/other", None, question)
    assert asked[0] >= 30


def test_waits_grow_and_end(clock: Clock) -> None:
    question, asked = answers(clock, (503, {}))
    with pytest.raises(KlmapError, match="answered with an error") as error:
        hub.ask("org/m", None, question, patience=600)
    assert not isinstance(error.value, PermanentFailure)
    waits = [after - before for before, after in itertools.pairwise(asked)]
    assert waits[0] < 2 < waits[2] < waits[4]
    assert max(waits) <= 75
    assert 500 < asked[-1] <= 600


def test_refusals_are_not_asked_about_again(clock: Clock) -> None:
    question, asked = answers(clock, (403, {}))
    with pytest.raises(PermanentFailure, match="refuses access"):
        hub.ask("org/m", None, question)
    assert asked == [0.0]


# Caches, without a network

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}


def test_no_id_of_the_hub_is_said_offline_too(klmap: Klmap) -> None:
    done = klmap("resolve.py", "--id", "a/b/c", "--card", "card.json", **OFFLINE)
    assert done.returncode == 3
    assert "not an id of the Hub" in done.stdout


@pytest.mark.parametrize("kind", ["shards", "gptq", "merge"])
def test_a_filled_cache_gives_the_same_card(klmap: Klmap, tmp_path: Path, kind: str) -> None:
    make, info, _ = READY[kind]
    make(tmp_path / "m")
    klmap.upload("org/m", tmp_path / "m", info=info)
    online = card_of(klmap, "org/m")
    klmap.fill_cache("org/m", *online.names, "README.md")
    offline = card_of(klmap, "org/m", **OFFLINE)
    assert offline == dataclasses.replace(online, created_at=None)
    shutil.move(klmap.home / "hub", tmp_path / "mirror")
    elsewhere = card_of(klmap, "org/m", "--mirrors", tmp_path / "mirror", **OFFLINE)
    assert elsewhere == offline


@pytest.mark.parametrize(
    "names", [["config.json"], [*NAMES[:2], NAMES[3]], ["tokenizer.json"], NAMES[2:]]
)
def test_a_part_of_a_cache_is_no_verdict(klmap: Klmap, tmp_path: Path, names: list[str]) -> None:
    klmap.upload("org/m", hub_models.model(tmp_path / "m"))
    klmap.fill_cache("org/m", *names)
    options = ("--id", "org/m", "--on-failure", "skip", "--card", "card.json")
    done = klmap("resolve.py", *options, **OFFLINE)
    assert done.returncode == 1
    assert "HF_HUB_OFFLINE is set" in done.stdout
    assert not (tmp_path / "card.json").exists()


def test_one_shard_of_two_in_a_cache_is_no_verdict(klmap: Klmap, tmp_path: Path) -> None:
    sharded(tmp_path / "m")
    klmap.upload("org/m", tmp_path / "m")
    names = card_of(klmap, "org/m").names
    klmap.fill_cache("org/m", *(name for name in names if "00002-of" not in name))
    done = klmap("resolve.py", "--id", "org/m", "--card", "offline.json", **OFFLINE)
    assert done.returncode == 1
    assert "1 of 2 weight files missing" in done.stdout

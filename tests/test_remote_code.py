"""Models whose class is in their repository: never run unasked, and exact where they are run.

Every file of such a repository writes a line into a marker file when it is imported, so that a
test sees whether code was run. Scores with permission are made in a process of their own, as the
workflow makes them, because transformers reads once where it may put code.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from klmap import cards, config, configfile, fetch, refresh, resolve, store_score, tokens
from klmap.cards import Card
from klmap.errors import ConfigError, KlmapError, PermanentFailure, UnsupportedHere
from klmap.files import write_tsv
from tests.builders import tiny_model, tiny_tokenizer
from tests.hub_server import Repository, serve
from tests.oracle import ids_of, make_job, scored
from tests.project import ROOT, Project, make_project

WIDTH, HEADS, LAYERS, VOCABULARY, CONTEXT = 16, 2, 2, 512, 48
COMMIT = "0123456789abcdef" * 2 + "01234567"
TEXTS = ["A map is a picture of distances.", "x = 1\nprint(x)\n", "Grüße aus Köln, naïve café."]

MARK = """
with open({marker!r}, "a") as file:
    file.write(__file__ + "\\n")
"""

CONFIGURATION = """
from transformers import PretrainedConfig


class TinyConfig(PretrainedConfig):
    model_type = "klmap_tiny"

    def __init__(self, vocab_size=512, width=16, heads=2, layers=2, seq_length=48, **others):
        self.vocab_size = vocab_size
        self.width = width
        self.heads = heads
        self.layers = layers
        self.seq_length = seq_length
        super().__init__(**others)
"""

MODELING = """
import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from .configuration_tiny import TinyConfig

FACTOR = {factor}


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads = config.heads
        self.first = nn.LayerNorm(config.width)
        self.mixed = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.second = nn.LayerNorm(config.width)
        self.up = nn.Linear(config.width, 4 * config.width)
        self.down = nn.Linear(4 * config.width, config.width)

    def forward(self, x):
        batch, length, width = x.shape
        shape = (batch, length, self.heads, width // self.heads)
        q, k, v = (
            part.reshape(shape).transpose(1, 2) for part in self.mixed(self.first(x)).chunk(3, -1)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal={causal})
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(functional.gelu(self.up(self.second(x))))


class Body(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.places = nn.Embedding(config.seq_length, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, input_ids, use_cache=False):
        x = self.tokens(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        for layer in self.layers:
            x = layer(x)
        return (self.norm(x),)


class TinyForCausalLM(PreTrainedModel):
    config_class = TinyConfig
    base_model_prefix = "body"

    def __init__(self, config):
        super().__init__(config)
        self.body = Body(config)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.body.tokens

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, use_cache=False):
        logits = self.head(self.body(input_ids)[0]) * FACTOR
        return CausalLMOutput(logits=logits)
"""

TOKENIZATION = """
from transformers import PreTrainedTokenizer


class ByteTokenizer(PreTrainedTokenizer):
    vocab_files_names = {}

    def __init__(self, **others):
        super().__init__(**others)

    @property
    def vocab_size(self):
        return 256

    def get_vocab(self):
        return {f"<{byte}>": byte for byte in range(256)}

    def _tokenize(self, text):
        return [f"<{byte}>" for byte in text.encode()]

    def _convert_token_to_id(self, token):
        return int(token[1:-1])

    def _convert_id_to_token(self, index):
        return f"<{index}>"

    def convert_tokens_to_string(self, tokens):
        return bytes(int(token[1:-1]) for token in tokens).decode(errors="replace")

    def save_vocabulary(self, folder, filename_prefix=None):
        return ()
"""


def weights(seed: int) -> dict[str, torch.Tensor]:
    """Random weights under the names that the classes above give them."""
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "body.tokens.weight": (VOCABULARY, WIDTH),
        "body.places.weight": (CONTEXT, WIDTH),
        "body.norm.weight": (WIDTH,),
        "body.norm.bias": (WIDTH,),
        "head.weight": (VOCABULARY, WIDTH),
    }
    sizes = {"mixed": (3, 1), "out": (1, 1), "up": (4, 1), "down": (1, 4)}
    for layer in range(LAYERS):
        for name, (rows, columns) in sizes.items():
            shapes[f"body.layers.{layer}.{name}.weight"] = (rows * WIDTH, columns * WIDTH)
            shapes[f"body.layers.{layer}.{name}.bias"] = (rows * WIDTH,)
        for name in ("first", "second"):
            shapes[f"body.layers.{layer}.{name}.weight"] = (WIDTH,)
            shapes[f"body.layers.{layer}.{name}.bias"] = (WIDTH,)
    return {name: 0.5 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Where the code of a repository writes that it was imported."""
    return tmp_path / "marker.txt"


def code_model(
    folder: Path,
    marker: Path,
    *,
    seed: int = 0,
    factor: float = 1.0,
    causal: bool = True,
    code_tokenizer: bool = False,
    **keys: Any,
) -> Path:
    """A repository with its own configuration, model and, where wanted, tokenizer."""
    tiny_tokenizer(folder, vocabulary=VOCABULARY)
    save_file(weights(seed), folder / "model.safetensors", metadata={"format": "pt"})
    settings = {
        "architectures": ["TinyForCausalLM"],
        "model_type": "klmap_tiny",
        "auto_map": {
            "AutoConfig": "configuration_tiny.TinyConfig",
            "AutoModelForCausalLM": "modeling_tiny.TinyForCausalLM",
        },
        "vocab_size": VOCABULARY,
        "width": WIDTH,
        "heads": HEADS,
        "layers": LAYERS,
        "seq_length": CONTEXT,
        "tie_word_embeddings": False,
        **keys,
    }
    (folder / "config.json").write_text(json.dumps(settings))
    mark = MARK.format(marker=str(marker))
    modeling = MODELING.format(factor=factor, causal=causal)
    (folder / "configuration_tiny.py").write_text(mark + CONFIGURATION)
    (folder / "modeling_tiny.py").write_text(mark + modeling)
    if code_tokenizer:
        write_code_tokenizer(folder, marker)
    return folder


def write_code_tokenizer(folder: Path, marker: Path) -> None:
    """Replace a repository's tokenizer.json by a class of its own."""
    (folder / "tokenizer.json").unlink()
    (folder / "tokenization_tiny.py").write_text(MARK.format(marker=str(marker)) + TOKENIZATION)
    settings = {
        "tokenizer_class": "ByteTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_tiny.ByteTokenizer", None]},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def permitted_job(folder: Path, model: Path, id: str = "./model") -> Any:
    """A job as the workflow makes it for a model that opted in."""
    job = make_job(folder, model, TEXTS, id=id, remote_code=True)
    opted_in(job, model, id)
    return job


def opted_in(job: Any, model: Path, id: str = "./model") -> Card:
    """Give a job card and weights as they are where an entry of the same source opted in."""
    card = resolve.resolve(id, None, model, remote_code=True)
    cards.write_card(job.card, card)
    shutil.rmtree(job.weights)
    fetch.fetch(card, job.weights, model)
    return card


def start(job: Any, home: Path) -> subprocess.Popen[str]:
    """Start scripts/score.py for a job; ``home`` is where libraries keep what they keep."""
    names = ("card", "weights", "texts", "manifest", "model")
    options = [f"--{name}={getattr(job, name)}" for name in names]
    options += [f"--spec={json.dumps(job.spec)}", f"--score={job.output}", "--device=cpu"]
    temporary = home / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "score.py"), *options],
        env={"HF_HOME": str(home / "hf"), "TMPDIR": str(temporary), "PATH": ""},
        stderr=subprocess.PIPE,
        text=True,
    )


def run(job: Any, home: Path, status: int = 0) -> str:
    """Run a job in a process of its own and return what it logged."""
    process = start(job, home)
    _, log = process.communicate(timeout=120)
    assert process.returncode == status, log
    return log


def by_hand(model: Path, sequence: list[int], factor: float = 1.0) -> float:
    """Log-likelihood of one sequence in float64, token by token, without any class."""
    w = {name: tensor.double() for name, tensor in load_file(model / "model.safetensors").items()}

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        x = (x - x.mean()) / torch.sqrt(x.var(unbiased=False) + 1e-5)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    size = WIDTH // HEADS
    past: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in range(LAYERS)]
    total = 0.0
    for place, (token, following) in enumerate(itertools.pairwise(sequence)):
        x = w["body.tokens.weight"][token] + w["body.places.weight"][place]
        for layer in range(LAYERS):
            name = f"body.layers.{layer}"
            q, k, v = linear(f"{name}.mixed", norm(f"{name}.first", x)).chunk(3)
            past[layer].append((k, v))
            heads = []
            for head in range(HEADS):
                own = slice(head * size, (head + 1) * size)
                scores = torch.stack(
                    [q[own] @ key[own] / math.sqrt(size) for key, _ in past[layer]]
                )
                shares = torch.softmax(scores, 0)
                heads.append(
                    sum(s * value[own] for s, (_, value) in zip(shares, past[layer], strict=True))
                )
            x = x + linear(f"{name}.out", torch.cat(heads))
            up = functional.gelu(linear(f"{name}.up", norm(f"{name}.second", x)))
            x = x + linear(f"{name}.down", up)
        logits = factor * (w["head.weight"] @ norm("body.norm", x))
        total += float(torch.log_softmax(logits, 0)[following])
    return total


# Without permission


def test_refused_with_the_fix_and_nothing_is_run(tmp_path: Path, marker: Path) -> None:
    model = code_model(tmp_path / "model", marker)
    job = make_job(tmp_path / "job", model, TEXTS)
    assert not [name for name in cards.read_card(job.card).names if name.endswith(".py")]
    with pytest.raises(PermanentFailure, match=r"'klmap_tiny'.*give the model remote_code: true$"):
        scored(job)
    # The code may lie beside the weights because another entry of the same source opted in.
    opted_in(job, model)
    job.failure.unlink()
    with pytest.raises(PermanentFailure, match="is not run without being asked to"):
        scored(job)
    assert not marker.exists()


def test_the_fix_names_the_commit_of_a_hub_model(tmp_path: Path, marker: Path) -> None:
    model = code_model(tmp_path / "model", marker)
    job = make_job(tmp_path / "job", model, TEXTS)
    card = opted_in(job, model)
    card.id, card.commit = "org/model", COMMIT
    cards.write_card(job.card, card)
    with pytest.raises(PermanentFailure, match=f"remote_code: true and revision: {COMMIT}$"):
        scored(job)


def test_code_without_a_causal_language_model_is_refused(tmp_path: Path, marker: Path) -> None:
    classes = {"AutoConfig": "configuration_tiny.TinyConfig", "AutoModel": "modeling_tiny.Body"}
    model = code_model(tmp_path / "model", marker, auto_map=classes)
    with pytest.raises(PermanentFailure, match="the repository brings no code for it"):
        scored(make_job(tmp_path / "job", model, TEXTS))
    assert not marker.exists()


def test_a_sheet_gives_permission(tmp_path: Path) -> None:
    sheet = tmp_path / "more.tsv"
    sheet.write_text(f"id\trevision\tremote_code\norg/a\t{COMMIT}\ttrue\norg/b\t\t\n")
    path = tmp_path / "config.yaml"
    path.write_text(f"texts:\n  demo: {{source: environment}}\nmodel_files: ['{sheet}']\n")
    assert [entry.remote_code for entry in configfile.load(path).models] == [True, False]


def test_an_unusual_name_is_refused_before_the_download(tmp_path: Path, marker: Path) -> None:
    model = code_model(tmp_path / "model", marker, architectures=["TinyModel"])
    with pytest.raises(PermanentFailure, match=r"TinyModel is no class.*remote_code: true$"):
        resolve.resolve("./model", None, model)
    card = resolve.resolve("./model", None, model, remote_code=True)
    assert {"configuration_tiny.py", "modeling_tiny.py"} < set(card.names)


def test_code_of_a_tokenizer_is_not_run(tmp_path: Path, marker: Path) -> None:
    """Neither for a model without permission nor for one that transformers knows."""
    model = code_model(tmp_path / "model", marker, code_tokenizer=True)
    with pytest.raises(PermanentFailure, match="no tokenizer"):
        resolve.resolve("./model", None, model)
    with pytest.raises(PermanentFailure, match="the tokenizer is code of the repository"):
        tokens.load_tokenizer(model)
    known = tiny_model(tmp_path / "known", "gpt2")
    write_code_tokenizer(known, marker)
    log = run(permitted_job(tmp_path / "job", known), tmp_path / "home", status=3)
    assert "the tokenizer is code of the repository" in log
    assert not marker.exists()


def test_a_class_of_transformers_is_preferred_to_code(tmp_path: Path, marker: Path) -> None:
    model = tiny_model(tmp_path / "model", "gpt2")
    plain = scored(make_job(tmp_path / "plain", model, TEXTS))
    code = code_model(tmp_path / "code", marker)
    settings = json.loads((model / "config.json").read_text())
    settings["auto_map"] = json.loads((code / "config.json").read_text())["auto_map"]
    (model / "config.json").write_text(json.dumps(settings))
    for path in code.glob("*.py"):
        shutil.copy2(path, model)
    job = permitted_job(tmp_path / "job", model)
    assert (job.weights / "modeling_tiny.py").is_file()
    log = run(job, tmp_path / "home")
    assert "remote_code: true has no effect" in log
    result = store_score.read_score(job.output)
    assert result.attributes["remote_code"] is False
    assert np.array_equal(result.loglik, plain.loglik)
    assert plain.attributes["remote_code"] is False
    assert not marker.exists()


# With permission


def test_scores_equal_those_of_a_float64_hand_loop(tmp_path: Path, marker: Path) -> None:
    model = code_model(tmp_path / "model", marker)
    job = permitted_job(tmp_path / "job", model)
    log = run(job, tmp_path / "home")
    assert "code of the repository is run: modeling_tiny.TinyForCausalLM" in log
    result = store_score.read_score(job.output)
    expected = [by_hand(model, sequence) for sequence in ids_of(model, TEXTS)]
    assert np.allclose(result.loglik, expected, rtol=0, atol=2e-3)
    assert result.attributes["remote_code"] is True
    assert result.attributes["head"] == "own"
    assert result.attributes["context"] == CONTEXT
    assert result.spec["remote_code"] is True
    assert marker.is_file()


def test_a_tokenizer_of_its_own(tmp_path: Path, marker: Path) -> None:
    model = code_model(tmp_path / "model", marker, code_tokenizer=True)
    job = permitted_job(tmp_path / "job", model)
    run(job, tmp_path / "home")
    result = store_score.read_score(job.output)
    assert result.n_tokens.tolist() == [len(text.encode()) for text in TEXTS]
    expected = [by_hand(model, list(text.encode())) for text in TEXTS]
    assert np.allclose(result.loglik, expected, rtol=0, atol=2e-3)
    assert "tokenization_tiny.py" in marker.read_text()


def test_two_jobs_at_once_share_no_code(tmp_path: Path) -> None:
    """Both folders are called weights, both files modeling_tiny.py; the code is different."""
    home = tmp_path / "home"
    factors = {"one": 1.0, "two": 3.0}
    jobs, markers, processes = {}, {}, []
    for name, factor in factors.items():
        markers[name] = tmp_path / f"{name}.txt"
        model = code_model(tmp_path / name / "model", markers[name], factor=factor)
        jobs[name] = permitted_job(tmp_path / name, model)
        processes.append(start(jobs[name], home))
    for process in processes:
        _, log = process.communicate(timeout=120)
        assert process.returncode == 0, log
    places = {}
    for name, factor in factors.items():
        result = store_score.read_score(jobs[name].output)
        expected = [
            by_hand(tmp_path / name / "model", sequence, factor)
            for sequence in ids_of(tmp_path / name / "model", TEXTS)
        ]
        assert np.allclose(result.loglik, expected, rtol=0, atol=5e-3)
        assert result.attributes["head"] == ("own" if factor == 1.0 else "model")
        places[name] = {Path(line).parents[3] for line in markers[name].read_text().split()}
        assert len(places[name]) == 1
    assert not places["one"] & places["two"]
    assert not any(place.exists() for found in places.values() for place in found)
    assert not list(home.rglob("*.py")), "nothing stays behind, not in the shared folder either"
    assert not list((home / "tmp").glob("klmap*"))


def drop_a_weight(model: Path) -> None:
    kept = load_file(model / "model.safetensors")
    del kept["body.norm.bias"]
    save_file(kept, model / "model.safetensors", metadata={"format": "pt"})


def look_ahead(model: Path) -> None:
    path = model / "modeling_tiny.py"
    path.write_text(path.read_text().replace("is_causal=True", "is_causal=False"))


def other_repository(model: Path) -> None:
    path = model / "config.json"
    path.write_text(
        path.read_text().replace("modeling_tiny.Tiny", "other/code--modeling_tiny.Tiny")
    )


def download(model: Path) -> None:
    path = model / "modeling_tiny.py"
    line = "import huggingface_hub\nhuggingface_hub.hf_hub_download('other/code', 'more.py')\n"
    path.write_text(path.read_text() + line)


def need(line: str) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        path = model / "modeling_tiny.py"
        path.write_text(f"{line}\n{path.read_text()}")

    return change


GATES: list[tuple[Callable[[Path], None], str, bool]] = [
    (drop_a_weight, "1 weights are not in the files and would be random (body.norm.bias)", True),
    (look_ahead, "the model looks at later tokens", True),
    (other_repository, "other/code--modeling_tiny.TinyForCausalLM is in another repository", True),
    (download, "its code asks the Hub for another file", True),
    (need("from .absent import x"), "absent.py", True),
    (need("import klmap_absent_package"), "klmap_absent_package", False),
]


@pytest.mark.parametrize(("spoil", "words", "final"), GATES, ids=[words for _, words, _ in GATES])
def test_gates_hold(
    tmp_path: Path, marker: Path, spoil: Callable[[Path], None], words: str, final: bool
) -> None:
    model = code_model(tmp_path / "model", marker)
    spoil(model)
    job = permitted_job(tmp_path / "job", model)
    assert words in run(job, tmp_path / "home", status=3)
    assert job.failure.is_file() == final, "a package may be installed tomorrow"


def test_quantised_weights_and_code_do_not_go_together(tmp_path: Path, marker: Path) -> None:
    model = code_model(tmp_path / "model", marker)
    job = permitted_job(tmp_path / "job", model)
    card = cards.read_card(job.card)
    card.quantization = "gptq-4bit"
    cards.write_card(job.card, card)
    with pytest.raises(UnsupportedHere, match="stored quantised"):
        scored(job)
    assert not marker.exists()


# Cards, the Hub, refresh


def test_the_content_of_code_pins_a_folder(tmp_path: Path, marker: Path) -> None:
    model = code_model(tmp_path / "model", marker)
    first = resolve.resolve("./model", None, model, remote_code=True)
    (model / "modeling_tiny.py").write_text("pass\n")
    assert resolve.resolve("./model", None, model, remote_code=True).commit != first.commit
    with pytest.raises(KlmapError, match="changed since its card was made"):
        fetch.fetch(first, tmp_path / "weights", model)


def test_code_that_is_not_run_pins_nothing(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "gpt2")
    (model / "modeling_tiny.py").write_text("pass\n")
    plain = resolve.resolve("./model", None, model)
    (model / "modeling_tiny.py").write_text("pass  # changed\n")
    assert resolve.resolve("./model", None, model).commit == plain.commit
    assert resolve.resolve("./model", None, model, remote_code=True).commit != plain.commit


def test_code_of_a_hub_model_is_fetched(tmp_path: Path, marker: Path) -> None:
    model = code_model(tmp_path / "model", marker)

    def klmap(script: str, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "scripts" / script), *options],
            env=server.environment(tmp_path / "home"),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    with serve() as server:
        server.repositories["org/tiny"] = Repository(model, COMMIT)
        ask = ("resolve.py", "--id", "org/tiny", "--card", "cards/org--tiny/card.json")
        pinned = (*ask, "--revision", COMMIT, "--remote-code")
        done = klmap(*ask, "--remote-code")
        assert done.returncode == 3
        assert f"with remote_code: true write revision: {COMMIT}" in done.stderr
        assert klmap(*pinned).returncode == 0
        fetch = ("fetch.py", "--card", "cards/org--tiny/card.json", "--weights", "weights")
        assert klmap(*fetch).returncode == 0
        found = {path.name for path in (tmp_path / "weights").iterdir()}
        assert {"configuration_tiny.py", "modeling_tiny.py"} < found
        for columns, row in (
            (["source", "id", "revision", "folder"], ["org--tiny", "org/tiny", COMMIT, None]),
            (
                ["source", "id", "revision", "folder", "remote_code"],
                ["org--tiny", "org/tiny", COMMIT, None, "true"],
            ),
        ):
            write_tsv(tmp_path / "index.tsv", columns, [row])
            (source,) = refresh.read_index(tmp_path / "index.tsv")
            permitted = len(columns) == 5
            assert source.remote_code is permitted
            done = klmap("refresh.py", "--index", "index.tsv", "--cards", "cards")
            unusable = 0 if permitted else 1
            assert f"1 models asked about, 0 cards rewritten, {unusable} without" in done.stderr
    assert not marker.exists()


def test_refresh_keeps_the_code_on_a_card_that_moved(tmp_path: Path, marker: Path) -> None:
    model = code_model(tmp_path / "model", marker)
    path = tmp_path / "cards" / "model" / "card.json"
    cards.write_card(path, resolve.resolve("./model", None, model, remote_code=True))
    (model / "modeling_tiny.py").write_text("pass\n")
    sources = [refresh.Source("model", "./model", None, model, remote_code=True)]
    assert [item.change for item in refresh.refresh(sources, tmp_path / "cards")] == ["moved"]
    assert "modeling_tiny.py" in cards.read_card(path).names


# The configuration and the workflow

CONFIG = "texts:\n  demo: {{source: environment}}\nmodels:\n  - {}\n"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("{id: org/a, remote_code: true}", "'org/a' and needs revision: to be a full commit, 40"),
        ("{id: org/a, remote_code: true}", "so that the code cannot change; there is no revision"),
        ("{id: org/a, revision: main, remote_code: true}", "the revision is 'main': copy the comm"),
        (f"{{id: org/a, revision: {COMMIT[:39]}, remote_code: true}}", f"is '{COMMIT[:39]}'"),
        ("{id: demo/llama-code, remote_code: true}", "is built here and has no code of its own"),
        ("{id: org/a, remote_code: perhaps}", "models[0].remote_code: 'perhaps'"),
    ],
)
def test_bad_permission_names_place_finding_and_fix(tmp_path: Path, entry: str, words: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(entry))
    with pytest.raises(ConfigError) as error:
        configfile.load(path)
    assert words in str(error.value)
    assert "models[0]" in str(error.value)
    assert "(line 4)" in str(error.value)


@pytest.mark.parametrize(
    "entry",
    [
        f"{{id: org/a, revision: {COMMIT}, remote_code: true}}",
        f"{{id: org/a@{COMMIT}, remote_code: true}}",
        "{id: ./checkpoints/a, remote_code: true}",
        "{id: org/a, remote_code: false}",
    ],
)
def test_good_permission_is_part_of_the_science_where_it_is_given(
    tmp_path: Path, entry: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(entry))
    read = configfile.load(path)
    model = read.models[0]
    spec = read.spec("demo", model)
    plain = read.spec("demo", model.model_copy(update={"remote_code": False}))
    if model.remote_code:
        assert spec == {**plain, "remote_code": True}
        assert config.fingerprint(spec) != config.fingerprint(plain)
    else:
        assert "remote_code" not in spec, "the text of old specs is a param of their jobs"
        assert spec == plain


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("code") / "klmap")


def commands(project: Project) -> dict[str, str]:
    """The command of every resolve and score job that a dry run would start."""
    done = project.snakemake("--dry-run", "--printshellcmds")
    lines = re.findall(r"^Shell command: (.*/(?:resolve|score)\.py .*)$", done.stdout, re.MULTILINE)
    return {line.rpartition("> ")[2].partition(" ")[0]: line for line in lines}


def test_only_models_that_opted_in_are_asked_for_code(small: Project, marker: Path) -> None:
    before = commands(small)
    assert len(before) == 4
    known = before["logs/resolve/models--a.log"].partition("resolve.py ")[2]
    assert known.startswith("--id ./models/a --folder models/a --on-failure")
    code_model(small.folder / "models" / "own", marker)
    own = {"id": "./models/own", "remote_code": True}
    twin = {"id": "./models/own", "dtype": "float32"}
    small.configure(models=["./models/a", "./models/b", own, twin])
    after = commands(small)
    assert {name: after[name] for name in before} == before, "to the letter, so nothing is rerun"
    new = {name: line for name, line in after.items() if name not in before}
    asked = [line for name, line in new.items() if "logs/resolve" in name]
    assert len(asked) == 1
    assert asked[0].count("--remote-code") == 1
    specs = [line for name, line in new.items() if "logs/score" in name]
    assert sorted('"remote_code": true' in line for line in specs) == [False, True]
    small.snakemake("--cores", "1", "results/models/_sources.tsv")
    lines = (small.folder / "results/models/_sources.tsv").read_text().splitlines()
    assert [line.split("\t")[-1] for line in lines] == ["remote_code", "", "", "true"]
    small.configure(models=["./models/a", "./models/b"])
    small.snakemake("--cores", "1", "results/models/_sources.tsv")
    lines = (small.folder / "results/models/_sources.tsv").read_text().splitlines()
    assert lines[0] == "source\tid\trevision\tfolder"

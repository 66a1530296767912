"""What it takes to compare related models: layers, pairs, sketches, merges, exact divergences.

Everything is made up: models with random weights, matrices of random numbers. Every row is a
process of its own, so that its peak memory is its own; what has to be made first is made in others.
Prints Markdown tables; progress goes to standard error.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from bench_geometry import collected
from scale_data import Universe
from score_shapes import Shape
from score_ways import Process, run_process

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from klmap import files, geometry, models_table, store, store_divergence, store_score
from klmap.arrays import Floats
from klmap.config import fingerprint
from klmap.models_table import Model

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"

SPEC = {"id": "bench/model", "dtype": "float32", "prefix": "default", "overlength": "window"}
"""Settings of every score."""

LAYERS = (
    Shape("wide", "25M, vocabulary 49k, 4 blocks", 384, 4, 6, 2, 1024, 49_152, True, 0),
    Shape("deep", "21M, vocabulary 8k, 24 blocks", 256, 24, 4, 2, 768, 8192, True, 0),
)
"""One model that is mostly vocabulary, and one that is mostly blocks."""

PAIR = (
    Shape("first", "", 256, 4, 4, 2, 768, 16_384, True, 0),
    Shape("second", "", 256, 6, 4, 2, 768, 16_384, True, 0),
)
"""Two models with one vocabulary."""

MERGED = Shape("merged", "", 1536, 0, 12, 12, 4096, 32_000, True, 0)
"""28 million weights in each block, 49 million in the embedding."""

ENTRIES = 8192
"""Of the tokenizer, which all have; rows of an embedding beyond them cost the same."""

SHIFT = 0.002
"""How far a weight of the second parent is from that of the first, a tenth of what it is."""

SIZES, SEEDS, FAMILY = (1, 3, 7, 13), 4, 30
"""Models of a family: by size, more seeds of the smallest, and fine-tunes, in all."""

NEAR = {"child": 0.63, "seed": 0.35, "int8": 0.1, "nf4": 0.2, "fp4": 0.25}
"""Roots of the KLs, bits per byte, between a model and what is like it."""

METHODS = ("int8", "nf4", "fp4")
NOISE = 0.01
DOMAINS = 8
CHECKPOINTS, WIDTH = 16, 512
"""Of the small run whose sketches are compared with exact distances."""


@dataclass(frozen=True)
class Job:
    """Sizes, and where files are written for the while.

    Attributes:
        sizes: the parsed arguments.
        root: an empty folder of the part, beside those of others.
    """

    sizes: argparse.Namespace
    root: Path

    def script(self, name: str, *arguments: object) -> Process:
        """One of klmap's scripts as a process."""
        command = [sys.executable, str(SCRIPTS / f"{name}.py"), *map(str, arguments)]
        return run_process(command, self.root / "log")

    def models(self) -> Path:
        """The folder of the models that are scored, which several parts use."""
        folder = self.root.parent / "models"
        if not folder.is_dir():
            say("making models")
            folder.mkdir()
            self.way("make-models", folder)
        return folder

    def way(self, name: str, folder: Path) -> tuple[Process, Any]:
        """One of ``WAYS`` as a process, and what it gave back."""
        command = [sys.executable, __file__, *sys.argv[1:], "--way", name, "--folder", str(folder)]
        process = run_process(command, self.root / "log")
        return process, json.loads((folder / f"{name}.json").read_text())


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def row(*cells: object) -> None:
    """A line of a table, at once."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def gigabytes(process: Process) -> str:
    return f"{process.peak / 1e9:.2f}"


def make_models(sizes: argparse.Namespace, folder: Path) -> None:
    """Models and texts of the layers and of the exact divergence."""
    import score_inputs

    from klmap import texts
    from klmap.config_texts import EnvironmentTexts

    for shapes, number in ((LAYERS, sizes.texts), (PAIR, sizes.kl_texts)):
        recipe = EnvironmentTexts(
            source="environment",
            n=number,
            min_bytes=score_inputs.SMALLEST,
            max_bytes=score_inputs.LARGEST,
        )
        for shape in shapes:
            model = folder / shape.key / "model"
            model.mkdir(parents=True)
            score_inputs.write_weights(model, shape)
            score_inputs.write_tokenizer(model, ENTRIES)
            _resolved(shape.key, model.parent)
        first, *others = (folder / shape.key for shape in shapes)
        texts.build(recipe, first / "texts.jsonl", first / "texts.json")
        for other, name in itertools.product(others, ("texts.jsonl", "texts.json")):
            shutil.copyfile(first / name, other / name)


def _resolved(name: str, folder: Path) -> Any:
    """The card of a model, with its files where klmap has them."""
    from klmap import cards, fetch, resolve

    card = resolve.resolve_or_explain(f"bench/{name}", None, folder / "model")
    cards.write_card(folder / "card.json", card)
    fetch.fetch(card, folder / "weights", folder / "model")
    return card


# Layers


def loop_layers(sizes: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The loop that people write: every state through norm and head, one text at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(sizes.threads)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()
    result = []
    start = time.monotonic()
    with torch.no_grad():
        for text in _texts(folder):
            ids = tokenizer(text, return_tensors="pt").input_ids
            output = model(ids, output_hidden_states=True)
            # transformers gives the last state behind the norm.
            states = output.hidden_states[:-1]
            logits = [*(model.lm_head(model.model.norm(state)) for state in states), output.logits]
            logprobs = [torch.log_softmax(each[0, :-1], dim=-1) for each in logits]
            wanted = ids[0, 1:, None]
            result.append([float(each.gather(1, wanted).double().sum()) for each in logprobs])
    return {"seconds": time.monotonic() - start, "loglik": np.transpose(result).tolist()}


def layers(job: Job) -> None:
    models = job.models()
    say("layers")
    print(f"\n### Hidden states\n\nEach model on {job.sizes.texts} texts, in float32.\n")
    print("| model | way | seconds | ratio | scoring alone (s) | ratio | peak memory (GB) | |")
    print("|---|---|---:|---:|---:|---:|---:|---|")
    for shape in LAYERS:
        folder = models / shape.key
        blocks = range(shape.layers)
        some = sorted({int(n) for n in np.linspace(0, shape.layers - 1, job.sizes.layer_jobs)})
        at_once, at_once_alone, by_layer = _score(job, folder, "all")
        plain, plain_alone, _ = _score(job, folder, None)
        single = [_score(job, folder, [number])[:2] for number in some]
        loop, found = job.way("loop-layers", folder)
        off = np.abs(np.array(found["loglik"]) - by_layer).max()
        whole, alone = (
            len(blocks) * float(np.mean(values))
            for values in zip(*((p.seconds, a) for p, a in single), strict=True)
        )
        of = "" if len(some) == len(blocks) else f"by {len(some)} of {len(blocks)} jobs"
        peak = f"{max(process.peak for process, _ in single) / 1e9:.2f}"
        lines = (
            ("without layers", plain.seconds, plain_alone, gigabytes(plain), ""),
            ("`layers: all`", at_once.seconds, at_once_alone, gigabytes(at_once), ""),
            ("a job for each layer, sum", whole, alone, peak, of),
            (
                *("`output_hidden_states`", loop.seconds, found["seconds"], gigabytes(loop)),
                f"at most {off:.1g} nats off klmap",
            ),
        )
        for way, seconds, of_scoring, memory, note in lines:
            ratios = seconds / at_once.seconds, of_scoring / at_once_alone
            cells = (f"{seconds:.1f}", f"{ratios[0]:.2f}", f"{of_scoring:.1f}", f"{ratios[1]:.2f}")
            row(shape.title, way, *cells, memory, note)
    print(
        "\nRatios are to `layers: all`. Whole processes of klmap also score every text once more "
        "in higher precision, for their error bar."
    )


def _score(
    job: Job, folder: Path, numbers: str | Sequence[int] | None
) -> tuple[Process, float, Floats]:
    """The process, its seconds of scoring alone, and (Y + 1, N) nats, the model itself last."""
    spec = SPEC if numbers is None else {**SPEC, "layers": numbers}
    score = folder / f"bench--model.{fingerprint(spec)}.h5"
    process = job.script(
        "score", *_inputs(folder), "--model", "bench--model", "--spec", json.dumps(spec),
        "--score", score, "--device", "cpu", "--threads", job.sizes.threads,
    )  # fmt: skip
    found = store_score.read_score(score)
    # No text is longer than the context: what goes through the model is what is scored.
    seconds = int(found.n_scored.sum()) / float(found.attributes["tokens_per_second"])
    if not len(found.layers):
        return process, seconds, found.loglik[None]
    return process, seconds, np.vstack([found.layer_loglik, found.loglik])


def _inputs(folder: Path) -> Iterator[object]:
    yield from ("--card", folder / "card.json", "--weights", folder / "weights")
    yield from ("--texts", folder / "texts.jsonl", "--manifest", folder / "texts.json")


def _texts(folder: Path) -> list[str]:
    return [json.loads(line)["text"] for line in (folder / "texts.jsonl").read_bytes().splitlines()]


# Scale


def make_scale(sizes: argparse.Namespace, folder: Path) -> None:
    """A map of families with sizes, seeds and fine-tunes, and quantised models off it."""
    rng = np.random.default_rng(0)
    universe = Universe(sizes.map_texts)

    def near(loglik: Floats, how: str) -> Floats:
        return loglik + rng.normal(0, NEAR[how] * universe.unit, len(loglik))

    models: list[Model] = []
    values = np.empty((sizes.models, sizes.map_texts))
    for place in range(sizes.models):
        family, number = divmod(place, FAMILY)
        first, stem = family * FAMILY, f"org{family}/base"
        child = number - len(SIZES) - SEEDS
        base: tuple[str, ...] = ()
        if number < len(SIZES):
            id_, loglik = f"{stem}-{SIZES[number]}b", universe.loglik(place)
        elif child < 0:
            id_, loglik = f"{stem}-1b-seed{number}", near(values[first], "seed")
        else:
            parent = child % len(SIZES)
            id_, base = f"user{number}/tuned-{family}-{number}", (f"{stem}-{SIZES[parent]}b",)
            loglik = near(values[first + parent], "child")
        values[place] = loglik
        models.append(_model(id_, family=stem, base_model=base))
    threshold = geometry.clip_threshold(values)
    _write(folder, "matrix.h5", "models.tsv", values, models, universe, threshold)
    # Models of all families, each in all methods before the next one.
    sources = range(0, sizes.models, max(1, sizes.models * len(METHODS) // sizes.quantised))
    chosen = list(itertools.product(sources, METHODS))[: sizes.quantised]
    rows = [
        _model(models[source].id, family=models[source].family, variant=method)
        for source, method in chosen
    ]
    lowered = np.stack([near(values[source], method) for source, method in chosen])
    _write(folder, "offmap.h5", "offmap.tsv", lowered, rows, universe, threshold)


def _model(id_: str, **known: Any) -> Model:
    parts = filter(None, (id_.replace("/", "--"), known.get("variant", "")))
    return Model(
        model="--".join(parts), id=id_, dtype="float32", prefix="default", overlength="window",
        relation="finetune" if known.get("base_model") else "", noise_nats=NOISE, **known,
    )  # fmt: skip


def _write(
    folder: Path, matrix: str, table: str, values: Floats, models: Sequence[Model],
    universe: Universe, threshold: float,
) -> None:  # fmt: skip
    made = collected(values)
    made.model = [model.model for model in models]
    made.domain = [f"domain-{text % DOMAINS}" for text in range(values.shape[1])]
    made.n_bytes = universe.lengths.astype(np.int32)
    made.mean_bytes, made.clip_threshold = float(universe.lengths.mean()), threshold
    made.noise = np.full(len(models), NOISE)
    store.write_matrix(folder / matrix, made)
    models_table.write_models(folder / table, models)


def scale(job: Job) -> None:
    say("scale: making a matrix")
    job.way("make-scale", job.root)
    print(
        f"\n### Pairs of models\n\n{job.sizes.models:,} models on the map, {job.sizes.quantised} "
        f"quantised ones off it, {job.sizes.map_texts:,} texts.\n"
    )
    print("| analysis | seconds | peak memory (GB) | |\n|---|---:|---:|---|")
    given = [
        part
        for option, name in (
            ("matrix", "matrix.h5"),
            ("models", "models.tsv"),
            ("offmap", "offmap.h5"),
            ("offmap-models", "offmap.tsv"),
        )
        for part in (f"--{option}", job.root / name)
    ]
    for name in ("scale", "quantization"):
        folder = job.root / name
        process = job.script(name, *given, "--folder", folder)
        if name == "scale":
            table = files.read_tsv(folder / "scale.tsv")
            pairs = sum(int(line["pairs"]) for line in table)
            note = f"{pairs:,} pairs of {len(table)} relations"
        else:
            note = f"{len(files.read_tsv(folder / 'shift.tsv'))} shifts, cosines of all pairs"
        row(f"`{name}`", f"{process.seconds:.1f}", gigabytes(process), note)


# Sketches and merges


def make_parents(sizes: argparse.Namespace, folder: Path) -> None:
    """Two checkpoints, and the card of what is between them."""
    import score_inputs
    import torch
    from transformers import AutoModelForCausalLM

    from klmap import cards, merging

    torch.set_num_threads(sizes.threads)
    torch.manual_seed(1)
    one, other = folder / "one" / "model", folder / "other" / "model"
    for model in (one, other):
        model.mkdir(parents=True)
        for tokenizer in (folder.parent / "models" / PAIR[0].key / "model").glob("tokenizer*"):
            shutil.copyfile(tokenizer, model / tokenizer.name)
    score_inputs.write_weights(one, replace(MERGED, layers=sizes.blocks))
    moved = AutoModelForCausalLM.from_pretrained(one, dtype="auto")
    for parameter in moved.parameters():
        parameter.data += SHIFT * torch.randn_like(parameter)
    moved.save_pretrained(other)
    made = [_resolved(model.parent.name, model.parent) for model in (one, other)]
    cards.write_card(folder / "card.json", merging.merge_card("merge/both-0.5", made, [0.5, 0.5]))


def sketch_parents(_: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Sketches of both checkpoints, as a scoring job makes one."""
    from klmap import scorer_sketch

    found = []
    for name in ("one", "other"):
        start = time.monotonic()
        sketch = scorer_sketch.sketch_folder(folder / name / "weights")
        assert sketch is not None
        seconds = time.monotonic() - start
        values = sketch.values.tolist()
        found.append({"seconds": seconds, "parameters": sketch.parameters, "values": values})
    return found


def compare_weights(_: argparse.Namespace, folder: Path) -> float:
    """The exact squared distance of both checkpoints."""
    total = 0.0
    for one, other in _tensors(folder / "one" / "weights", folder / "other" / "weights"):
        for begin in range(0, len(one), 1024):
            part = one[begin : begin + 1024].double() - other[begin : begin + 1024].double()
            total += float((part * part).sum())
    return total


def sketch_run(_: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Errors of all squared distances between the checkpoints of a small run.

    Rows and columns of its weights move by unequal amounts, as those of real ones do.
    """
    import torch
    from safetensors.torch import save_file

    from klmap import scorer_sketch

    rng = torch.Generator().manual_seed(0)
    shapes = {"model.embed_tokens.weight": (4096, WIDTH)}
    shapes |= {f"model.layers.{n}.mlp.up_proj.weight": (3 * WIDTH, WIDTH) for n in range(4)}
    state = {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}
    speed = {
        name: torch.randn(rows, 1, generator=rng).exp() * torch.randn(columns, generator=rng).exp()
        for name, (rows, columns) in shapes.items()
    }
    weights, sketches = [], []
    for number in range(CHECKPOINTS):
        for name, tensor in state.items():
            tensor += 0.01 * speed[name] * torch.randn(tensor.shape, generator=rng)
        to = folder / f"step{number}"
        to.mkdir()
        save_file(state, to / "model.safetensors")
        sketch = scorer_sketch.sketch_folder(to)
        assert sketch is not None
        shutil.rmtree(to)
        sketches.append(sketch.values)
        weights.append(torch.cat([tensor.flatten() for tensor in state.values()]))
    off = [
        ((sketches[a] - sketches[b]) ** 2).sum()
        / float((weights[a] - weights[b]).double().square().sum())
        - 1
        for a, b in itertools.combinations(range(CHECKPOINTS), 2)
    ]
    return {
        "pairs": len(off),
        "parameters": len(weights[0]),
        "rms": math.sqrt(np.mean(np.square(off))),
        "largest": float(np.abs(off).max()),
    }


def loop_merge(sizes: argparse.Namespace, folder: Path) -> None:
    """The loop that people write: both models in memory."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(sizes.threads)
    one, other = (
        AutoModelForCausalLM.from_pretrained(folder / name / "model", dtype="auto")
        for name in ("one", "other")
    )
    theirs = other.state_dict()
    averaged = {name: (own + theirs[name]) / 2 for name, own in one.state_dict().items()}
    one.load_state_dict(averaged)
    one.save_pretrained(folder / "loop")


def compare_merges(_: argparse.Namespace, folder: Path) -> float:
    """Share of the weights that are not the same to the bit."""
    different = weights = 0
    for one, other in _tensors(folder / "merge" / "weights", folder / "loop"):
        different += int((one != other).sum())
        weights += one.numel()
    return different / weights


def _tensors(first: Path, second: Path) -> Iterator[tuple[Any, Any]]:
    """Tensors of two folders, those of one name together."""
    from safetensors import safe_open

    def places(folder: Path) -> dict[str, Path]:
        found = {}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                found |= dict.fromkeys(file.keys(), path)
        return found

    one, other = places(first), places(second)
    if set(one) != set(other):
        raise SystemExit(f"{first} and {second} hold different tensors: {set(one) ^ set(other)}")
    for name in sorted(one):
        with safe_open(one[name], "pt") as mine, safe_open(other[name], "pt") as theirs:
            yield mine.get_tensor(name), theirs.get_tensor(name)


def weights(job: Job) -> None:
    job.models()
    say("sketch, merge: making two checkpoints")
    job.way("make-parents", job.root)
    sketching, found = job.way("sketch-parents", job.root)
    _, exact = job.way("compare-weights", job.root)
    _, errors = job.way("sketch-run", job.root)
    size = sum(path.stat().st_size for path in (job.root / "one" / "weights").iterdir())
    count = sum(item["parameters"] for item in found)
    seconds = sum(item["seconds"] for item in found)
    vectors = [np.array(item["values"]) for item in found]
    off = ((vectors[0] - vectors[1]) ** 2).sum() / exact - 1
    print(
        f"\n### Sketches of weights\n\nTwo checkpoints of {size / 1e9:.2f} GB each in bfloat16.\n"
    )
    print("| | |\n|---|---:|")
    row("seconds for a billion weights", f"{seconds / count * 1e9:.1f}")
    row("peak memory (GB), torch and mapped files with it", gigabytes(sketching))
    row("error of the squared distance of both", f"{100 * off:+.2f} %")
    run = (
        f"{errors['pairs']} pairs of {CHECKPOINTS} checkpoints of {errors['parameters']:,} weights"
    )
    row(f"RMS error of squared distances, {run}", f"{100 * errors['rms']:.2f} %")
    row("the largest of them", f"{100 * errors['largest']:.2f} %")
    say("merge")
    (job.root / "merge").mkdir()
    merged = job.script(
        "merge", "--card", job.root / "card.json",
        "--parents", *(job.root / name / "weights" for name in ("one", "other")),
        "--weights", 0.5, 0.5, "--out", job.root / "merge" / "weights",
    )  # fmt: skip
    loop, _ = job.way("loop-merge", job.root)
    _, different = job.way("compare-merges", job.root)
    print("\n### A merge of both\n\n| way | seconds | ratio | peak memory (GB) | |")
    print("|---|---:|---:|---:|---|")
    row("`merge`", f"{merged.seconds:.1f}", "1.00", gigabytes(merged), "")
    row(
        "both state dicts, their mean, `save_pretrained`",
        *(f"{loop.seconds:.1f}", f"{loop.seconds / merged.seconds:.2f}", gigabytes(loop)),
        f"{100 * different:.2g} % of the weights are others",
    )


# Exact divergence


def loop_pair(sizes: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The loop that people write: whole log-softmaxes of both models, one text at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(sizes.threads)
    tokenizer = AutoTokenizer.from_pretrained(folder / "first" / "model")
    models = [
        AutoModelForCausalLM.from_pretrained(folder / name / "model", dtype=torch.float32).eval()
        for name in ("first", "second")
    ]
    totals = []
    with torch.no_grad():
        for text in _texts(folder / "first"):
            ids = tokenizer(text, return_tensors="pt").input_ids
            one, other = (torch.log_softmax(model(ids).logits[0, :-1], dim=-1) for model in models)
            forth = (one.exp() * (one - other)).sum()
            back = (other.exp() * (other - one)).sum()
            totals.append([float(forth), float(back)])
    return {"kl": np.transpose(totals).tolist()}


def divergence(job: Job) -> None:
    models = job.models()
    say("divergence")
    first, second = (models / shape.key for shape in PAIR)
    number = job.sizes.kl_texts
    spec = {"kind": "divergence", "number": number, "pair": [SPEC, SPEC]}
    output = job.root / f"bench--first~bench--second.{fingerprint(spec)}.h5"
    klmap = job.script(
        "divergence", "--cards", first / "card.json", second / "card.json",
        "--weights", first / "weights", second / "weights",
        "--models", "bench--first", "bench--second", "--specs", *([json.dumps(SPEC)] * 2),
        "--texts", first / "texts.jsonl", "--manifest", first / "texts.json", "--number", number,
        "--spec", json.dumps(spec), "--divergence", output,
        "--device", "cpu", "--threads", job.sizes.threads,
    )  # fmt: skip
    exact = store_divergence.read_divergence(output)
    loop, found = job.way("loop-pair", models)
    off = np.abs(np.array(found["kl"]) / exact.kl - 1).max()
    blocks = " and ".join(str(shape.layers) for shape in PAIR)
    print(
        f"\n### Exact divergence\n\nTwo Llamas of {blocks} blocks of width {PAIR[0].width}, with a "
        f"vocabulary of {PAIR[0].vocabulary:,}, on {number} texts with "
        f"{int(exact.n_scored.sum()):,} scored tokens.\n"
    )
    print("| way | seconds | ratio | peak memory (GB) | |\n|---|---:|---:|---:|---|")
    row("`divergence`, both models in float32, sums in float64",
        f"{klmap.seconds:.1f}", "1.00", gigabytes(klmap), "")  # fmt: skip
    row(
        "both log-softmaxes whole, one text at a time, float32",
        *(f"{loop.seconds:.1f}", f"{loop.seconds / klmap.seconds:.2f}", gigabytes(loop)),
        f"at most {off:.1g} of a text's KL off klmap",
    )


WAYS: dict[str, Callable[[argparse.Namespace, Path], Any]] = {
    "make-models": make_models,
    "loop-layers": loop_layers,
    "make-scale": make_scale,
    "make-parents": make_parents,
    "sketch-parents": sketch_parents,
    "compare-weights": compare_weights,
    "sketch-run": sketch_run,
    "loop-merge": loop_merge,
    "compare-merges": compare_merges,
    "loop-pair": loop_pair,
}
"""What this script does in processes of its own."""

PARTS: dict[str, Callable[[Job], None]] = {
    "layers": layers,
    "scale": scale,
    "weights": weights,
    "divergence": divergence,
}


def main() -> None:
    """Parse the arguments, measure, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--texts", type=int, default=12, help="that models with layers score")
    parser.add_argument(
        "--layer-jobs", type=int, default=2, help="of those with one layer, that stand for all"
    )
    parser.add_argument("--models", type=int, default=1018, help="on the map")
    parser.add_argument("--quantised", type=int, default=200, help="models off the map")
    parser.add_argument("--map-texts", type=int, default=10_000)
    parser.add_argument("--blocks", type=int, default=16, help="of each parent: 57 MB each")
    parser.add_argument("--kl-texts", type=int, default=100, help="of the exact divergence")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--way", choices=WAYS, help="do this alone, as this script asks itself")
    parser.add_argument("--folder", type=Path, help="where files are written for the while")
    args = parser.parse_args()
    if args.way:
        result = WAYS[args.way](args, args.folder)
        (args.folder / f"{args.way}.json").write_text(json.dumps(result))
        return
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    print(
        f"{args.threads} CPU threads. Load of the machine when it began: {os.getloadavg()[0]:.1f}."
    )
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for part in args.parts:
            root = Path(folder) / part
            root.mkdir()
            PARTS[part](Job(args, root))
            shutil.rmtree(root)


if __name__ == "__main__":
    main()

"""Make what the benchmark of prompts scores: pairs of the environment, models, made-up matrices.

Pairs are texts that klmap finds in its own Python environment, cut by `prompt_bytes`. From them
follow two more sets: the responses alone, and the same texts with the border between prompt and
response behind the white space instead of in front of it. A process of its own, because the memory
of the process that starts the others would count as theirs. Prints nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import score_inputs
import torch
import transformers
from bench_geometry import collected
from bench_prompts import ALONE, BEHIND, COMPOSED, EDITS, MASKED, PAIRED
from scale_data import Universe
from score_shapes import SHAPES
from tokenizers import AddedToken, Tokenizer, processors

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from klmap import (
    cards,
    fetch,
    files,
    geometry,
    models_table,
    resolve,
    scorer_kind,
    store,
    texts,
    tokens,
    tokens_texts,
)
from klmap.arrays import Floats
from klmap.config_texts import EnvironmentTexts
from klmap.likelihoods import CAUSAL
from klmap.models_table import Model

PROMPT_BYTES = 256
MASKED_BYTES = 100, 250
"""Of a text, which a masked model reads as often as it has tokens."""

SPECIAL = ("[CLS]", "[SEP]", "[MASK]")
ENTRIES, CONTEXT = 8192, 512
"""Of the masked model: its tokenizer, and its longest input."""

SHIFT, OWN = 0.3, 0.15
"""How far an edit moves all models alike, and each by itself; roots of bits per byte."""

DOMAINS, FAMILY, NOISE = 8, 30, 0.01


def write_set(folder: Path, rows: list[dict[str, Any]], manifest: dict[str, Any]) -> None:
    """Write texts.jsonl and the manifest that vouches for it."""
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    folder.mkdir(exist_ok=True)
    (folder / "texts.jsonl").write_text(data, encoding="utf-8")
    files.write_json(
        folder / "texts.json",
        {
            **manifest,
            "sha256": hashlib.sha256(data.encode()).hexdigest(),
            "mean_bytes": sum(row["n_bytes"] for row in rows) / len(rows),
        },
    )


def alone(row: dict[str, Any]) -> dict[str, Any]:
    """A response without its prompt."""
    return {key: value for key, value in row.items() if key not in ("prompt", "messages")}


def behind(row: dict[str, Any]) -> dict[str, Any]:
    """The same text, whose response begins behind the white space in front of it."""
    text = row["text"].lstrip()
    prompt = row["prompt"] + row["text"][: len(row["text"]) - len(text)]
    messages = [{**row["messages"][0], "content": prompt}]
    size = len(text.encode())
    return {**row, "text": text, "n_bytes": size, "prompt": prompt, "messages": messages}


def resolved(folder: Path, likelihood: str = CAUSAL) -> None:
    """What klmap makes of the folder ``model``: card.json, weights."""
    model = folder / "model"
    card = resolve.resolve_or_explain("bench/model", None, model, likelihood=likelihood)
    cards.write_card(folder / "card.json", card)
    fetch.fetch(card, folder / "weights", model)


def count(folder: Path, likelihood: str = CAUSAL) -> None:
    """Write counts.json: how many texts, and how many tokens go through a model for them."""
    found = texts.read_texts(folder / "texts.jsonl", folder / "texts.json")
    likely = scorer_kind.find(likelihood)
    tokenizer = tokens.load_tokenizer(folder / "weights")
    reading = tokens_texts.read(
        tokenizer, folder / "weights", found, prefix="default", overlength="window",
        limit=likely.limit(folder / "weights"), encode=likely.encode,
    )  # fmt: skip
    lengths = [len(sequence) for sequence in reading.sequences]
    # A causal model need not read the last token; a masked one reads all of them for each token.
    if likelihood == CAUSAL:
        passed = sum(length - 1 for length in lengths)
    else:
        around = len(tokenizer.before) + len(tokenizer.after)
        passed = sum(length * (length - around) for length in lengths)
    (folder / "counts.json").write_text(json.dumps({"texts": len(found), "passed": passed}))


def make_pairs(root: Path, key: str, number: int) -> None:
    """Pairs, what follows from them, and a causal model that all three sets share."""
    folder = root / PAIRED
    (folder / "model").mkdir(parents=True)
    recipe = EnvironmentTexts(
        source="environment",
        n=number,
        min_bytes=score_inputs.SMALLEST,
        max_bytes=score_inputs.LARGEST,
        prompt_bytes=PROMPT_BYTES,
    )
    texts.build(recipe, folder / "texts.jsonl", folder / "texts.json")
    shape = SHAPES[key]
    score_inputs.write_weights(folder / "model", shape)
    entries = min(shape.vocabulary, score_inputs.TRAINED_ENTRIES)
    score_inputs.write_tokenizer(folder / "model", entries)
    resolved(folder)
    rows = [json.loads(line) for line in (folder / "texts.jsonl").read_bytes().splitlines()]
    manifest = files.read_json(folder / "texts.json")
    about_prompts = ("mean_prompt_bytes", "template", "separator")
    plain = {name: value for name, value in manifest.items() if name not in about_prompts}
    write_set(root / ALONE, [alone(row) for row in rows], plain)
    write_set(root / BEHIND, [behind(row) for row in rows], manifest)
    for name in (ALONE, BEHIND):
        for part in ("model", "weights", "card.json"):
            (root / name / part).symlink_to(folder / part)
    for name in (PAIRED, ALONE, BEHIND):
        count(root / name)


def make_masked(root: Path, number: int) -> None:
    """Short texts and a BERT with random weights, whose logits are spread like a trained one's."""
    folder = root / MASKED
    model = folder / "model"
    model.mkdir(parents=True)
    smallest, largest = MASKED_BYTES
    recipe = EnvironmentTexts(source="environment", n=number, min_bytes=smallest, max_bytes=largest)
    texts.build(recipe, folder / "texts.jsonl", folder / "texts.json")
    score_inputs.write_tokenizer(model, ENTRIES)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(token, ids[token]) for token in SPECIAL[:2]]
    )
    tokenizer.save(str(model / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.manual_seed(0)
    width = 256
    config = transformers.BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=width,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=4 * width,
        max_position_embeddings=CONTEXT,
        initializer_range=score_inputs.WEIGHT_STD,
    )
    made = transformers.BertForMaskedLM(config)
    spread = score_inputs.LOGIT_STD / (score_inputs.WEIGHT_STD * width**0.5)
    made.cls.predictions.transform.LayerNorm.weight.data.fill_(spread)
    made.save_pretrained(model)
    resolved(folder, "masked")
    count(folder, "masked")


def make_matrices(root: Path, models: int, number: int) -> None:
    """A map, and a matrix of each edit: a shift common to all models, and one of each model's own.

    The composed edit shifts by the sum of its parts, and by something of its own.
    """
    universe = Universe(number)
    loglik = np.stack([universe.loglik(row) for row in range(models)])
    threshold = geometry.clip_threshold(loglik)
    rows = [
        Model(
            model=f"org{row // FAMILY}--model-{row:05d}", id=f"org{row // FAMILY}/model-{row:05d}",
            family=f"family-{row // FAMILY}", dtype="float32", prefix="default",
            overlength="window", noise_nats=NOISE,
        )
        for row in range(models)
    ]  # fmt: skip
    rng = np.random.default_rng(4)

    def shift() -> Floats:
        own = rng.normal(0, OWN * universe.unit, loglik.shape)
        return own + rng.normal(0, SHIFT * universe.unit, number)

    def write(name: str, values: Floats) -> None:
        made = collected(values)
        made.model = [row.model for row in rows]
        made.domain = [f"domain-{text % DOMAINS}" for text in range(number)]
        made.n_bytes = universe.lengths.astype(np.int32)
        made.mean_bytes, made.clip_threshold = float(universe.lengths.mean()), threshold
        made.noise = np.full(models, NOISE)
        store.write_matrix(root / name / "matrix.h5", made)

    for name in ("chat", *EDITS):
        (root / name).mkdir()
    write("chat", loglik)
    models_table.write_models(root / "chat" / "models.tsv", rows)
    parts = COMPOSED.partition("=")[2].split(",")
    added = np.zeros_like(loglik)
    for name in EDITS:
        if COMPOSED.startswith(f"{name}="):
            write(name, loglik + added + rng.normal(0, OWN * universe.unit, loglik.shape))
            continue
        moved = shift()
        if name in parts:
            added += moved
        write(name, loglik + moved)


def main() -> None:
    """Parse the arguments and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where to")
    parser.add_argument("--model", choices=SHAPES, help="shape of the model that scores pairs")
    parser.add_argument("--pairs", type=int, default=0, help="how many")
    parser.add_argument("--masked", type=int, default=0, help="texts of the masked model")
    parser.add_argument("--models", type=int, default=0, help="of the made-up matrices")
    parser.add_argument("--texts", type=int, default=0, help="of these")
    arguments = parser.parse_args()
    if arguments.pairs:
        make_pairs(arguments.folder, arguments.model, arguments.pairs)
    if arguments.masked:
        make_masked(arguments.folder, arguments.masked)
    if arguments.models:
        make_matrices(arguments.folder, arguments.models, arguments.texts)


if __name__ == "__main__":
    main()

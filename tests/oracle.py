"""Scores by the slow, plain way, and jobs to compare with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from klmap import cards, fetch, resolve, scorer, store_score
from klmap.config import fingerprint
from tests.builders import sample_texts


def make_job(folder: Path, model: Path, texts: Sequence[str] | None = None, **spec: Any) -> Any:
    """A scoring job for a model folder, with its card, weights and texts made."""
    folder.mkdir(parents=True, exist_ok=True)
    if texts is None:
        texts = [text for text, _ in sample_texts(12)]
    rows = [
        {"index": number, "text": text, "domain": "all", "n_bytes": len(text.encode())}
        for number, text in enumerate(texts)
    ]
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "texts.jsonl").write_text(data, encoding="utf-8")
    sha256 = hashlib.sha256(data.encode()).hexdigest()
    (folder / "texts.json").write_text(json.dumps({"n": len(rows), "sha256": sha256}))
    card = resolve.resolve_or_explain("demo/tiny", None, model)
    cards.write_card(folder / "card.json", card)
    fetch.fetch(card, folder / "weights", model)
    full = {"id": "demo/tiny", "dtype": "auto", "prefix": "default", "overlength": "window", **spec}
    return scorer.Job(
        card=folder / "card.json",
        weights=folder / "weights",
        texts=folder / "texts.jsonl",
        manifest=folder / "texts.json",
        model="demo--tiny",
        spec=full,
        output=folder / f"demo--tiny.{fingerprint(full)}.h5",
        device="cpu",
    )


def scored(job: scorer.Job) -> store_score.Score:
    scorer.score(job)
    return store_score.read_score(job.output)


def exact_model(folder: Path, **changes: Any) -> Any:
    """The model in float64, every expert computed on its own; ``changes`` of its configuration."""
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, experts_implementation="eager", **changes
    ).eval()


@torch.no_grad()
def token_logprobs(model: Any, sequence: Sequence[int]) -> np.ndarray:
    """(T - 1,) nats of one text from the model's own logits."""
    ids = torch.tensor([list(sequence)])
    torch.set_default_dtype(torch.float64)  # XGLM makes the smallest float64 in the default dtype
    try:
        logits = model(input_ids=ids, use_cache=False).logits[0].double()
    finally:
        torch.set_default_dtype(torch.float32)
    logprobs = torch.log_softmax(logits[:-1], dim=-1)
    return logprobs.gather(1, ids[0, 1:, None])[:, 0].numpy()


def oracle(folder: Path, sequences: Sequence[Sequence[int]]) -> list[float]:
    """Float64, one text at a time, the model's own logits: slow and plain."""
    model = exact_model(folder)
    return [float(token_logprobs(model, sequence).sum()) for sequence in sequences]


def ids_of(folder: Path, texts: Sequence[str], front: Sequence[int] = ()) -> list[list[int]]:
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    return [[*front, *tokenizer(text, add_special_tokens=False)["input_ids"]] for text in texts]

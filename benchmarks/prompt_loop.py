"""The loops that people write, for responses to prompts and for masked language models.

Responses: one pair at a time, the prompt tokenized alone and together with the response, one
forward pass with the defaults of transformers, and the log-probabilities of all tokens from the
prompt's number of tokens on, summed one by one in Python. Masked: one copy of a text for each of
its tokens, with that token masked, one copy at a time. Writes a JSON file.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

WARM_UP_TOKENS = 64
"""Tokens of the call before the clock starts, as in the plain loop."""


def response(model: Any, ids: torch.Tensor, first: int) -> tuple[float, int]:
    """Nats of the tokens from a position on, and how many these are."""
    logprobs = torch.log_softmax(model(ids).logits[0], dim=-1)
    tokens = ids[0].tolist()
    total = 0.0
    for position in range(first, len(tokens)):
        total += logprobs[position - 1, tokens[position]].item()
    return total, len(tokens) - first


def masked(model: Any, ids: torch.Tensor, mask: int) -> tuple[float, int]:
    """Nats of the tokens between the special ones, each masked alone, and how many these are."""
    total = 0.0
    positions = range(1, ids.shape[1] - 1)
    for position in positions:
        copy = ids.clone()
        copy[0, position] = mask
        logprobs = torch.log_softmax(model(copy).logits[0, position], dim=-1)
        total += logprobs[ids[0, position]].item()
    return total, len(positions)


def main() -> None:
    """Parse the arguments, score, write log-likelihoods and times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of the model")
    parser.add_argument("--texts", type=Path, required=True, help="texts.jsonl")
    parser.add_argument("--dtype", required=True, help="name of a torch dtype")
    parser.add_argument("--device", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--masked", action="store_true", help="a masked language model")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [json.loads(line) for line in arguments.texts.read_bytes().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    loads = AutoModelForMaskedLM if arguments.masked else AutoModelForCausalLM
    model = loads.from_pretrained(arguments.model, dtype=getattr(torch, arguments.dtype))
    model = model.to(arguments.device).eval()
    mask = tokenizer.mask_token_id
    score: Callable[[Any, torch.Tensor, int], tuple[float, int]]
    score = masked if arguments.masked else response
    logliks, scored, tokenizing = [], 0, 0.0
    with torch.no_grad():
        first_batch = time.monotonic()
        warm_up = tokenizer(rows[0]["text"], return_tensors="pt").input_ids[:, :WARM_UP_TOKENS]
        model(warm_up.to(model.device))
        start = time.monotonic()
        for row in rows:
            began = time.monotonic()
            prompt = row.get("prompt", "")
            ids = tokenizer(prompt + row["text"], return_tensors="pt").input_ids.to(model.device)
            before = len(tokenizer(prompt).input_ids)
            tokenizing += time.monotonic() - began
            total, tokens = score(model, ids, mask if arguments.masked else before)
            logliks.append(total)
            scored += tokens
        seconds = time.monotonic() - start - tokenizing
    result = {
        "loglik": logliks,
        "scored": scored,
        "loop_seconds": seconds,
        "first_batch": first_batch,
    }
    arguments.output.write_text(json.dumps(result))


if __name__ == "__main__":
    main()

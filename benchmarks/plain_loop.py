"""The published practice, written out: one text at a time through the whole model.

Every text is tokenized and run with the defaults of transformers (attention mask and cache), a
log-softmax in the dtype of the logits is taken over the vocabulary at every position, and the
tokens' values are gathered one by one in Python. Writes a JSON file.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

WARM_UP_TOKENS = 64
"""Tokens of the call before the clock starts; klmap checks a model on as many while loading."""


def main() -> None:
    """Parse the arguments, score, write log-likelihoods and times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of the model")
    parser.add_argument("--texts", type=Path, required=True, help="texts.jsonl")
    parser.add_argument("--dtype", required=True, help="name of a torch dtype")
    parser.add_argument("--device", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    texts = [json.loads(line)["text"] for line in arguments.texts.read_bytes().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(
        arguments.model, dtype=getattr(torch, arguments.dtype)
    )
    model = model.to(arguments.device).eval()
    logliks, scored, tokenizing = [], 0, 0.0
    with torch.no_grad():
        first_batch = time.monotonic()
        warm_up = tokenizer(texts[0], return_tensors="pt").input_ids[:, :WARM_UP_TOKENS]
        model(warm_up.to(model.device))
        start = time.monotonic()
        for text in texts:
            began = time.monotonic()
            inputs = tokenizer(text, return_tensors="pt").to(model.device)
            tokenizing += time.monotonic() - began
            logprobs = torch.log_softmax(model(**inputs).logits[0], dim=-1)
            ids = inputs["input_ids"][0].tolist()
            total = 0.0
            for position in range(1, len(ids)):
                total += logprobs[position - 1, ids[position]].item()
            logliks.append(total)
            scored += len(ids) - 1
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

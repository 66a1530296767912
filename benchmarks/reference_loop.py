"""Log-likelihoods to measure errors against: a few texts, one at a time, in high precision.

Gives two sums per text: of all tokens but the first, as a tokenizer that adds nothing leaves it,
and of all tokens behind a beginning-of-sequence token. Writes a JSON file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    """Parse the arguments, score, write the sums by the number of the text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of the model")
    parser.add_argument("--texts", type=Path, required=True, help="texts.jsonl")
    parser.add_argument("--count", type=int, required=True, help="texts, spread over the set")
    parser.add_argument("--dtype", required=True, help="name of a torch dtype")
    parser.add_argument("--device", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lines = arguments.texts.read_bytes().splitlines()
    count = min(arguments.count, len(lines))
    chosen = [number * len(lines) // count for number in range(count)]
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(
        arguments.model, dtype=getattr(torch, arguments.dtype)
    )
    model = model.to(arguments.device).eval()

    @torch.no_grad()
    def loglik(ids: list[int]) -> float:
        tensor = torch.tensor([ids], device=model.device)
        logprobs = torch.log_softmax(model(tensor, use_cache=False).logits[0, :-1], dim=-1)
        return float(logprobs.gather(1, tensor[0, 1:, None]).double().sum())

    result: dict[str, list[float]] = {"number": chosen, "default": [], "bos": []}
    for number in chosen:
        ids = tokenizer(json.loads(lines[number])["text"], add_special_tokens=False)["input_ids"]
        result["default"].append(loglik(ids))
        result["bos"].append(loglik([tokenizer.bos_token_id, *ids]))
    arguments.output.write_text(json.dumps(result))


if __name__ == "__main__":
    main()

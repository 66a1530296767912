"""klmap's scorer beside the plain loop, on the same random model and the same texts.

The plain loop is the published practice: one text at a time through the whole model, log-softmax
over all positions, and the tokens' values gathered one by one in Python. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from klmap import scorer_precision, scorer_run


def random_llama(folder: Path, width: int, layers: int, vocabulary: int) -> None:
    """A Llama of the given shape with random weights."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        intermediate_size=width * 8 // 3,
        num_attention_heads=width // 64,
        num_key_value_heads=max(width // 192, 1),
        vocab_size=vocabulary,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


@torch.inference_mode()
def plain_loop(folder: Path, sequences: list[list[int]]) -> np.ndarray:
    """(N,) nats, the published way."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    sums = []
    for sequence in sequences:
        logprobs = torch.log_softmax(model(torch.tensor([sequence])).logits[0], dim=-1)
        sums.append(sum(logprobs[t - 1, sequence[t]].item() for t in range(1, len(sequence))))
    return np.array(sums)


def klmap_way(folder: Path, sequences: list[list[int]]) -> np.ndarray:
    """(N,) nats, with klmap's scorer."""
    model = scorer_precision.load(
        folder,
        wanted="float32",
        stored="float32",
        parameters=0,
        device="cpu",
        sequences=sequences,
        limit=2048,
    )
    plan = scorer_run.make_plan(sequences, 2048)
    tokens, _ = scorer_run.score_tokens(model, plan, scorer_run.CPU_BATCH_TOKENS)
    return scorer_run.text_sums(tokens, plan.offset)


def main() -> None:
    """Parse the arguments, measure both, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=24)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rng = np.random.default_rng(0)
    print("| model | plain loop, tokens/s | klmap, tokens/s | ratio | largest difference |")
    print("|---|---:|---:|---:|---:|")
    for name, shape in {
        "Llama, 7M parameters, vocabulary 8k": (256, 4, 8192),
        "Llama, 135M parameters, vocabulary 49k": (576, 30, 49152),
    }.items():
        lengths = rng.integers(150, 350, arguments.texts)
        sequences = [rng.integers(0, shape[2], length).tolist() for length in lengths]
        with tempfile.TemporaryDirectory() as folder:
            random_llama(Path(folder), *shape)
            found = {}
            for way in (plain_loop, klmap_way):
                way(Path(folder), sequences[:2])
                start = time.perf_counter()
                found[way] = (way(Path(folder), sequences), time.perf_counter() - start)
        (slow, slow_seconds), (fast, fast_seconds) = found[plain_loop], found[klmap_way]
        tokens = int(lengths.sum())
        print(
            f"| {name} | {tokens / slow_seconds:,.0f} | {tokens / fast_seconds:,.0f} "
            f"| {slow_seconds / fast_seconds:.2f} | {np.abs(slow - fast).max():.1e} nats |"
        )


if __name__ == "__main__":
    main()

"""lm-eval's ``loglikelihood_rolling`` on the benchmark's texts, driven in process.

Runs in lm-eval's own virtual environment and imports nothing of klmap. lm-eval puts the
beginning-of-sequence token in front of a text and scores every token behind it, as klmap does
with ``prefix: bos``. Texts with prompts are requests of ``loglikelihood`` instead, the prompt being
the context and the response the continuation. Writes a JSON file.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

WARM_UP_TOKENS = 64
"""Tokens of the call before the clock starts, as in the plain loop."""


class TimedModel(HFLM):
    """lm-eval's model, which remembers when it was first called.

    Attributes:
        first_call: seconds on the monotonic clock; None before the first call.
        scored: tokens whose log-probability was asked for.
    """

    first_call: float | None = None
    scored: int = 0

    def _model_call(self, inps: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        if self.first_call is None:
            self.first_call = time.monotonic()
        return super()._model_call(inps, *rest, **options)

    def _loglikelihood_tokens(self, requests: Any, *rest: Any, **options: Any) -> Any:
        self.scored += sum(len(continuation) for _, _, continuation in requests)
        return super()._loglikelihood_tokens(requests, *rest, **options)


def main() -> None:
    """Parse the arguments, score, write log-likelihoods and times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of the model")
    parser.add_argument("--texts", type=Path, required=True, help="texts.jsonl")
    parser.add_argument("--dtype", required=True, help="name of a torch dtype")
    parser.add_argument("--device", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [json.loads(line) for line in arguments.texts.read_bytes().splitlines()]
    paired = "prompt" in rows[0]
    model = TimedModel(
        pretrained=arguments.model,
        dtype=arguments.dtype,
        device=arguments.device,
        batch_size=arguments.batch_size,
    )
    kind = "loglikelihood" if paired else "loglikelihood_rolling"
    parts = ("prompt", "text") if paired else ("text",)
    requests = [
        Instance(
            request_type=kind, doc={}, arguments=tuple(row[part] for part in parts), idx=number
        )
        for number, row in enumerate(rows)
    ]
    first_batch = time.monotonic()
    warm_up = model.tok_encode(rows[0]["text"])[:WARM_UP_TOKENS]
    model._model_call(torch.tensor([warm_up], device=arguments.device))
    model.first_call = None
    logliks = getattr(model, kind)(requests, disable_tqdm=True)
    end = time.monotonic()
    if paired:
        logliks = [value for value, _ in logliks]
    assert model.first_call is not None
    result = {
        "loglik": [float(value) for value in logliks],
        "scored": model.scored,
        "loop_seconds": end - model.first_call,
        "first_batch": first_batch,
    }
    arguments.output.write_text(json.dumps(result))


if __name__ == "__main__":
    main()

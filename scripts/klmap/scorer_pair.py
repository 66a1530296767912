"""A job of two models at one time: what is asked for, what is there, how it ends.

``scorer_divergence`` and ``scorer_samples`` say what is computed of a pair; what comes before and
after is the same for both, and stands here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from huggingface_hub import constants

from klmap import fetch, scorer_code, scorer_job
from klmap.cards import Card, read_card
from klmap.config import fingerprint
from klmap.errors import InputError, KlmapError, PermanentFailure, UnsupportedHere
from klmap.files import read_json
from klmap.log import logger
from klmap.store_pair import PairFile

if TYPE_CHECKING:
    from klmap.scorer_as_causal import CausalModel

F = TypeVar("F", bound=PairFile)


@dataclass(frozen=True)
class Side:
    """One of the two models.

    Attributes:
        card: its card.json.
        weights: folder with the files the card names, or with a file that says why there are none.
        model: its name on the map.
        spec: the settings of its score.
    """

    card: Path
    weights: Path
    model: str
    spec: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the job of one pair is asked to do.

    Attributes:
        sides: the two models.
        texts: texts.jsonl.
        manifest: texts.json.
        spec: settings that the fingerprint hashes.
        output: ``<first>~<second>.<fingerprint>.h5``.
        skip_failures: write a file with status ``failed`` instead of raising.
        refusal: why the machines that may be asked for do not hold both models; empty where they
            do.
        batch_tokens: tokens per batch; None chooses by device.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads.
    """

    sides: tuple[Side, Side]
    texts: Path
    manifest: Path
    spec: dict[str, Any]
    output: Path
    skip_failures: bool = False
    refusal: str = ""
    batch_tokens: int | None = None
    device: str = "auto"
    threads: int = 1

    @property
    def named(self) -> scorer_job.Job:
        """The pair as a job of one model, for what is kept of failures and checked of names."""
        return scorer_job.Job(
            self.sides[0].card, self.sides[0].weights, self.texts, self.manifest,
            "~".join(side.model for side in self.sides), self.spec, self.output,
        )  # fmt: skip

    @property
    def is_remote(self) -> bool:
        """Whether code of a repository may be run."""
        return any(side.spec.get("remote_code") for side in self.sides)


def run(
    rule: str,
    job: Job,
    make: type[F],
    read: Callable[[Path], F],
    write: Callable[[Path, F], None],
    compute: Callable[[list[Card], F], None],
) -> None:
    """Compute what is asked for of a pair, unless it is there, and write it.

    Args:
        rule: whose job this is.
        job: what is asked for.
        make: what a file holds.
        read: reads such a file.
        write: writes one.
        compute: given the cards of both models, fills what is written.

    Raises:
        InputError: the file name does not belong to the settings, or an input is broken.
        PermanentFailure: it can never be computed of this pair; the reason stands beside the
            output. With ``skip_failures`` a file with status ``failed`` is written instead.
        KlmapError: memory does not suffice.
        OSError: the machine's trouble; try again.
    """
    named = job.named
    scorer_job.check_name(named)
    cards = [read_card(side.card) for side in job.sides]
    sha256 = str(read_json(job.manifest).get("sha256"))
    result = make(
        job.sides[0].model, job.sides[1].model, [_commit(named, card) for card in cards], sha256,
        fingerprint(job.spec), job.spec,
    )  # fmt: skip
    if _is_finished(job.output, result, read):
        logger.info("%s: finished already", job.output)
        return
    both = dataclasses.replace(cards[0], commit="~".join(result.commits))
    try:
        scorer_job.raise_again(named, both, sha256)
        with _memory(rule):
            compute(cards, result)
    except PermanentFailure as failure:
        if not job.skip_failures:
            if not isinstance(failure, UnsupportedHere):
                scorer_job.leave_reason(named, both, sha256, str(failure))
            raise
        logger.error("%s", failure)
        result.status, result.error = "failed", str(failure)
    write(job.output, result)
    if result.status == "ok":
        named.failure.unlink(missing_ok=True)


def _commit(named: scorer_job.Job, card: Card) -> str:
    """Commit of a model, with the file of its chat template where texts are rendered by that."""
    template = scorer_job.template_of(named, card)
    return card.commit if template is None else f"{card.commit}+{template[:12]}"


def _is_finished(path: Path, wanted: PairFile, read: Callable[[Path], F]) -> bool:
    """Whether the file is there, for these commits, texts and settings."""
    if not path.is_file():
        return False
    try:
        found = read(path)
    except InputError as error:
        logger.warning("%s; it is written again", error)
        return False
    return found.is_of(wanted) and found.status == "ok"


@contextlib.contextmanager
def _memory(rule: str) -> Iterator[None]:
    """Say what helps where two models at a time are too much.

    Raises:
        KlmapError: memory does not suffice.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = " ".join(str(error).split())[:300]
        if isinstance(error, RuntimeError) and "out of memory" not in text:
            raise
        raise KlmapError(
            "memory does not suffice for both models at one time: "
            f"{text or 'this process gets no more'}. On a cluster each attempt asks for more; to "
            f"begin with more, give for instance --set-resources {rule}:mem_mb=64000, or set "
            "hardware.gpu_memory_gb to what one GPU has"
        ) from error


def begin(job: Job, cards: Sequence[Card]) -> None:
    """Refuse what cannot be loaded, and say what libraries read when they are imported.

    Raises:
        PermanentFailure: a model has no weights.
        UnsupportedHere: no machine that may be asked for holds both.
    """
    for side, card in zip(job.sides, cards, strict=True):
        reason = card.error or fetch.failure_in(side.weights)
        if reason:
            raise PermanentFailure(f"{side.model}: {reason}")
    if job.refusal:
        raise UnsupportedHere(job.refusal)
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True  # read when huggingface_hub was imported
    os.environ["RAYON_NUM_THREADS"] = str(job.threads)
    if job.is_remote:
        scorer_code.isolate()


def permitted(job: Job, cards: Sequence[Card]) -> list[bool]:
    """Of either model, whether its code is run.

    Raises:
        PermanentFailure: it needs code that may not be run.
    """
    return [
        scorer_code.permit(side.weights, card, bool(side.spec.get("remote_code")))
        for side, card in zip(job.sides, cards, strict=True)
    ]


def limit_of(job: Job) -> int | None:
    """Longest input of both models in tokens; None where neither has a limit."""
    from klmap import scorer_load

    limits = [scorer_load.context_of(side.weights) for side in job.sides]
    return min((known for known in limits if known is not None), default=None)


def load(
    job: Job,
    cards: Sequence[Card],
    sequences: Sequence[Sequence[Sequence[int]]],
    limit: int | None,
    device: str,
) -> tuple[tuple[CausalModel, CausalModel], list[str]]:
    """Both models in the dtypes of their scores, and why they have these.

    Args:
        job: of the pair.
        cards: of both models.
        sequences: for either the token ids of some texts as it reads them.
        limit: longest input of both in tokens; None without one.
        device: ``cpu`` or ``cuda``.

    Raises:
        PermanentFailure: a model cannot be loaded, or not as it is configured.
    """
    import torch

    from klmap import scorer_precision

    first, second = (
        scorer_precision.Loading(
            side.weights,
            device,
            ids,
            limit,
            stored=None if card.quantization else card.dtype,
            parameters=card.parameters,
            quantization=_quantization(side, card),
        )
        for side, card, ids in zip(job.sides, cards, sequences, strict=True)
    )
    wanted = [str(side.spec["dtype"]) for side in job.sides]
    one, reason = scorer_precision.load(first, wanted[0])
    dtype, products = one.dtype, one.products
    if device == "cuda" and "auto" in wanted:
        # A dtype is chosen by loading in several, for which there is room with one model alone.
        del one
        torch.cuda.empty_cache()
        other, other_reason = scorer_precision.load(second, wanted[1])
        one = first.load(dtype)
    else:
        # With one library for both, a model compared with itself has no divergence at all.
        second = dataclasses.replace(second, products=products if device == "cpu" else None)
        other, other_reason = scorer_precision.load(second, wanted[1])
    return (one, other), [reason, other_reason]


def _quantization(side: Side, card: Card) -> str | None:
    method: str | None = side.spec.get("quantization")
    if method and card.quantization:
        raise PermanentFailure(
            f"{side.model}: quantization: {method} cannot be applied to weights that are stored "
            f"quantised ({card.quantization}); remove quantization: from the entry"
        )
    return method


def described(
    job: Job,
    models: Sequence[CausalModel],
    choices: Sequence[str],
    limit: int | None,
    device: str,
    began: float,
) -> dict[str, Any]:
    """What every file of a pair says of how it was computed.

    Args:
        job: of the pair.
        models: loaded.
        choices: why they have their dtypes.
        limit: longest input of both in tokens; None without one.
        device: ``cpu`` or ``cuda``.
        began: when, on the monotonic clock.
    """
    from klmap import scorer_precision

    return {
        "dtype": [model.dtype for model in models],
        "dtype_choice": list(choices),
        "head": [model.head_name for model in models],
        "quantization": [side.spec.get("quantization") or "none" for side in job.sides],
        "precision": [scorer_precision.switches(model) for model in models],
        "context": -1 if limit is None else limit,
        "device": scorer_precision.device_name(device),
        "threads": job.threads,
        "peak_memory": scorer_precision.peak_memory(device),
        "software": scorer_job.software(),
        "seconds": time.monotonic() - began,
    }

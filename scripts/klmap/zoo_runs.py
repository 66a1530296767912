"""The table of the demo zoo: which models are trained, how, and from which parents.

Standard library only: the workflow reads this table every time it starts. Training itself is in
``klmap.zoo``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from klmap.errors import ConfigError

PREFIX = "demo/"
MAIN = "main"
"""The revision of a run's last step, and the only one of a merge."""

Architecture = Literal["gpt2", "llama", "gpt_neox", "mamba2"]
TokenizerName = Literal["bpe", "unigram"]


@dataclass(frozen=True)
class Run:
    """One training run, or a merge of two.

    Attributes:
        name: the run's name; its model is ``demo/<name>``.
        architecture: the model type, as Hugging Face configurations name it.
        tokenizer: ``bpe`` (byte-level, no BOS) or ``unigram`` (SentencePiece-like, with BOS).
        domain: the domain the run leans towards; None keeps to the even mixture.
        seed: seed of the initial weights and of the order of the texts.
        steps: optimiser steps.
        learning_rate: peak learning rate.
        checkpoints: steps before the last that are kept as revisions ``step<n>``.
        parents: the run it starts from, or the runs whose weights it averages.
        family: the name that colours it on the map.
    """

    name: str
    architecture: Architecture
    tokenizer: TokenizerName
    domain: str | None = None
    seed: int = 1
    steps: int = 0
    learning_rate: float = 0.0
    checkpoints: tuple[int, ...] = ()
    parents: tuple[str, ...] = ()
    family: str = ""

    @property
    def is_merge(self) -> bool:
        """Whether the run averages its parents instead of training."""
        return len(self.parents) > 1

    @property
    def revisions(self) -> tuple[str, ...]:
        """The folders the run writes, in the order of training."""
        return (*(f"step{step}" for step in self.checkpoints), MAIN)

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of its models in config.yaml, in the order of training."""
        return tuple(
            f"{PREFIX}{self.name}" + ("" if revision == MAIN else f"@{revision}")
            for revision in self.revisions
        )


def locate(identifier: str, revision: str | None = None) -> tuple[str, str]:
    """The run and the revision folder behind a demo id.

    Args:
        identifier: ``demo/<run>``, without a revision.
        revision: ``step<n>`` or ``main``; None is ``main``.

    Returns:
        The run's name and the folder of the revision inside ``runs/<run>/``.

    Raises:
        ConfigError: there is no such run or no such revision; the message lists those there are.
    """
    name = identifier.removeprefix(PREFIX)
    if not identifier.startswith(PREFIX) or name not in RUNS:
        known = ", ".join(f"{PREFIX}{run}" for run in RUNS)
        raise ConfigError(f"{identifier}: the demo zoo has no such model; it has {known}")
    folder = MAIN if revision is None else revision
    if folder not in RUNS[name].revisions:
        known = ", ".join(RUNS[name].revisions)
        raise ConfigError(f"{identifier}@{revision}: no such revision; {name} has {known}")
    return name, folder


def shipped() -> Iterator[tuple[str, str]]:
    """Every model of the zoo as (id with revision, family), in the table's order."""
    for run in RUNS.values():
        for identifier in run.ids:
            yield identifier, run.family


def _base(name: str, architecture: Architecture, tokenizer: TokenizerName, **rest: object) -> Run:
    return Run(name, architecture, tokenizer, steps=BASE_STEPS, **rest)  # type: ignore[arg-type]


def _tuned(parent: Run, domain: str, label: str, seed: int = 1) -> Run:
    """A fine-tune of a base towards one domain."""
    stem = parent.name.removesuffix("-base")
    return Run(
        name=f"{stem}-{label}",
        architecture=parent.architecture,
        tokenizer=parent.tokenizer,
        domain=domain,
        seed=seed,
        steps=TUNE_STEPS,
        learning_rate=TUNE_RATE,
        parents=(parent.name,),
        family=parent.family,
    )

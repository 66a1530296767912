"""The table of the demo zoo: which models are trained, how, and from which parents.

Standard library only: the workflow reads this table every time it starts. Training itself is in
``klmap.zoo``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from klmap.errors import ConfigError

PREFIX = "demo/"
MAIN = "main"
"""The revision of a run's last step, and the only one of a merge."""

Architecture = Literal["gpt2", "llama", "gpt_neox", "mamba2"]
TokenizerName = Literal["bytelevel", "sentencepiece"]


@dataclass(frozen=True)
class Run:
    """One training run, or a merge of two.

    Attributes:
        name: the run's name; its model is ``demo/<name>``.
        architecture: the model type, as Hugging Face configurations name it.
        tokenizer: ``bytelevel`` (no BOS) or ``sentencepiece`` (with BOS).
        domain: the domain the run leans towards; None keeps to the even mixture.
        seed: seed of the initial weights; all runs read the corpus in one order, as the models
            of the Pythia suite do.
        steps: optimiser steps.
        learning_rate: peak learning rate.
        checkpoints: steps before the last that are kept as revisions ``step<n>``.
        parents: the run it starts from, or the runs whose weights it averages.
        family: the name that colours it on the map.
        layers: depth of the model.
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
    layers: int = 2

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


@dataclass(frozen=True)
class MixedRun(Run):
    """A run whose share of every domain is told, instead of one domain that it leans towards.

    Attributes:
        mixture: domains and their shares, with the sum 1; no other domain is read.
    """

    mixture: tuple[tuple[str, float], ...] = ()


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
    """Every model that the demo maps as (id with revision, family), in the table's order."""
    for run in _TABLE:
        for identifier in run.ids:
            yield identifier, run.family


def _base(
    stem: str,
    architecture: Architecture,
    tokenizer: TokenizerName,
    checkpoints: tuple[int, ...] = (),
    seed: int = 1,
    layers: int = 2,
) -> Run:
    """A run from random weights on the even mixture of all domains."""
    return Run(
        name=f"{stem}-base" if seed == 1 else f"{stem}-base-seed{seed}",
        architecture=architecture,
        tokenizer=tokenizer,
        seed=seed,
        steps=240,
        # State-space layers move slowly at the rate that suits attention.
        learning_rate=2e-3 if architecture == "mamba2" else 1e-3,
        checkpoints=checkpoints,
        family=stem,
        layers=layers,
    )


def _tuned(parent: Run, label: str, checkpoints: tuple[int, ...] = ()) -> Run:
    """A base trained on, at an eighth of the learning rate, towards one domain."""
    return replace(
        parent,
        name=f"{parent.family}-{label}",
        domain=LABELS[label],
        steps=TUNING_STEPS,
        learning_rate=parent.learning_rate / TUNING_DIVISOR,
        checkpoints=checkpoints,
        parents=(parent.name,),
    )


def mixed(parent: Run, name: str, mixture: Mapping[str, float], revision: str = MAIN) -> MixedRun:
    """A run trained on, as fine-tunes are, under chosen shares of the domains.

    Args:
        parent: where it starts.
        name: of the new run.
        mixture: domains and their shares, with the sum 1.
        revision: which revision of the parent.
    """
    root = parent
    while root.parents:
        root = RUNS[root.parents[0]]
    settings = {
        **vars(parent),
        "name": name,
        "domain": None,
        "steps": TUNING_STEPS,
        "learning_rate": root.learning_rate / TUNING_DIVISOR,
        "checkpoints": (),
        "parents": (parent.name if revision == MAIN else f"{parent.name}@{revision}",),
        "mixture": tuple(mixture.items()),
    }
    return MixedRun(**settings)


def _merged(name: str, first: Run, second: Run) -> Run:
    """The average of the weights of two fine-tunes."""
    return replace(
        first,
        name=name,
        domain=None,
        steps=0,
        learning_rate=0.0,
        checkpoints=(),
        parents=(first.name, second.name),
    )


TUNING_STEPS = 45
TUNING_DIVISOR = 8
"""Steps of a fine-tune, and its learning rate as a part of its base's."""

LABELS = {"code": "python", "prose": "docstrings", "headers": "headers", "legal": "licences"}
"""The dominant domain behind each label in a fine-tune's name."""

DOMAINS = (
    "cython", "descriptions", "docstrings", "headers", "javascript", "licences", "python",
)  # fmt: skip
"""All domains of the corpus."""

_GPT2 = _base("gpt2", "gpt2", "bytelevel", (150, 180, 210))
_LLAMA = _base("llama", "llama", "sentencepiece", (150, 180, 210))
# Two layers deep, it would be as near to gpt2 as another seed of gpt2 is.
_NEOX = _base("neox", "gpt_neox", "bytelevel", (180,), layers=1)
_MAMBA = _base("mamba2", "mamba2", "bytelevel", (180,))
_LLAMA_CODE = _tuned(_LLAMA, "code", (15,))
_LLAMA_PROSE = _tuned(_LLAMA, "prose")

_TABLE = (
    _GPT2,
    _base("gpt2", "gpt2", "bytelevel", seed=2),
    _tuned(_GPT2, "code"),
    _tuned(_GPT2, "prose"),
    _tuned(_GPT2, "headers"),
    _LLAMA,
    _LLAMA_CODE,
    _LLAMA_PROSE,
    _tuned(_LLAMA, "headers"),
    _tuned(_LLAMA, "legal"),
    _merged("llama-code-prose", _LLAMA_CODE, _LLAMA_PROSE),
    _NEOX,
    _tuned(_NEOX, "code"),
    _tuned(_NEOX, "prose"),
    _tuned(_NEOX, "headers"),
    _MAMBA,
    _tuned(_MAMBA, "code"),
    _tuned(_MAMBA, "prose"),
    _tuned(_MAMBA, "headers"),
)

_LATER = (
    *(_tuned(_GPT2, "legal"), _tuned(_NEOX, "legal"), _tuned(_MAMBA, "legal")),
    # Enough checkpoints to see how training moves.
    _base("gpt2", "gpt2", "bytelevel", tuple(range(60, 240, 20)), seed=3),
    # Where each domain alone leads, and a model whose mixture is known.
    *(mixed(_GPT2, f"gpt2-probe-{domain}", {domain: 1.0}) for domain in DOMAINS),
    mixed(_GPT2, "gpt2-mixed", {"python": 0.5, "licences": 0.3, "docstrings": 0.2}),
)
"""Models that the demo does not map, to be added to its map."""

RUNS: dict[str, Run] = {run.name: run for run in (*_TABLE, *_LATER)}
"""Every run by name, parents before their children."""

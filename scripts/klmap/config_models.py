"""The models of config.yaml: one entry each, or one that stands for many.

Each class documents its keys as ``klmap.config`` does. `revisions`, `quantizations` and the
`weights` of a merge make several models of one line; whatever reads a configuration sees these
alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from klmap import likelihoods
from klmap.config_prompts import Strict

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""Names of text sets, and of models that are given one."""

SOURCE_PATTERN = NAME_PATTERN + r"(?:@[A-Za-z0-9._-]+)?"
"""A model and its revision, ``org--name[@revision]``."""

MODEL_PATTERN = SOURCE_PATTERN + r"(?:\+[A-Za-z0-9._]+)*"
"""A source with its variant, ``org--name[@revision][+variant]``."""

FINGERPRINT_PATTERN = r"[0-9a-f]{12}"

COMMIT_PATTERN = r"[0-9a-f]{40}"

FILE_NAMES = "letters, digits, '.', '_' and '-' are fine, a letter or digit first"

Dtype = Literal["float32", "float16", "bfloat16", "auto"]
Quantization = Literal["none", "int8", "nf4", "fp4"]
Prefix = Literal["default", "bos"]
Overlength = Literal["window", "truncate", "fail"]


def _known(likelihood: str) -> str:
    """A kind of likelihood that there is a class for."""
    if likelihood not in likelihoods.NAMES:
        raise ValueError(f"{likelihood!r} is not one of {', '.join(likelihoods.NAMES)}")
    return likelihood


Likelihood = Annotated[str, AfterValidator(_known)]


_STEP = re.compile(r"step[_-]?(\d+)", re.IGNORECASE)
_COUNTED = re.compile(
    r"(?<![a-z])(?:checkpoint|ch?kpt|iter(?:ation)?|epoch)[_-]?(\d+)(?![.\da-z])",
    re.IGNORECASE,
)

MERGES = "merge/"
"""Beginning of the ids of merges, which are made here."""


MOST_STEPS = 10_000
"""Most models that one line with `steps` stands for: more is a slip."""


class Steps(Strict):
    """Revisions that are named after evenly spaced training steps."""

    first: int = Field(ge=0)
    """The first step."""
    last: int = Field(ge=0)
    """The last step."""
    every: int = Field(ge=1)
    """Steps between two of them."""
    name: str = "step{}"
    """What a revision is called, with {} for the step."""

    @model_validator(mode="after")
    def _any(self) -> Steps:
        if self.first > self.last:
            raise ValueError(f"no step is between first: {self.first} and last: {self.last}")
        number = (self.last - self.first) // self.every + 1
        if number > MOST_STEPS:
            raise ValueError(
                f"these are {number:,} models in a line, and {MOST_STEPS:,} are allowed; look at "
                "every:"
            )
        if not re.fullmatch(r"[^{}]*\{\}[^{}]*", self.name):
            raise ValueError(
                f"name: {self.name!r} has no place for the step; write {{}} there, once, as in "
                "checkpoint-{}"
            )
        return self

    @property
    def revisions(self) -> list[str]:
        """The names of the revisions, in the order of training."""
        return [self.name.format(step) for step in range(self.first, self.last + 1, self.every)]


class Merge(Strict):
    """An interpolation of the weights of two or three models of one architecture."""

    of: list[str] = Field(min_length=2, max_length=3)
    """The models: ids (`org/name@revision` for a revision) or names on the map, of models that
    are configured too."""
    weights: list[list[float]] = Field(min_length=1)
    """The share of each in the weights, adding up to 1; a list of such lists gives several
    merges."""

    @field_validator(
        "weights", mode="before", json_schema_input_type=list[float] | list[list[float]]
    )
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        single = isinstance(value, list) and not any(isinstance(item, list) for item in value)
        return [value] if single and value else value

    @model_validator(mode="after")
    def _shares(self) -> Merge:
        for shares in self.weights:
            # Asked this way round, what is not a number is refused too.
            right = len(shares) == len(self.of) and abs(sum(shares) - 1) <= 1e-6
            if not right or min(shares) < 0:
                raise ValueError(
                    f"weights {shares} are not {len(self.of)} shares of at least 0 that add up to "
                    "1, one for each model under of:"
                )
        return self


class ModelEntry(Strict):
    """One model of the map, or several of a kind; a string in `models` is an id alone."""

    id: str = Field(min_length=1)
    """A Hub id (`org/name`), a local folder (beginning with `./`, `../`, `/` or `~`), a model of
    the demo zoo (`demo/...`, with `@checkpoint` where wanted), or `merge/...` for one that is made
    here."""
    revision: str | None = Field(None, min_length=1)
    """Commit, tag or branch; the default branch without it."""
    revisions: list[str] | None = Field(None, min_length=1)
    """Several of these, each a model of its own."""
    steps: Steps | None = None
    """Further revisions, named after evenly spaced training steps:
    `{first: 1000, last: 143000, every: 1000}`."""
    name: str | None = Field(None, pattern=f"^{NAME_PATTERN}$")
    """The name on the map and in file names, instead of the one made from the id."""
    family: str | None = None
    """The family shown on the map, instead of the one the model's configuration names."""
    dtype: Dtype | None = None
    """Overrides `scoring.dtype` for this model."""
    quantization: Quantization | None = None
    """Quantise the weights while loading."""
    quantizations: list[Quantization] | None = Field(None, min_length=1)
    """Several of these, each a model of its own."""
    layers: Literal["all"] | list[int] | None = None
    """Also read hidden states through the model's own final norm and head (logit lens), each a
    model of its own: `all`, or the numbers of blocks behind which to read; 0 is before the first.
    One job scores all of them."""
    merge: Merge | None = None
    """What a model with an id `merge/...` is made of."""
    prefix: Prefix | None = None
    """Overrides `scoring.prefix` for this model."""
    overlength: Overlength | None = None
    """Overrides `scoring.overlength` for this model."""
    likelihood: Likelihood | None = None
    """Overrides `scoring.likelihood` for this model."""
    texts: list[str] | None = Field(None, min_length=1)
    """Text sets on which the model is scored; all without any, but no selection whose reference is
    configured here too: the scores of the reference stand for its selections. A set with edits of
    its prompts means these too, unless some of them are named (`TEXTS.EDIT`)."""
    on_map: bool = True
    """With false the model is scored and used by analyses, but neither the map nor its clip
    threshold see it."""
    parent: list[str] | None = Field(None, min_length=1)
    """Ids of the models that this one was fine-tuned from, instead of those that its card names."""
    merge_of: list[str] | None = Field(None, min_length=2)
    """Ids of the models that somebody else has merged into this one."""
    seed_group: str | None = Field(None, min_length=1)
    """A name that runs share which differ in their seed alone."""
    size_group: str | None = Field(None, min_length=1)
    """A name that models share which differ in their size alone."""
    remote_code: bool = False
    """Where transformers has no class for the model, run the Python code of its repository, which
    can do everything that you can on your machine: read it first. A Hub model then needs a
    `revision` that is a full commit."""

    @field_validator("revision", mode="before")
    @classmethod
    def _revision_text(cls, value: Any) -> Any:
        return _text(value)

    @field_validator(
        *("texts", "revisions", "parent", "merge_of"),
        mode="before",
        json_schema_input_type=str | list[str] | None,
    )
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        # In a sheet all names stand in one cell.
        return _words(value) if isinstance(value, str) else value

    @field_validator("quantizations", mode="before")
    @classmethod
    def _one_or_many_of_few(cls, value: Any) -> Any:
        return _words(value) if isinstance(value, str) else value

    @field_validator("revisions", mode="before")
    @classmethod
    def _revision_texts(cls, value: Any) -> Any:
        return [_text(item) for item in value] if isinstance(value, list) else value

    @field_validator("layers", mode="before")
    @classmethod
    def _in_order(cls, value: Any) -> Any:
        if value is None or value == "all":
            return value
        items = _words(value) if isinstance(value, str) else value
        texts = [str(item) for item in items] if isinstance(items, list) else []
        if not texts or not all(text.isdecimal() for text in texts):
            raise ValueError(f"{value!r} is neither all nor a list of numbers of blocks from 0 on")
        return sorted({int(text) for text in texts})

    @model_validator(mode="after")
    def _one_meaning(self) -> ModelEntry:
        doubled = (
            *(("revision", "revisions"), ("revision", "steps")),
            ("quantization", "quantizations"),
        )
        for one, many in doubled:
            if getattr(self, one) is not None and getattr(self, many) is not None:
                raise ValueError(f"there are {one}: and {many}:; keep one of them")
        if self.parent is not None and self.merge_of is not None:
            raise ValueError("there are parent: and merge_of:; keep one of them")
        if (self.merge is not None) != self.id.startswith(MERGES):
            raise ValueError(
                f"{self.id!r}: a model that is made here has an id {MERGES}NAME and a key merge:, "
                "and no other has one of these"
            )
        given = [
            key
            for key in ("revision", "revisions", "steps", "parent", "merge_of")
            if getattr(self, key) is not None
        ]
        if self.merge is not None and "@" in self.id:
            raise ValueError(f"{self.id!r}: a merge has no revision; take the @ out of its id")
        if self.merge is not None and (given or self.remote_code):
            key = given[0] if given else "remote_code"
            raise ValueError(f"{key}: has no meaning for a merge, which is made here; remove it")
        if self.name is not None and len(self.models) > 1:
            raise ValueError(
                f"name: {self.name} would be the name of {len(self.models)} models; leave it out, "
                "or write one entry for each"
            )
        return self

    @property
    def models(self) -> tuple[ModelEntry, ...]:
        """The models that this entry stands for, in the order of their lists."""
        # Kept apart from itself: what holds itself cannot be compared.
        return self.others or (self,)

    @cached_property
    def others(self) -> tuple[ModelEntry, ...]:
        """The models that this entry stands for, unless that is itself."""
        shares: list[list[float] | None] = [None]
        if self.merge is not None:
            shares = [*self.merge.weights]
        lists = (self.revisions, self.steps, self.quantizations, self.merge)
        if all(each is None for each in lists):
            return ()
        revisions: list[str | None] = [*(self.revisions or [])]
        if self.steps is not None:
            revisions += self.steps.revisions
        quantizations: list[str | None] = [self.quantization]
        if self.quantizations is not None:
            quantizations = [None if item == "none" else item for item in self.quantizations]
        return tuple(
            self._one(revision, quantization, share)
            for revision in revisions or [self.revision]
            for share in shares
            for quantization in quantizations
        )

    def _one(
        self, revision: str | None, quantization: str | None, share: list[float] | None
    ) -> ModelEntry:
        """One of the models that this entry stands for."""
        keys = type(self).model_fields
        found = ModelEntry.model_construct(**{key: getattr(self, key) for key in keys})
        changed: dict[str, Any] = {
            "revision": revision,
            "revisions": None,
            "steps": None,
            "quantization": quantization,
            "quantizations": None,
        }
        if self.merge is not None and share is not None:
            changed["id"] = "-".join([self.id, *(f"{weight:g}" for weight in share)])
            changed["merge"] = Merge.model_construct(of=self.merge.of, weights=[share])
        found.__dict__.update(changed)
        # It stands for itself.
        found.__dict__["others"] = ()
        return found

    @property
    def repository(self) -> str:
        """The id without an ``@revision`` written behind it."""
        return self.id.partition("@")[0] if self.is_inline else self.id

    @property
    def effective_revision(self) -> str | None:
        """The revision, from its own key or written behind the id."""
        return self.id.partition("@")[2] if self.is_inline else self.revision

    @property
    def is_inline(self) -> bool:
        """Whether the revision is written behind the id, as in ``demo/llama@step20``."""
        return "@" in self.id and not self.is_local

    @property
    def is_local(self) -> bool:
        """Whether the id is a folder on this machine."""
        return self.id.startswith(("./", "../", "/", "~")) or self.id in (".", "..")

    @property
    def is_demo(self) -> bool:
        """Whether the model is one of the demo zoo, built here."""
        return self.id.startswith("demo/")

    @property
    def is_tiny(self) -> bool:
        """Whether the model is one of the demo zoo, or made of such alone: no job for a GPU."""
        return consists_of_demo(self.id, [] if self.merge is None else self.merge.of)

    @property
    def is_merge(self) -> bool:
        """Whether the model is made here from others."""
        return self.merge is not None

    @cached_property
    def source(self) -> str:
        """``org--name[@revision]``: what the card and the weights are filed under."""
        stem = re.sub(r"^(?:~?/|\.{1,2}/)+", "", self.repository).strip("/").replace("/", "--")
        revision = self.effective_revision
        return stem if revision is None else f"{stem}@{revision.replace('/', '--')}"

    @cached_property
    def slug(self) -> str:
        """The model's name on the map: `name`, or the source with its variant."""
        if self.name is not None:
            return self.name
        variant = (self.quantization, self.dtype, self.prefix, self.overlength, self.likelihood)
        return "+".join([self.source, *(part for part in variant if part is not None)])


def consists_of_demo(id: str, parts: Sequence[str]) -> bool:
    """Whether a model is one of the demo zoo, or a merge of such alone.

    Args:
        id: of the model.
        parts: ids of what a merge is made of; none for other models.
    """
    return all(part.startswith("demo/") for part in parts or [id])


def revision_step(revision: str) -> float:
    """The training step that a revision names: ``step1000``, ``1000``, ``stage1-step5-tokens9B``.

    Returns:
        The number after ``step``, else the one after a word such as ``checkpoint``, ``ckpt`` or
        ``iter``, else a revision that is a number and nothing more. Infinity for all others: full
        commits, tags such as ``v1.0``, branches such as ``gptq-4bit``, and no revision at all.
    """
    if re.fullmatch(COMMIT_PATTERN, revision):
        return math.inf
    if revision.isdecimal():
        return float(revision)
    found = _STEP.search(revision) or _COUNTED.search(revision)
    return float(found[1]) if found else math.inf


def final_revision(revisions: Collection[str]) -> str | None:
    """Which of the revisions of a model that name no step has the final weights; klmap's own.

    The default one (empty), else ``main``, else the only full commit. None where it cannot be
    told: other branches and tags can be anything, a stored quantisation or another release.
    """
    for revision in ("", "main"):
        if revision in revisions:
            return revision
    commits = {revision for revision in revisions if re.fullmatch(COMMIT_PATTERN, revision)}
    return commits.pop() if len(commits) == 1 else None


def _words(text: str) -> list[str]:
    """What stands between commas or spaces."""
    return [word for word in re.split(r"[,\s]+", text) if word]


def source_of(id: str, revision: str | None = None) -> str:
    """What a model is filed under, by its id, with the revision behind it or by itself."""
    return ModelEntry.model_construct(id=id, revision=revision).source


def _text(value: Any) -> Any:
    """A number as the name of a revision; YAML reads 1000 as one."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

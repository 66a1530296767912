"""Prompts in the text sets of config.yaml: which texts are responses to one, and how it is edited.

Each class documents its keys as ``klmap.config`` does. ``klmap.config_texts`` gives these keys to
the sources of texts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Template = Literal["none", "model"]

SEPARATOR = "\n"
"""What stands between a prompt and its response unless a text set says otherwise."""

PMI = "pmi"
"""Name of the text set that has what responses gain by their prompts; no edit can have it."""

_ROLES = ("prompt", "response", "messages")
_CONTENT = ("prompt", "format", "prefix", "suffix")
"""Keys of an edit that change the prompt itself."""

_EDIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class Strict(BaseModel):
    """A section of config.yaml: unknown keys are errors, values do not change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Edit(Strict):
    """A change of every prompt of a text set, while the responses stay as they are."""

    prefix: str | None = Field(None, min_length=1)
    """Put before the last message of the user, which a plain prompt is."""
    suffix: str | None = Field(None, min_length=1)
    """Put behind it."""
    format: str | None = None
    """A text with `{prompt}` in it, once, to put in its place: `"Question: {prompt}\\nAnswer:"`."""
    prompt: str | None = Field(None, min_length=1)
    """Take another wording of the prompt, such as one in another language: its name under
    `fields`."""
    system: str | None = Field(None, min_length=1)
    """Put this message of the system in front, in place of the one that is there."""
    template: Template | None = None
    """Give prompts another form: that of the model's chat template, or none."""
    of: list[str] | None = Field(None, min_length=2)
    """Instead of all these: the names of other edits, which are made one after the other. Whether
    their shifts add up is measured."""

    @field_validator("format")
    @classmethod
    def _one_place(cls, value: str | None) -> str | None:
        if value is not None and value.count("{prompt}") != 1:
            raise ValueError(
                f"{value!r} does not have {{prompt}} in it once, where the prompt goes"
            )
        if value == "{prompt}":
            raise ValueError(f"{value!r} changes nothing; put something around {{prompt}}")
        return value

    @model_validator(mode="after")
    def _something(self) -> Edit:
        given = [key for key in type(self).model_fields if getattr(self, key) is not None]
        if not given:
            raise ValueError(
                "changes nothing; give prefix:, suffix:, format:, prompt:, system:, template: or "
                "of:"
            )
        if self.of is not None and len(given) > 1:
            raise ValueError(f"there are of: and {given[0]}:; an edit is one or the other")
        return self


def undone(edits: Sequence[Edit]) -> str:
    """Why single edits cannot be made one after the other: one would undo what another has done.

    Shifts of such edits could not add up.

    Args:
        edits: in the order in which they are made, each without ``of``.

    Returns:
        Which edit undoes what, and the fix; empty where none does.
    """
    seen: set[str] = set()
    for edit in edits:
        keys = set(edit.model_dump(exclude_none=True))
        found = keys & seen & {"system", "template"}
        if edit.prompt is not None:
            found |= seen & set(_CONTENT)
        if found:
            return (
                f"{edit.model_dump(exclude_none=True)} would undo {sorted(found)[0]}: of an edit "
                "before it; put an edit with prompt: first in of:, and have one system: and one "
                "template: at most"
            )
        seen |= keys
    return ""


class Prompted(Strict):
    """What makes responses of texts, whatever source they come from."""

    prompt_bytes: int | None = Field(None, ge=1)
    """The first bytes of each text, up to a border between words, are a prompt; the rest is the
    response, which alone is scored."""
    separator: str | None = None
    """What stands between a prompt and its response, and between messages, where no chat template
    says otherwise; a line break without it."""
    template: Template | None = None
    """none: prompts are plain text. model: each model reads them in the form of its own chat
    template; a model without one cannot be scored."""
    edits: dict[str, Edit] = Field(default_factory=dict)
    """Changes of the prompt, each under a name of its own; every one makes a further text set,
    `TEXTS.EDIT`, with the same responses."""
    pmi: bool = False
    """Also score the responses without their prompts, in the same jobs: the text set `TEXTS.pmi`
    is the map of what prompts add (pointwise mutual information)."""

    @property
    def is_paired(self) -> bool:
        """Whether the texts are responses to prompts."""
        return self.prompt_bytes is not None

    @property
    def joint(self) -> str:
        """What stands between a prompt and its response."""
        if self.prompt_bytes is not None:
            return ""
        return SEPARATOR if self.separator is None else self.separator

    @property
    def wordings(self) -> list[str]:
        """Names of the other wordings of the prompt."""
        return []

    @model_validator(mode="after")
    def _with_prompts(self) -> Prompted:
        given = [
            key
            for key in ("separator", "template", "edits", "pmi")
            if getattr(self, key) not in (None, False, {})
        ]
        if given and not self.is_paired:
            raise ValueError(
                f"{given[0]}: is about prompts, and these texts have none; give prompt_bytes:, or "
                "fields: {prompt: ..., response: ...} where the source has records"
            )
        if self.prompt_bytes is not None and self.separator:
            raise ValueError(
                "separator: has no meaning with prompt_bytes:, whose prompts run on into their "
                "responses; remove it"
            )
        for name, edit in self.edits.items():
            self._check_edit(name, edit)
        return self

    def _check_edit(self, name: str, edit: Edit) -> None:
        if not _EDIT_NAME.fullmatch(name) or name == PMI:
            raise ValueError(
                f"edits: {name!r} is no name for an edit; letters, digits, '_' and '-' are fine, a "
                f"letter or digit first, and {PMI!r} is taken"
            )
        if edit.prompt is not None and edit.prompt not in self.wordings:
            raise ValueError(
                f"edits.{name}.prompt: there is no other wording {edit.prompt!r} under fields:; "
                f"name its field there, such as fields: {{prompt: ..., response: ..., "
                f"{edit.prompt}: FIELD}}"
            )
        if edit.template is not None and edit.template == (self.template or "none"):
            raise ValueError(
                f"edits.{name}.template: the prompts of this text set have the form "
                f"{edit.template!r} already; give the other one, or remove template:"
            )
        parts = edit.of or []
        for part in parts:
            if part not in self.edits or self.edits[part].of is not None:
                single = [key for key, each in self.edits.items() if each.of is None]
                raise ValueError(
                    f"edits.{name}.of: {part!r} is no single edit of this text set; there are "
                    f"{', '.join(single) or 'none'}"
                )
        twice = next((part for part in parts if parts.count(part) > 1), None)
        if twice is not None:
            raise ValueError(f"edits.{name}.of: {twice!r} stands there twice; name each edit once")
        reason = undone([self.edits[part] for part in parts])
        if reason:
            raise ValueError(f"edits.{name}.of: {reason}")

    def recipe(self) -> dict[str, Any]:
        """What decides which texts come out: the part of the fingerprint that concerns texts.

        Edits and PMI are left out: what they add does not change these texts.
        """
        found = self.model_dump(
            mode="json", exclude_none=True, by_alias=True, exclude={"edits", "pmi"}
        )
        if self.is_paired:
            found |= {"separator": self.joint, "template": self.template or "none"}
        return found

    def parts_of(self, edit: str) -> list[Edit]:
        """The single edits that an edit consists of, in the order in which they are made."""
        found = self.edits[edit]
        return [found] if found.of is None else [self.edits[part] for part in found.of]


class Fields(Prompted):
    """The same for sources that have records with fields."""

    fields: dict[str, str] | None = None
    """Which fields hold the prompt and the response, `{prompt: question, response: answer}`, or the
    messages of a conversation, `{messages: conversation}`, the last of which is the response.
    Further names are other wordings of the prompt, for edits. A name without a field stands for the
    field of the same name. Records are taken as they are."""

    @field_validator("fields", mode="before")
    @classmethod
    def _same_name(cls, value: Any) -> Any:
        if isinstance(value, list):
            value = dict.fromkeys(value)
        if not isinstance(value, dict):
            return value
        return {key: key if field is None else field for key, field in value.items()}

    @field_validator("fields")
    @classmethod
    def _pair_or_messages(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        if value is None:
            return None
        given = [key for key in _ROLES if key in value]
        if given not in (["prompt", "response"], ["messages"]):
            raise ValueError(
                f"found {', '.join(value) or 'nothing'}; name the fields of prompt and response, "
                "or that of messages"
            )
        return value

    @model_validator(mode="before")
    @classmethod
    def _short_responses(cls, value: Any) -> Any:
        # Half of the good answers have fewer bytes than a chunk of running text must have.
        if isinstance(value, dict) and value.get("fields") is not None:
            return {"min_bytes": 0, **value}
        return value

    @model_validator(mode="after")
    def _one_way(self) -> Fields:
        if self.fields is not None and self.prompt_bytes is not None:
            raise ValueError("there are fields: and prompt_bytes:; keep one of them")
        if self.fields is not None and getattr(self, "chunk", False):
            raise ValueError("chunk: has no meaning with fields:, whose records are not cut")
        return self

    @property
    def is_paired(self) -> bool:
        """Whether the texts are responses to prompts."""
        return self.fields is not None or self.prompt_bytes is not None

    @property
    def wordings(self) -> list[str]:
        """Names of the other wordings of the prompt."""
        return [name for name in self.fields or {} if name not in _ROLES]

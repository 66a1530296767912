"""The text sets of config.yaml: every source of texts, its keys and their checks.

Each class documents its keys as ``klmap.config`` does. ``recipe`` of a set is what its scores'
fingerprints hash, so it holds what decides the texts and nothing else.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field, ValidationInfo, field_validator, model_validator

from klmap.config_prompts import Edit, Fields, Prompted, Strict

SHA256_PATTERN = r"[0-9a-fA-F]{64}"

_PACKED = ("gz", "zst", "bz2", "xz", "lz4", "zip", "tar", "tgz", "7z")
"""Endings of files that would have to be unpacked first."""

_COMMIT = re.compile(r"(?:^|/)[0-9a-f]{40}(?:/|$)")


Convention = Literal["dtype", "prefix", "overlength"]


class _Texts(Strict):
    n: int | None = Field(None, ge=2)
    """Number of texts; null takes all that the source has."""
    max_bytes: int = Field(1024, ge=16)
    """Upper end of a chunk in UTF-8 bytes."""
    min_bytes: int = Field(256, ge=0)
    """A chunk must have strictly more UTF-8 bytes than this."""
    seed: int = 42
    """Seed of the sample."""


class EnvironmentTexts(Prompted, _Texts):
    """Real text found in the installed Python environment; works offline."""

    source: Literal["environment"]
    n: int = Field(600, ge=2)
    """Number of texts, spread evenly over the domains."""


class RecordTexts(Fields, _Texts):
    """What texts that come as one file have in common, wherever the file is."""

    text_field: str = Field("text", alias="field")
    """The field, or column, with the text."""
    domain_field: str = "domain"
    """The field with the text's domain; texts without it belong to the domain `all`."""
    chunk: bool = False
    """Cut every record into chunks and sample them, instead of taking records as they are."""
    min_bytes: int = Field(0, ge=0)
    """A text must have strictly more UTF-8 bytes than this."""


class FileTexts(RecordTexts):
    """Texts of your own: .jsonl, .parquet, or .txt with one text per line."""

    source: Literal["file"]
    path: str
    """The file, relative to the working directory."""


class UrlTexts(RecordTexts):
    """One file of the web, known by its hash: .jsonl, .parquet, or .txt with one text per line."""

    source: Literal["url"]
    url: str
    """Where the file is, http:// or https://. Another address of the same file changes no score,
    as long as there is a `sha256`."""
    sha256: str | None = Field(
        None, validate_default=True, json_schema_extra={"pattern": f"^{SHA256_PATTERN}$"}
    )
    """The file's SHA-256, 64 hexadecimal digits, as `sha256sum FILE` prints it. Only an address
    that names a full commit can do without."""
    format: Literal["jsonl", "parquet", "txt"] | None = Field(None, validate_default=True)
    """What kind of file it is; null goes by the ending of the URL's path."""

    @field_validator("url")
    @classmethod
    def _public_address(cls, url: str) -> str:
        return plain_address(url, "source: file with path:")

    @field_validator("sha256", mode="before")
    @classmethod
    def _lower_case_hash(cls, value: Any, info: ValidationInfo) -> Any:
        url = info.data.get("url")
        if value is None and url is not None and not names_commit(url):
            raise ValueError(
                "missing; `sha256sum FILE` prints it for a copy of the file that you have checked"
            )
        return plain_hash(value)

    @field_validator("format", mode="before")
    @classmethod
    def _format_by_ending(cls, value: Any, info: ValidationInfo) -> Any:
        url = info.data.get("url")
        if value is not None or url is None:
            return value
        if (ending := _ending(url)) not in ("jsonl", "parquet", "txt"):
            raise ValueError(
                f"the path of {url!r} does not end in .jsonl, .parquet or .txt; say which of them "
                "the file is, such as format: jsonl"
            )
        return ending

    def recipe(self) -> dict[str, Any]:
        """The hash stands for the file: where the same bytes are kept decides nothing."""
        recipe = super().recipe()
        if self.sha256 is not None:
            del recipe["url"]
        return recipe


class HubTexts(Fields, _Texts):
    """A dataset of the Hugging Face Hub, streamed, cut into chunks and sampled."""

    source: Literal["hub"]
    dataset: str
    """The dataset's id, for example monology/pile-uncopyrighted."""
    subset: str | None = None
    """The dataset's configuration, where it has several."""
    split: str = "train"
    """The split to stream."""
    revision: str | None = None
    """Commit, tag or branch of the dataset."""
    text_field: str = Field("text", alias="field")
    """The field with the document."""
    domain_field: str | None = None
    """The field with the domain, nested fields joined by a dot (`meta.pile_set_name`)."""
    documents: int | None = Field(1_000_000, ge=1)
    """How many documents to read, in order; null reads the whole split."""
    n: int = Field(10_000, ge=2)
    """Number of texts."""
    pool: int | None = Field(None, ge=2)
    """Chunks drawn, of which the first n are kept; null draws four times n, as published."""

    def recipe(self) -> dict[str, Any]:
        """What decides which texts come out."""
        # Here null means something: the whole split, not the default number of documents.
        return {**super().recipe(), "documents": self.documents}


class SelectionTexts(Strict):
    """Some texts of another set, its reference, chosen and weighted by what its models say.

    Models that have all texts of the reference are on its map without being scored again; others
    are scored on the chosen texts alone.
    """

    source: Literal["selection"]
    of: str = Field(min_length=1)
    """The reference: another text set of this configuration, a finished one of the same results
    folder, or the folder of a finished one anywhere (`../other/results/pile`)."""
    method: Literal["ls", "kl", "uniform"] = "ls"
    """What makes a text likely to be drawn: the variance of its log-likelihoods (ls), what it adds
    to the distances of all pairs (kl), or nothing (uniform)."""
    replacement: bool = True
    """Draw with replacement, as published; false draws each text once at most, spread over
    domains, which makes smaller errors with as many texts."""
    n: int | None = Field(None, ge=2)
    """Number of draws; the same text can be drawn several times and is scored once. Without
    replacement it is the number of texts."""
    error: float | None = Field(None, gt=0, lt=1)
    """In place of n: choose as many as keep the KL of a pair within this relative error ..."""
    share: float | None = Field(None, gt=0, lt=1)
    """... for this share of the pairs of the reference; 0.95 if it is left out."""
    seed: int = 42
    """Seed of the draw."""
    path: str | None = Field(None, min_length=1)
    """A selection.h5 of the same texts that was drawn before, here or by others. Nothing is drawn
    then."""
    allow: list[Convention] = Field(default_factory=list)
    """Conventions in which added models may differ from those of the reference that others have
    computed, beside those that the release itself allows here."""

    @model_validator(mode="after")
    def _one_way(self) -> SelectionTexts:
        given = [key for key in ("n", "error", "path") if getattr(self, key) is not None]
        if len(given) != 1:
            found = " and ".join(f"{key}:" for key in given) or "none of them"
            raise ValueError(
                "give n: (how many draws), error: (how exact a KL has to be, such as 0.05) or "
                f"path: (a selection.h5), one of the three; found {found}"
            )
        if self.share is not None and self.error is None:
            raise ValueError("share: says for how many pairs error: holds; give error: too")
        drawn = {"method", "replacement", "seed"} & self.model_fields_set
        if self.path is not None and drawn:
            raise ValueError(f"{', '.join(sorted(drawn))}: decided by the file at path:; leave out")
        return self

    def recipe(self) -> dict[str, Any]:
        """What decides which texts come out, but for the reference, which is a name here."""
        if self.path is not None:
            return self.model_dump(mode="json", include={"source", "of", "path"})
        recipe = self.model_dump(mode="json", exclude_none=True, exclude={"allow"})
        return recipe if self.error is None else {"share": 0.95, **recipe}


DrawnTexts = Annotated[
    EnvironmentTexts | FileTexts | UrlTexts | HubTexts, Field(discriminator="source")
]
"""A text set that is drawn from a source of texts."""


class VariantTexts(Strict):
    """A text set that follows from another one with prompts; no key of config.yaml makes one.

    It has the same responses. Edits change the prompts; without any, the vectors of its models are
    what their prompts add to the responses (PMI).
    """

    source: Literal["variant"] = "variant"
    of: str
    """The text set that it follows from."""
    base: DrawnTexts
    """Its configuration."""
    edit: str | None = None
    """Name of the edit."""

    @property
    def edits(self) -> list[Edit]:
        """The single edits, in the order in which they are made."""
        return [] if self.edit is None else self.base.parts_of(self.edit)

    @property
    def n(self) -> int | None:
        """Number of texts; None where all that the source has are taken."""
        return self.base.n

    @property
    def max_bytes(self) -> int:
        """Upper end of a chunk in UTF-8 bytes."""
        return self.base.max_bytes

    def recipe(self) -> dict[str, Any]:
        """What decides the texts: an edit by another name is the same."""
        found = self.base.recipe()
        edits = [edit.model_dump(mode="json", exclude_none=True) for edit in self.edits]
        return {**found, "edits": edits} if edits else found


TextSet = Annotated[DrawnTexts | SelectionTexts, Field(discriminator="source")]


def plain_address(url: str, local: str) -> str:
    """An address that anybody may fetch a plain file from.

    Args:
        url: the address.
        local: what to configure instead for a file of this machine.

    Raises:
        ValueError: it is no such address.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        raise ValueError(f"{url!r} is a file of this machine; use {local}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no address of a file; it begins with https:// or http://")
    if "@" in parts.netloc:
        raise ValueError(
            f"the address at {parts.hostname} holds a user name or a password, which would show in "
            f"logs; download the file and use {local}"
        )
    if (ending := _ending(url)) in _PACKED:
        raise ValueError(
            f"{url!r} is packed (.{ending}), which is not read here; give the address of the plain "
            f"file, or download and unpack it and use {local}"
        )
    return url


def names_commit(url: str) -> bool:
    """Whether an address names a full commit, so that what it gives cannot change."""
    return _COMMIT.search(urlsplit(url).path) is not None


def plain_hash(value: Any) -> Any:
    """A SHA-256 in small letters; what is no text is left for others to refuse.

    Raises:
        ValueError: it is a number, or not 64 hexadecimal digits.
    """
    if isinstance(value, int):
        raise ValueError(f"{value!r} was read as a number; put the 64 digits in quotes")
    if isinstance(value, str) and not re.fullmatch(SHA256_PATTERN, value):
        raise ValueError(
            f"{value[:80]!r} is not 64 hexadecimal digits; `sha256sum FILE` prints them"
        )
    return value.lower() if isinstance(value, str) else value


def _ending(url: str) -> str:
    """The ending of a URL's path, without the dot and in small letters."""
    return PurePosixPath(unquote(urlsplit(url).path)).suffix.removeprefix(".").lower()

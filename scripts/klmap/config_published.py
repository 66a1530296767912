"""The section `published` of config.yaml: log-likelihoods that others have computed.

Each class documents its keys as ``klmap.config`` does.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field, field_validator, model_validator

from klmap.config_prompts import Strict
from klmap.config_texts import (
    SHA256_PATTERN,
    Convention,
    names_commit,
    plain_address,
    plain_hash,
)

VECTOR_FILES = ("pkl", "pickle", "npy", "csv", "tsv", "h5", "hdf5")
"""Endings of files that hold log-likelihoods."""


class PublishedFile(Strict):
    """A file of a release: here or on the web, and known by its hash. A plain string is a path."""

    path: str | None = Field(None, min_length=1)
    """The file, relative to the working directory."""
    url: str | None = None
    """Where the file is, http:// or https://. Another address of the same file changes nothing."""
    sha256: str | None = Field(None, json_schema_extra={"pattern": f"^{SHA256_PATTERN}$"})
    """The file's SHA-256, 64 hexadecimal digits. Optional for a file of this machine, and for an
    address that names a full commit; what was found is noted in report.json."""

    @field_validator("url")
    @classmethod
    def _public_address(cls, url: str | None) -> str | None:
        return None if url is None else plain_address(url, "path:")

    @field_validator("sha256", mode="before")
    @classmethod
    def _lower_case_hash(cls, value: Any) -> Any:
        return None if value is None else plain_hash(value)

    @model_validator(mode="after")
    def _one_place(self) -> PublishedFile:
        if (self.path is None) == (self.url is None):
            raise ValueError("give the file's path: or its url:, one of the two")
        if self.url is not None and self.sha256 is None and not names_commit(self.url):
            raise ValueError(
                f"the file at {self.url!r} may change: add its sha256:, which `sha256sum FILE` "
                "prints for a copy that you have checked, or give an address with a full commit"
            )
        return self

    @property
    def ending(self) -> str:
        """The ending of the file's name, without the dot and in small letters."""
        name = unquote(urlsplit(self.url).path) if self.url is not None else self.path or ""
        return PurePosixPath(name).suffix.removeprefix(".").lower()


class Published(Strict):
    """Log-likelihoods of many models on one of the text sets, computed by others."""

    texts: str
    """The text set that they were computed on, one of those below `texts`."""
    loglik: PublishedFile
    """The log-likelihoods, nats per text, before clipping: .pkl, .npy, .csv, .tsv or .h5."""
    clipped: PublishedFile | None = None
    """The same after clipping, where it was published; it gives the clip threshold, and is
    compared with `loglik`."""
    metadata: PublishedFile | None = None
    """What is known of the models: a pickled list with one dict for each."""
    names: PublishedFile | None = None
    """The models' names for a .npy file, in the order of its rows: one per line, or the column
    `model` of a table."""
    dataset: str = "L"
    """Where in an .h5 file the log-likelihoods are."""
    names_dataset: str = "model"
    """Where in an .h5 file the names are."""
    dtype: str = "float16"
    """The number format in which they were computed."""
    prefix: Literal["default", "bos"] = "default"
    """Policy for the beginning-of-sequence token with which they were computed."""
    overlength: Literal["window", "truncate", "fail"] = "truncate"
    """Policy for texts longer than the context with which they were computed."""
    allow: list[Convention] = Field(default_factory=list)
    """Conventions in which other models of the same map may differ from these; without being named
    here a difference is refused."""
    models: int | None = Field(None, ge=1)
    """How many models there are; checked. Needed above 1,000, or where the map would have more
    than `map.dense_limit`, because the workflow is planned before the files are read."""

    @field_validator("loglik", "clipped", "metadata", "names", mode="before")
    @classmethod
    def _plain_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _kinds(self) -> Published:
        for key in ("loglik", "clipped"):
            file: PublishedFile | None = getattr(self, key)
            if file is not None and file.ending not in VECTOR_FILES:
                raise ValueError(
                    f"{key} is {file.url or file.path!r}, which does not end in one of "
                    f".{', .'.join(VECTOR_FILES)}"
                )
        if self.loglik.ending == "npy" and self.names is None:
            raise ValueError("a .npy file holds no names; add names:, a file with one per line")
        return self

    @property
    def count(self) -> int:
        """How many models to plan for."""
        return self.models if self.models is not None else 1000

    def paths(self) -> list[str]:
        """Files that lie on this machine."""
        return [file.path for file in self.files().values() if file.path is not None]

    @property
    def is_from_afar(self) -> bool:
        """Whether some of its files are on the web."""
        return any(file.url is not None for file in self.files().values())

    def files(self) -> dict[str, PublishedFile]:
        """All files, by key."""
        found = {key: getattr(self, key) for key in ("loglik", "clipped", "metadata", "names")}
        return {key: file for key, file in found.items() if file is not None}

    def recipe(self) -> dict[str, Any]:
        """What decides what is imported."""
        return self.model_dump(mode="json", exclude_none=True, exclude={"allow"})

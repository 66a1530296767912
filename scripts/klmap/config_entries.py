"""What is wrong with a model of config.yaml that its own keys do not show: it depends on others.

Names and folders that collide, text sets and parts of merges that are not configured, code that
could change unseen. ``klmap.configfile`` asks, and says where in the file it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from klmap.config import Config
from klmap.config_models import COMMIT_PATTERN, FILE_NAMES, MERGES, SOURCE_PATTERN, ModelEntry


@dataclass(frozen=True)
class _Known:
    """Models that were looked at: number of the entry, and the model, by name and by source."""

    slugs: dict[str, tuple[int, ModelEntry]]
    sources: dict[str, tuple[int, ModelEntry]]


def problems(config: Config) -> Iterator[tuple[int, str]]:
    """What is wrong with each model: the number of its entry, and what was found with the fix."""
    known = _Known({}, {})
    for number, entry in enumerate(config.entries):
        for one in entry.models:
            problem = _entry_problem(config, one, number, known)
            if problem is not None:
                yield number, problem


def _entry_problem(
    config: Config,
    entry: ModelEntry,
    number: int,
    known: _Known,
) -> str | None:
    if entry.is_inline and entry.revision is not None:
        return f"{entry.id!r} names a revision and there is a key revision too; keep one of them"
    unknown = [name for name in entry.texts or [] if name not in config.texts]
    if unknown:
        return f"no text set {unknown[0]!r}; configured: {', '.join(config.texts)}"
    for name in entry.texts or []:
        if (of := config.scored_as(name)) != name:
            return f"texts: {name!r} is made of the scores on {of!r}; name that"
    if not re.fullmatch(SOURCE_PATTERN, entry.source):
        return (
            f"{entry.id!r} gives the file name {entry.source!r}, which cannot be one; "
            f"{FILE_NAMES}: rename the folder or make a link to it"
        )
    if not entry.is_merge and entry.source.startswith(MERGES.replace("/", "--")):
        return (
            f"{entry.id!r} would be filed as {entry.source!r}, and names with merge-- are those of "
            "merges that are made here; rename the folder or make a link to it"
        )
    if entry.remote_code and (problem := _code_problem(entry)) is not None:
        return problem
    if entry.merge is not None and (problem := _merge_problem(config, entry)) is not None:
        return problem
    first, other = known.slugs.setdefault(entry.slug, (number, entry))
    if other is not entry:
        if first == number:
            return (
                f"gives {entry.slug!r} twice; remove one of its revisions, quantizations or weights"
            )
        return (
            f"{entry.slug!r} is the name of models[{first}] ({other.id}) too; "
            "remove one or give one a name of its own with name:"
        )
    first, other = known.sources.setdefault(entry.source, (number, entry))
    if entry.merge != other.merge:
        return (
            f"{entry.id!r} is made of other models in models[{first}]; give one of them another "
            "id, because weights are filed under it"
        )
    same = (entry.repository, entry.effective_revision) == (
        other.repository,
        other.effective_revision,
    )
    if not same:
        return (
            f"{entry.id!r} and models[{first}] ({other.id!r}) would share the folder "
            f"{entry.source!r}; rename one of the folders or make a link to it"
        )
    return None


def _merge_problem(config: Config, entry: ModelEntry) -> str | None:
    """Why a merge cannot be made: what it is made of has to be configured too."""
    found: dict[str, str] = {}
    for name in entry.merge.of if entry.merge is not None else []:
        part = config.part(name)
        if part is None:
            return (
                f"merge.of: {name!r} is no model of this configuration; add it to models:, with "
                "on_map: false where it is not to be on the map"
            )
        if name in config.by_slug and part.quantization not in (None, "none"):
            return (
                f"merge.of: {name!r} is a quantised variant; name the model itself, whose weights "
                "are merged, and give the merge a quantization: of its own"
            )
        if part.is_merge:
            return f"merge.of: {name!r} is a merge itself; name what that is made of"
        if part.remote_code:
            return (
                f"merge.of: {name!r} is run by the code of its repository, which says what its "
                "weights mean; it cannot be merged"
            )
        if part.source in found:
            return (
                f"merge.of: {found[part.source]!r} and {name!r} are the same weights; keep one of "
                "them"
            )
        found[part.source] = name
    return None


def _code_problem(entry: ModelEntry) -> str | None:
    """Why the code of a model may not be run: it has none, or it could change unseen."""
    if entry.is_demo:
        return (
            f"{entry.id!r} is built here and has no code of its own, but there is remote_code: "
            "true; remove it"
        )
    revision = entry.effective_revision
    if entry.is_local or re.fullmatch(COMMIT_PATTERN, revision or ""):
        return None
    found = "there is no revision" if revision is None else f"the revision is {revision!r}"
    return (
        f"remote_code: true runs code of {entry.repository!r} and needs revision: to be a full "
        f"commit, 40 hexadecimal digits, so that the code cannot change; {found}: copy the commit "
        "from the history of the model's files on the Hub, and read the code there"
    )

"""Ask again about models that have a card, and rewrite only the cards whose model has moved.

The only place where klmap asks the Hub about a model it knows already.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants

from klmap import cards, resolve
from klmap.config_models import MERGES
from klmap.errors import InputError, KlmapError
from klmap.files import read_tsv
from klmap.likelihoods import CAUSAL
from klmap.log import logger

THREADS = 8
"""Questions put to the Hub at the same time."""


@dataclass(frozen=True)
class Source:
    """One model at one revision, as the workflow knows it.

    Attributes:
        name: what its card is filed under.
        id: the configured id.
        revision: the configured revision; None for the default branch.
        folder: the local folder that is this model; None for a model of the Hub.
        remote_code: whether the code of the repository may be run.
        likelihood: the kind by which it is scored.
    """

    name: str
    id: str
    revision: str | None
    folder: Path | None
    remote_code: bool = False
    likelihood: str = CAUSAL

    @property
    def is_merge(self) -> bool:
        """Whether the model is made here from others, so that nobody can be asked about it."""
        return self.id.startswith(MERGES)


@dataclass(frozen=True)
class News:
    """What became of one model since its card was written.

    Attributes:
        source: name of the source.
        change: ``moved`` or ``usable again``, for which the card is rewritten; else
            ``unreachable`` or why the model cannot be used any more (``gone``, ``needs a token``,
            ...).
        detail: from which commit to which, or the reason.
    """

    source: str
    change: str
    detail: str


def read_index(path: Path) -> list[Source]:
    """Read the table of sources: source, id, revision, folder; empty cells mean none.

    Columns remote_code and likelihood are there only where some model opted in, or is not causal.

    Raises:
        InputError: the table is missing or lacks a column.
    """
    rows = read_tsv(path)
    try:
        return [
            Source(
                name=row["source"],
                id=row["id"],
                revision=row["revision"] or None,
                folder=Path(row["folder"]) if row["folder"] else None,
                remote_code=row.get("remote_code") == "true",
                likelihood=row.get("likelihood") or CAUSAL,
            )
            for row in rows
        ]
    except KeyError as error:
        raise InputError(
            f"{path}: no column {error}; expected source, id, revision, folder"
        ) from None


def refresh(sources: Iterable[Source], folder: Path) -> list[News]:
    """Resolve every source that has a card again; rewrite the cards of those that moved.

    A model that was fine and cannot be used any more keeps its card and its scores: a repository
    that was deleted stays on the map, and the news says so.

    Args:
        sources: the configured models.
        folder: where the cards are, as ``<source>/card.json``.

    Returns:
        What changed, in the order of ``sources``; empty if nothing did.
    """
    known = [
        source
        for source in sources
        if (folder / source.name / "card.json").is_file() and not source.is_merge
    ]
    with ThreadPoolExecutor(max_workers=THREADS) as pool:
        found = list(pool.map(lambda source: _ask_again(source, folder), known))
    news = [item for item in found if item is not None]
    _report(news, len(known))
    return news


def _ask_again(source: Source, folder: Path) -> News | None:
    path = folder / source.name / "card.json"
    old = cards.read_card(path)
    if source.folder is None and constants.HF_HUB_OFFLINE:
        # A cache knows what a model was, and would take its card back to that.
        return News(source.name, "unreachable", "HF_HUB_OFFLINE is set; unset it to ask the Hub")
    try:
        new = resolve.resolve_or_explain(
            source.id,
            source.revision,
            source.folder,
            remote_code=source.remote_code,
            likelihood=source.likelihood,
        )
    except KlmapError as error:
        return News(source.name, "unreachable", str(error))
    if new.error:
        kept = "" if old.error else "its card and its scores are kept: "
        known = new.error == old.error
        return None if known else News(source.name, new.state, f"{kept}{new.error}")
    template = new.chat_template_sha256 != old.chat_template_sha256
    if new.commit == old.commit and not template and not old.error:
        return None
    cards.write_card(path, new)
    if old.error:
        return News(source.name, "usable again", f"commit {new.commit[:12]}")
    if new.commit == old.commit:
        return News(source.name, "moved", "another chat template")
    return News(source.name, "moved", f"{old.commit[:12]} -> {new.commit[:12]}")


def _report(news: Sequence[News], asked: int) -> None:
    """Log one line per model with news, aligned, and the counts."""
    width = max((len(item.source) for item in news), default=0)
    kinds = max((len(item.change) for item in news), default=0)
    for item in news:
        logger.info("%-*s  %-*s  %s", width, item.source, kinds, item.change, item.detail)
    rewritten = sum(item.change in ("moved", "usable again") for item in news)
    logger.info(
        "%d models asked about, %d cards rewritten, %d without usable answer",
        asked,
        rewritten,
        len(news) - rewritten,
    )

"""Ask about every configured model whose card is missing: several at once, each only once."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants

from klmap import cards, resolve
from klmap.cards import Card
from klmap.errors import KlmapError
from klmap.log import Progress, logger
from klmap.refresh import THREADS, Source

GIVE_UP = 16
"""Questions in a row without any answer, after which the Hub is not asked any more."""


@dataclass(frozen=True)
class Answer:
    """What is known of a source: its card, why there is none, or neither for one built here."""

    card: Card | None = None
    unreachable: str = ""


def is_demo(source: Source) -> bool:
    """Whether it is a model of the demo, which the workflow builds and scores on a CPU."""
    return source.id.startswith("demo/")


def ask(
    sources: Iterable[Source], folder: Path, *, skip: bool, mirrors: Sequence[Path] = ()
) -> dict[str, Answer]:
    """What is known of every source; those without a usable card are asked about.

    A card is written as soon as its model is known, so a call that was interrupted goes on where
    it ended. Of unusable models a card is written only with ``skip``, and only where there was
    none.
    """
    answers: dict[str, Answer] = {}
    open_questions = []
    for source in sources:
        path = folder / source.name / "card.json"
        card = cards.read_card(path) if path.is_file() else None
        answers[source.name] = Answer(card)
        is_built_here = source.is_merge or (card is None and is_demo(source))
        if not is_built_here and (card is None or card.error):
            open_questions.append((source, path, card))
    if not open_questions:
        return answers
    progress = Progress(len(open_questions), "models")
    silence = _Silence()
    pool = ThreadPoolExecutor(max_workers=THREADS)
    try:
        futures = {
            pool.submit(_ask_one, source, path, old, skip, mirrors, silence): source.name
            for source, path, old in open_questions
        }
        for future in as_completed(futures):
            answers[futures[future]] = future.result()
            progress.add(1)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    progress.close()
    return answers


class _Silence:
    """How many questions in a row went without any answer, over all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._questions = 0

    @property
    def is_final(self) -> bool:
        """Whether the Hub is given up; a cache that answers in its place never is."""
        return self._questions >= GIVE_UP and not constants.HF_HUB_OFFLINE

    def count(self, answered: bool) -> None:
        """Count one question."""
        with self._lock:
            self._questions = 0 if answered else self._questions + 1
            if self._questions == GIVE_UP and self.is_final:
                logger.warning("%d questions without an answer; the rest is not asked", GIVE_UP)


def _ask_one(
    source: Source,
    path: Path,
    old: Card | None,
    skip: bool,
    mirrors: Sequence[Path],
    silence: _Silence,
) -> Answer:
    # Folders are looked at in any case: they need no Hub.
    if silence.is_final and source.folder is None:
        unreachable = f"{source.id}: not asked, because the Hub answered nobody; try again later"
        return Answer(old, "" if old else unreachable)
    try:
        card = resolve.resolve_or_explain(
            source.id,
            source.revision,
            source.folder,
            remote_code=source.remote_code,
            mirrors=mirrors,
            likelihood=source.likelihood,
        )
    except KlmapError as error:
        if source.folder is None:
            silence.count(answered=False)
        # What was known before is worth more than no answer.
        return Answer(old, "" if old else str(error))
    if source.folder is None:
        silence.count(answered=True)
    if not card.error or (skip and old is None):
        cards.write_card(path, card)
    return Answer(card)

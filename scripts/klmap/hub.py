"""Asking the Hugging Face Hub: politely, never for ever, with plain words for what goes wrong."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn, TypeVar

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from klmap.errors import KlmapError, PermanentFailure
from klmap.log import logger

NEEDS_TOKEN = "needs a token"
"""State of a model whose files this account may not read."""

GONE = "gone"
"""State of a model that the Hub does not have, at least not for this account."""

PATIENCE = float(os.environ.get("KLMAP_HUB_PATIENCE", "900"))
"""Seconds for which one question is repeated while the Hub is busy or out of order (own; the Hub
counts requests in windows of five minutes)."""

NETWORK_ATTEMPTS = 4
"""How often a question is put where no answer comes at all: without a network, waiting is vain."""

TIMEOUT = float(os.environ.get("KLMAP_HUB_TIMEOUT", "30"))
"""Seconds after which a silent connection is given up (own); the library by itself waits for
ever."""

LONGEST_WAIT = 60.0

_SPENT = re.compile(r"\br=0\s*;\s*t=(\d+)")
"""What the header RateLimit says when no request is left: seconds until there are new ones."""

_QUERY = re.compile(r"(?<=[\w/])\?[^\s'\")]+")

# Its warnings repeat those below, and hold addresses with keys in them.
logging.getLogger("huggingface_hub").setLevel(logging.ERROR)

_Result = TypeVar("_Result")


class _Turnstile:
    """When this process may ask again: the Hub's wish to wait binds every thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opens = 0.0

    def close(self, seconds: float) -> None:
        """Let nobody pass for so long."""
        with self._lock:
            self._opens = max(self._opens, time.monotonic() + seconds)

    def wait(self) -> None:
        """Pass when it is open."""
        while (left := self._opens - time.monotonic()) > 0:
            time.sleep(min(left, 1.0))


_turnstile = _Turnstile()


def ask(
    id: str,
    revision: str | None,
    question: Callable[[], _Result],
    patience: float | None = None,
) -> _Result:
    """Put one question to the Hub, again where it is busy, and explain what went wrong.

    Args:
        id: the model it is about, for messages.
        revision: the configured revision, for messages.
        question: asks through huggingface_hub and returns the answer.
        patience: seconds for which the question may be repeated; ``PATIENCE`` by default.

    Raises:
        PermanentFailure: no such model, revision or file, or no access to it.
        KlmapError: anything that may be different the next time.
    """
    name = id if revision is None else f"{id}@{revision}"
    deadline = time.monotonic() + (PATIENCE if patience is None else patience)
    attempt = 0
    while True:
        _turnstile.wait()
        try:
            return question()
        except Exception as error:
            attempt += 1
            wait = _wait_before_next(error, attempt)
            if wait is None or time.monotonic() + wait > deadline:
                _explain(name, id, revision, error)
            logger.warning("%s: %s; asking again in %.0f s", name, first_line(error), wait)
            if status_of(error) == 429:
                _turnstile.close(wait)
            else:
                time.sleep(wait)


def _wait_before_next(error: Exception, attempt: int) -> float | None:
    """Seconds to wait before the same question is put again; None where that is no use."""
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in _causes(error)):
        return None
    status = status_of(error)
    # Many jobs that failed together should not come back together.
    growing = min(2.0 ** (attempt - 1), LONGEST_WAIT) * random.uniform(0.75, 1.25)
    if status is not None:
        if status not in (408, 429) and status < 500:
            return None
        return max(_asked_to_wait(error), growing)
    return growing if is_network(error) and attempt < NETWORK_ATTEMPTS else None


def _asked_to_wait(error: BaseException) -> float:
    """Seconds for which the answer asks to be left alone; 0 where it does not say."""
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        if response is None:
            continue
        asked = str(response.headers.get("Retry-After", "")).strip()
        if asked.isdigit():
            return float(asked)
        spent = _SPENT.search(str(response.headers.get("RateLimit", "")))
        if spent is not None:
            return float(spent[1])
    return 0.0


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error; None where no answer came."""
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        if response is not None:
            return int(response.status_code)
    return None


def is_network(error: BaseException) -> bool:
    """Whether an error says that no answer, or only a part of one, came."""
    return _is_partial(error) or any(
        isinstance(cause, (ConnectionError, TimeoutError, LocalEntryNotFoundError))
        or type(cause).__module__.startswith(("httpx", "httpcore"))
        for cause in _causes(error)
    )


def _is_partial(error: BaseException) -> bool:
    """Whether an answer came that is no whole one; the library names no class for a short file."""
    return any(
        isinstance(cause, json.JSONDecodeError) or (type(cause) is OSError and cause.errno is None)
        for cause in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it; the library wraps answers in errors of its own."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _explain(name: str, id: str, revision: str | None, error: Exception) -> NoReturn:
    """Raise what an error means for the user.

    Raises:
        PermanentFailure: asking again would end the same way.
        KlmapError: it may be different the next time.
        Exception: the error itself, where the Hub is not the reason.
    """
    status = status_of(error)
    if isinstance(error, GatedRepoError):
        raise PermanentFailure(f"{name}: {_gated(id)}", NEEDS_TOKEN) from None
    if isinstance(error, DisabledRepoError):
        raise PermanentFailure(
            f"{name}: disabled by the Hub; remove it from config.yaml", GONE
        ) from None
    if isinstance(error, RevisionNotFoundError):
        raise PermanentFailure(
            f"{name}: the model exists but has no revision {revision!r}; its branches and tags "
            f"are listed at {constants.ENDPOINT}/{id}/tree/main",
            GONE,
        ) from None
    if isinstance(error, RepositoryNotFoundError):
        raise PermanentFailure(f"{name}: {_not_found(id)}", GONE) from None
    if isinstance(error, HFValidationError):
        raise PermanentFailure(
            f"{name}: not an id of the Hub (org/name); {_hint(id)}", GONE
        ) from None
    if status is not None and (status in (408, 429) or status >= 500):
        raise KlmapError(
            f"{name}: the Hub answered with an error ({first_line(error)}); run again later"
        ) from None
    if status in (401, 403):
        raise PermanentFailure(
            f"{name}: the Hub refuses access (HTTP {status}); log in with `hf auth login` or "
            "set HF_TOKEN to a token that may read it",
            NEEDS_TOKEN,
        ) from None
    if isinstance(error, (OfflineModeIsEnabled, LocalEntryNotFoundError)):
        raise KlmapError(
            f"{name}: the Hub cannot be reached from here ({first_line(error)})"
        ) from None
    if isinstance(error, EntryNotFoundError):
        raise PermanentFailure(
            f"{name}: a file is missing on the Hub ({first_line(error)})"
        ) from None
    if isinstance(error, HfHubHTTPError):
        raise KlmapError(f"{name}: the Hub answered with an error ({first_line(error)})") from None
    if _is_partial(error):
        raise KlmapError(
            f"{name}: the answer of the Hub is not whole ({first_line(error)}); run again later"
        ) from None
    if is_network(error) or (isinstance(error, OSError) and error.errno is None):
        raise KlmapError(f"{name}: the Hub cannot be reached ({first_line(error)})") from None
    raise error


def _gated(id: str) -> str:
    if get_token() is None:
        return (
            f"gated; ask for access at {constants.ENDPOINT}/{id}, then log in with "
            "`hf auth login` (or set HF_TOKEN) on the machine that fetches"
        )
    return (
        f"gated, and the account of your token has no access yet; ask for it at "
        f"{constants.ENDPOINT}/{id}, or log in as another one with `hf auth login`"
    )


def _not_found(id: str) -> str:
    return "not on the Hub, or private and your token may not read it (`hf auth login`); " + _hint(
        id
    )


def _hint(id: str) -> str:
    """What the user may have meant: a folder of that name, or a typing error."""
    if Path(id).is_dir():
        return f"a folder of that name exists here: write ./{id} in config.yaml to use it"
    return "check the spelling; a local folder is written with ./ in front"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none.

    Without what follows the question mark of an address: there are the keys to the content.
    """
    lines = str(error).strip().splitlines()
    return _QUERY.sub("", lines[0]) if lines else type(error).__name__

"""One file of the web: fetched whole or not at all, and known by its hash.

What breaks off is carried on where it stopped, where the server allows it; a busy server is asked
again, and a silent one does not hold the job for ever. No token of the Hub is sent anywhere.
"""

from __future__ import annotations

import datetime
import email.utils
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import IncompleteRead, ReadTimeoutError

from klmap.errors import InputError, KlmapError
from klmap.files import sha256_of
from klmap.log import Progress, logger

BLOCK = 1 << 16
"""Bytes written at a time, and at most lost when a connection breaks."""

_POINTER = b"version https://git-lfs"

BY_HAND = "download it by hand and name the copy (source: file, or path: in a release)"


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for.

    Attributes:
        connect: seconds until a connection must stand.
        silence: seconds without a byte after which a connection is given up.
        attempts: failures in a row, with nothing new received, after which all is given up.
        first_wait: seconds between the first failure and the next attempt; doubled each time.
        longest_wait: seconds that are waited at most; a server that wants more ends the download.
    """

    connect: float = 20.0
    silence: float = 60.0
    attempts: int = 7
    first_wait: float = 2.0
    longest_wait: float = 300.0


def download(url: str, sha256: str | None, target: Path, patience: Patience | None = None) -> str:
    """Fetch a file and check its hash; redirects are followed.

    Args:
        url: an address that begins with http:// or https://.
        sha256: what the file's SHA-256 must be, 64 hexadecimal digits in small letters; None where
            the address itself stands for one state of the file.
        target: where to put it; an old file is overwritten. After an error a part may lie there.
        patience: how long to wait for the server; as long as ``Patience`` says by default.

    Returns:
        The file's SHA-256.

    Raises:
        InputError: there is no such file, it is not for everybody, or it is another one.
        KlmapError: the server or the network failed too often; another time may do better.
    """
    target.unlink(missing_ok=True)
    with requests.Session() as session:
        # Packed on the way, a part of the file could not be told from a part of the packed bytes.
        session.headers.update({"Accept-Encoding": "identity", "User-Agent": "klmap"})
        kind = _Download(session, url, target, patience or Patience()).run()
    found = sha256_of(target)
    size = target.stat().st_size
    if _is_pointer(target):
        raise InputError(
            f"{shown(url)}: what came is the pointer that Git LFS keeps in the place of a large "
            f"file, not the file; {BY_HAND}"
        )
    if sha256 is not None and found != sha256:
        raise InputError(
            f"{shown(url)}: the sha256 of what came ({size:,} bytes, {kind}) is {found}, "
            f"config.yaml says {sha256}. If the file was changed on purpose, check it and write "
            "the new hash; if it should be the same, the address gives something else, such as a "
            "page to log in"
        )
    what = f"is {found}" if sha256 is None else "is right"
    logger.info("%s: %s bytes, the sha256 %s", shown(url), f"{size:,}", what)
    return found


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def shown(url: str) -> str:
    """An address as it may stand in a log: what follows the ? can be a key to the file."""
    parts = urlsplit(url)
    return parts._replace(query="..." if parts.query else "", fragment="").geturl()


class _BrokenOff(Exception):
    """An attempt failed in a way that another may not.

    Args:
        reason: what happened, in a few words.
        wait: seconds that the server asked to be left alone.
    """

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class _Download:
    """One download over as many attempts as it takes."""

    def __init__(
        self, session: requests.Session, url: str, target: Path, patience: Patience
    ) -> None:
        self.session = session
        self.url = url
        self.name = shown(url)
        self.target = target
        self.patience = patience
        self.version: str | None = None
        """What the server calls this state of the file; without it a rest could be another's."""

    def run(self) -> str:
        """Receive the whole file; returns what kind of content the server says it is."""
        failures = furthest = 0
        while True:
            try:
                return self._attempt()
            except _BrokenOff as trouble:
                received = self._received()
                failures = 0 if received > furthest else failures + 1
                furthest = max(furthest, received)
                self._wait_or_give_up(trouble, failures)

    def _received(self) -> int:
        return self.target.stat().st_size if self.target.exists() else 0

    def _wait_or_give_up(self, trouble: _BrokenOff, failures: int) -> None:
        patience = self.patience
        if failures >= patience.attempts:
            raise KlmapError(
                f"{self.name}: {trouble}; given up after {failures} attempts that brought nothing "
                "new. Run again later, on a machine that reaches the network"
            )
        if trouble.wait > patience.longest_wait:
            raise KlmapError(
                f"{self.name}: {trouble}, and asks to be left alone for {trouble.wait:.0f} s; run "
                "again after that"
            )
        growing = min(patience.first_wait * 2 ** max(failures - 1, 0), patience.longest_wait)
        wait = max(growing, trouble.wait)
        logger.warning("%s: %s; next attempt in %.0f s", self.name, trouble, wait)
        time.sleep(wait)

    def _attempt(self) -> str:
        start, headers = 0, {}
        if self.version and (start := self._received()):
            headers = {"Range": f"bytes={start}-", "If-Range": self.version}
        timeout = (self.patience.connect, self.patience.silence)
        try:
            with self.session.get(
                self.url, headers=headers, stream=True, timeout=timeout
            ) as response:
                self._check(response, start)
                self._store(response, resumed=start > 0 and response.status_code == 206)
                return response.headers.get("Content-Type") or "kind not said"
        except requests.RequestException as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise InputError(
                    f"{self.name}: the certificate of the server is not trusted here; check the "
                    f"address, or {BY_HAND}"
                ) from None
            if isinstance(error, _MAY_PASS):
                raise _BrokenOff(_words(error)) from None
            raise InputError(
                f"{self.name}: cannot be fetched ({type(error).__name__}); check the address, or "
                f"{BY_HAND}"
            ) from None

    def _check(self, response: requests.Response, start: int) -> None:
        """Go on with what was asked for, and with nothing else."""
        status = response.status_code
        if status in (408, 425, 429) or status >= 500:
            raise _BrokenOff(f"the server answers {_status(response)}", _asked_to_wait(response))
        if status in (401, 403):
            raise InputError(
                f"{self.name}: the server answers {_status(response)}: not a file for everybody, "
                f"and klmap sends no password or token; {BY_HAND}"
            )
        if status in (404, 410):
            raise InputError(
                f"{self.name}: the server answers {_status(response)}: no such file; check the "
                f"address, or {BY_HAND}"
            )
        part = response.headers.get("Content-Range", "")
        if status == 416 or (status == 206 and not part.startswith(f"bytes {start}-")):
            self.version = None
            raise _BrokenOff("the server has no such part of the file; from the start again")
        if status not in (200, 206):
            raise InputError(
                f"{self.name}: the server answers {_status(response)} instead of a file; check the "
                f"address, or {BY_HAND}"
            )

    def _store(self, response: requests.Response, resumed: bool) -> None:
        self.version = _version(response)
        length = "" if _is_packed(response) else response.headers.get("Content-Length", "")
        progress = Progress(int(length), f"bytes of {self.name}") if length.isdigit() else None
        with self.target.open("ab" if resumed else "wb") as file:
            for block in response.iter_content(BLOCK):
                file.write(block)
                if progress is not None:
                    progress.add(len(block))
        if progress is not None:
            progress.close()


_MAY_PASS = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
)
"""What the network does on one day and not on the next."""


def _status(response: requests.Response) -> str:
    return f"{response.status_code} {response.reason or ''}".strip()


def _version(response: requests.Response) -> str | None:
    """A name of the file's state that ``If-Range`` takes; None where only the whole will do."""
    if _is_packed(response):
        return None
    tag = response.headers.get("ETag", "")
    # A weak tag also stands for files that differ by some bytes.
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _is_packed(response: requests.Response) -> bool:
    """Whether the server packed the file on the way, so that its lengths are not the file's."""
    return response.headers.get("Content-Encoding", "identity") != "identity"


def _asked_to_wait(response: requests.Response) -> float:
    """Seconds in ``Retry-After``, which may be a number or a date; 0 without one."""
    asked = response.headers.get("Retry-After", "").strip()
    if asked.isdigit():
        return float(asked)
    try:
        moment = email.utils.parsedate_to_datetime(asked)
    except (TypeError, ValueError):
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return max(0.0, (moment - datetime.datetime.now(datetime.UTC)).total_seconds())


def _words(error: Exception) -> str:
    """What went wrong without the address, which a library repeats with its keys."""
    cause: BaseException = error
    while True:
        inner = getattr(cause, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((arg for arg in cause.args if isinstance(arg, BaseException)), None)
        if inner is None:
            break
        cause = inner
    if isinstance(cause, IncompleteRead):
        return "the connection was closed before the end of the file"
    if isinstance(cause, ReadTimeoutError):
        return "the server fell silent"
    # In front of its words urllib3 names an object with the host, which the message names already.
    text = str(cause.args[-1]).rpartition("): ")[2] if cause.args else ""
    return f"{type(cause).__name__}: {text}" if text else type(cause).__name__

"""Logging, progress and the way a script ends.

Scripts write to standard error; their rule sends that to its log file. Progress is a bar in a
terminal and a line now and then in a file, so that a log stays readable.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import logging
import os
import stat
import sys
import time
from collections.abc import Callable
from typing import TextIO

from klmap.errors import KlmapError, PermanentFailure
from klmap.interruption import Terminated

EXIT_ERROR = 1
EXIT_PERMANENT = 3
EXIT_INTERRUPTED = 130

logger = logging.getLogger("klmap")


def setup(level: int = logging.INFO) -> logging.Logger:
    """Send klmap's log lines to standard error, with the time of day in front."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
    return logger


def run(main: Callable[[], None]) -> None:
    """Run a script's ``main`` and turn what it raises into an exit status.

    Args:
        main: the script's entry point; it parses its own arguments.

    Raises:
        SystemExit: 1 for an error, 3 for a model that can never be scored, 130 after Ctrl-C, 143
            after SIGTERM where that is received. An expected error is shown as its message alone,
            anything else with its traceback.
    """
    setup()
    _append()
    # Importing torch and transformers makes millions of objects that stay: looking for garbage
    # among them over and over takes a fifth of a script's start.
    gc.set_threshold(200_000, 50, 100)
    try:
        main()
    except PermanentFailure as error:
        logger.error("%s", error)
        raise SystemExit(EXIT_PERMANENT) from None
    except KlmapError as error:
        logger.error("%s", error)
        raise SystemExit(EXIT_ERROR) from None
    except Terminated as error:
        logger.error("%s", error)
        raise SystemExit(error.status) from None
    except KeyboardInterrupt:
        logger.error("interrupted; nothing half-written was kept")
        raise SystemExit(EXIT_INTERRUPTED) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            logger.error("%s; nothing half-written was kept. Free space and run again", error)
        else:
            logger.exception("the operating system refused: %s", error)
        raise SystemExit(EXIT_ERROR) from None
    except Exception:
        logger.exception("unexpected error; please report it with this log")
        raise SystemExit(EXIT_ERROR) from None


def _append() -> None:
    """Write behind whatever is in the log file by then.

    Another attempt at the same job may begin the file anew while this one still writes, and would
    find a hole of zeros in it.
    """
    with contextlib.suppress(OSError, ValueError):
        descriptor = sys.stderr.fileno()
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
            fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_APPEND)


class Progress:
    """Counts finished units of work and says how long the rest will take.

    Args:
        total: number of units (tokens, texts, steps) in the whole work.
        what: the unit's name, as it should read in the log.
        every: seconds between two lines in a log file; a terminal is refreshed ten times a second.
        stream: where to write; standard error by default.
    """

    def __init__(
        self, total: int, what: str, every: float = 10.0, stream: TextIO | None = None
    ) -> None:
        self.total = max(int(total), 1)
        self.what = what
        self.stream = stream if stream is not None else sys.stderr
        self.terminal = self.stream.isatty()
        self.every = 0.1 if self.terminal else every
        self.done = 0
        self.start = time.monotonic()
        self.last = self.start

    def add(self, units: int) -> None:
        """Count ``units`` as finished and report when a report is due."""
        self.done += units
        now = time.monotonic()
        if now - self.last >= self.every:
            self.last = now
            self._report(now)

    @property
    def left(self) -> float:
        """Seconds that the rest will take; infinite as long as nothing is finished."""
        if not self.done:
            return float("inf")
        return (self.total - self.done) * (time.monotonic() - self.start) / self.done

    def close(self) -> None:
        """Report the final count."""
        self._report(time.monotonic())
        if self.terminal:
            self.stream.write("\n")

    def _report(self, now: float) -> None:
        elapsed = max(now - self.start, 1e-9)
        rate = self.done / elapsed
        share = self.done / self.total
        line = f"{self.done:,} of {self.total:,} {self.what} ({share:.0%}), {rate:,.0f}/s"
        if self.done < self.total:
            line += f", {self.left:,.0f} s left"
        if self.terminal:
            bar = "#" * int(30 * share)
            self.stream.write(f"\r[{bar:<30}] {line}\033[K")
            self.stream.flush()
        else:
            logger.info("%s", line)

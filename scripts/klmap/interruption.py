"""How a job that takes hours is asked to end, and ends behind the batch it is at.

A scheduler that wants a machine back sends SIGTERM, a person presses Ctrl-C, another job takes
over. Whoever asks, the work is saved first where there is any, and the next attempt goes on there.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Self

ECHO = 5.0
"""Seconds within which a second SIGTERM is the same request: srun forwards the one it gets, and
its tasks get one of their own."""


class Terminated(KeyboardInterrupt):
    """A signal has asked the process to end; no ``except Exception`` of a library keeps it.

    Args:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}; what was saved is continued")
        self.status = 128 + number


class Interruption:
    """A request to end that has or has not been made; the first one counts.

    Attributes:
        saves: whether the work is to be saved first; not where another job is already at it.
    """

    def __init__(self) -> None:
        self.saves = True
        self._error: BaseException | None = None
        self._patient = False
        self._received: dict[int, float] = {}

    @property
    def is_asked(self) -> bool:
        """Whether the job is to end."""
        return self._error is not None

    def ask(self, error: BaseException, *, saves: bool = True) -> None:
        """Ask the job to end with an error; may be called by any thread."""
        if self._error is None:
            self.saves = saves
            self._error = error

    def obey(self) -> None:
        """End if that has been asked for.

        Raises:
            BaseException: the error that was given to ``ask``.
        """
        if self._error is not None:
            raise self._error

    @contextlib.contextmanager
    def patiently(self) -> Iterator[None]:
        """Within the block a signal waits until the block calls ``obey``."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    def on_signals(self) -> Self:
        """Let SIGTERM and SIGINT ask from now on; a second one ends the process at once.

        Raises:
            ValueError: this is not the main thread.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)
        return self

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if number in self._received:
            if number == signal.SIGINT or now - self._received[number] > ECHO:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            return
        self._received[number] = now
        error = Terminated(number)
        # Python drops what is raised while it collects garbage, so the request is kept as well.
        self.ask(error)
        if not self._patient:
            raise error

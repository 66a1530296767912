"""The side file of an unfinished scoring job, from which a killed job goes on.

Batches depend on the text set, the tokenizer and the token budget alone, so what a job has done
is described by how many pieces it has finished and by their numbers. The file says whom it
belongs to: another model, text set, library version or processor would give other last digits,
and a score made of two halves would be neither.
"""

from __future__ import annotations

import hashlib
import json
import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from klmap.files import atomic, canonical
from klmap.interruption import Interruption
from klmap.log import logger


@dataclass
class State:
    """What an unfinished job has done.

    Attributes:
        pieces: finished pieces, in the order in which they are scored.
        budget: tokens per batch from there on.
        values: nats per token scored so far, in that order.
        how: choices made while loading that decide about last digits: dtype, head, products.
        seconds: how long that took, of all attempts.
        layers: (Y, pieces) float64, nats per finished piece by each hidden state; None without any.
    """

    pieces: int
    budget: int
    values: npt.NDArray[Any]
    how: dict[str, str]
    seconds: float
    layers: npt.NDArray[np.float64] | None = None


class Checkpoint:
    """Saves and finds the state of one scoring job.

    Args:
        path: the side file.
        identity: everything that must be the same for the state to be continued.
        every: seconds between two savings; 0 saves after each batch.
        interruption: ends the job behind a batch, as soon as its state is saved.
    """

    def __init__(
        self,
        path: Path,
        identity: Mapping[str, Any],
        every: float,
        interruption: Interruption | None = None,
    ) -> None:
        self.path = path
        self.identity = canonical(identity)
        self.every = every
        self.interruption = interruption or Interruption()
        self.last = self.began = time.monotonic()
        self.how: dict[str, str] = {}
        self.state = self._read()

    def _read(self) -> State | None:
        """The state to continue from; None where there is none, or not one of this job."""
        if not self.path.is_file():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as file:
                about = json.loads(str(file["about"]))
                values = file["values"]
                layers = file["layers"] if "layers" in file.files else None
            state = State(
                about["pieces"],
                about["budget"],
                values,
                about["how"],
                about["seconds"],
                layers,
            )
            identity = about["identity"]
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            logger.warning("%s: not readable (%s); the job starts anew", self.path, error)
            return None
        if identity != self.identity:
            logger.info(
                "%s: left by a job with other inputs, libraries or hardware; the job starts anew",
                self.path,
            )
            return None
        return state

    def begin(self, how: Mapping[str, str]) -> State | None:
        """Fix the choices made while loading, and give the state they can continue.

        Args:
            how: the choices of this attempt.

        Returns:
            The state, if it was made with the same choices.
        """
        self.how = dict(how)
        if self.state is not None and self.state.how != self.how:
            logger.info(
                "%s: made with %s, now it is %s; the job starts anew",
                self.path,
                self.state.how,
                self.how,
            )
            self.state = None
        self.last = time.monotonic()
        self.began = self.last - (self.state.seconds if self.state is not None else 0.0)
        return self.state

    @property
    def seconds(self) -> float:
        """How long the batches have taken, those of earlier attempts included."""
        return time.monotonic() - self.began

    @property
    def due(self) -> bool:
        """Whether it is time to save, or the job is to end."""
        return self.interruption.is_asked or time.monotonic() - self.last >= self.every

    def save(
        self,
        pieces: int,
        budget: int,
        values: npt.NDArray[Any],
        layers: npt.NDArray[np.float64] | None = None,
    ) -> None:
        """Write the state atomically, then end if the job was asked to.

        Args:
            pieces: finished pieces.
            budget: tokens per batch from there on.
            values: nats per token scored so far.
            layers: (Y, pieces) nats per finished piece by each hidden state, if any is read.

        Raises:
            BaseException: what the interruption ends the job with.
        """
        about = {
            "identity": self.identity,
            "how": self.how,
            "pieces": pieces,
            "budget": budget,
            "seconds": self.seconds,
        }
        if self.interruption.saves:
            arrays: dict[str, Any] = {"values": values}
            if layers is not None:
                arrays["layers"] = layers
            with atomic(self.path) as temporary, temporary.open("wb") as file:
                np.savez(file, about=np.array(json.dumps(about)), **arrays)
        self.last = time.monotonic()
        self.interruption.obey()


def digest(sequences: Iterable[Sequence[int]]) -> str:
    """SHA-256 over token ids and the limits between texts, as 64 hexadecimal digits."""
    found = hashlib.sha256()
    for sequence in sequences:
        found.update(np.asarray([len(sequence), *sequence], np.int64).tobytes())
    return found.hexdigest()

"""What can stand for the log-likelihood of a text: one kind for each file ``scorer_as_<kind>.py``.

Known by the names of these files, so that configurations are read without torch.
"""

from __future__ import annotations

from pathlib import Path

CAUSAL = "causal"
"""The likelihood of a model that reads from left to right; what is meant where nothing is said."""

_FILES = Path(__file__).parent.glob("scorer_as_*.py")

NAMES = (CAUSAL, *sorted({path.stem.removeprefix("scorer_as_") for path in _FILES} - {CAUSAL}))
"""All kinds."""

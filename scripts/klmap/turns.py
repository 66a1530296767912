"""Whose turn it is: priorities of the jobs of a plan.

Later stages go first, and within one the order of the configuration counts. Scoring goes before
fetching, because it makes room; looking up goes before both, because it is cheap and says early
what cannot be scored.
"""

from __future__ import annotations

from klmap.plan import Plan

_FETCH, _SCORE, _RESOLVE, _STAGES = range(4)


def first(plan: Plan) -> int:
    """Priority of what others wait for: the texts, and the demo's training runs."""
    return (_STAGES + 1) * len(plan.places)


def resolve(plan: Plan, source: str) -> int:
    """Priority of looking up a model."""
    return _turn(plan, source, _RESOLVE)


def score(plan: Plan, model: str) -> int:
    """Priority of a score."""
    return _turn(plan, plan.config.by_slug[model].source, _SCORE)


def fetch(plan: Plan, source: str) -> int:
    """Priority of a download, or of making a merge."""
    return _turn(plan, source, _FETCH)


def _turn(plan: Plan, source: str, stage: int) -> int:
    return (stage + 1) * len(plan.places) - plan.places[source]

"""A dry run that a person can take in: Snakemake's table of jobs, then what they mean.

Knows the objects of a running Snakemake, which hands them over; nothing is imported from it.
"""

from __future__ import annotations

import ast
import contextlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from klmap import forecast, releases
from klmap.config_analyses import NAMES
from klmap.forecast import Outlook, Planned
from klmap.plan import Plan

MANY = 16
"""Jobs up to which Snakemake describes each of them, in ten lines; and models, all of whose files
stand in the description of `matrix`."""

WIDEST = 100
"""Columns that are used of a wide terminal."""

_DRAWN = [
    "index", "matrix", "kl", "layout", "tree", "ellipses", "domains", "figures", "explorer",
    "offmap", *NAMES, "mixture_check",
]  # fmt: skip


@dataclass(frozen=True)
class Snakemake:
    """What is needed of Snakemake.

    Attributes:
        workflow: the workflow, while its rules are read.
        logger: where it logs.
        quietness: names of what it can be quiet about.
        file: makes one of its files from a path.
    """

    workflow: Any
    logger: logging.Logger
    quietness: Any
    file: Callable[[str], Any]

    def settings_of(self, score: Path) -> Mapping[str, Any] | None:
        """Settings of a score as noted when it was made; None where they were not."""
        record = self.workflow.persistence.metadata(self.file(str(score)))
        for param in (record.params if record is not None else None) or ():
            with contextlib.suppress(ValueError, SyntaxError, TypeError):
                settings = json.loads(ast.literal_eval(param))
                if isinstance(settings, dict):
                    return settings
        return None


class Summary(logging.Handler):
    """Leaves the description of each job out where there are many, and has the last word.

    It gets every message of Snakemake's. The first one behind the plan says how many jobs there
    are, before the first is described; when Snakemake closes it, everything has been said.

    Args:
        snakemake: what there is of Snakemake.
        look: tells what a plan means for each text set, given its jobs.
        models: number of configured models.
        shortens: whether descriptions may be left out.
    """

    def __init__(
        self,
        snakemake: Snakemake,
        look: Callable[[list[Any]], list[Outlook]],
        models: int,
        *,
        shortens: bool,
    ) -> None:
        super().__init__()
        self._snakemake = snakemake
        self._look = look
        self._models = models
        self._shortens = shortens
        self._is_short = False
        self._is_planned = False
        self._outlooks: list[Outlook] = []
        self._counts: Counter[str] = Counter()

    def emit(self, _: logging.LogRecord) -> None:
        """Look at the plan, once it is there."""
        workflow = self._snakemake.workflow
        # The scheduler comes last; there is none where a drawing or a list was asked for.
        if workflow.scheduler is None or self._is_planned:
            return
        self._is_planned = True
        jobs = list(workflow.dag.needrun_jobs())
        self._counts.update(job.rule.name for job in jobs)
        many = len(jobs) > MANY or (self._counts["matrix"] and self._models > MANY)
        if many and self._shortens:
            self._is_short = True
            # With these, Snakemake ends a dry run behind the table of jobs.
            names = self._snakemake.quietness
            workflow.output_settings.quiet = {names.RULES, names.PROGRESS}
        try:
            self._outlooks = self._look(jobs)
        except OSError as error:
            self._snakemake.logger.warning(f"klmap cannot say what this means: {error}")

    def close(self) -> None:
        """Print what the plan means, once."""
        width = min(shutil.get_terminal_size((WIDEST, 0)).columns, WIDEST)
        text = forecast.render(self._outlooks, self._counts, width, short=self._is_short)
        self._outlooks = []
        # The table of jobs ends with an empty line, what Snakemake says otherwise does not.
        above = "\n" if text and not self._is_short else ""
        print(above + text, end="", flush=True)
        super().close()


def announce(snakemake: Snakemake, asked: Plan, code: str) -> None:
    """Make this dry run end with what it means, and leave out what is too long to read.

    Whoever chose what is printed (``--quiet``, ``--printshellcmds``, ``--verbose``,
    ``--debug-dag``) gets that.

    Args:
        snakemake: what there is of Snakemake while it reads the rules.
        asked: what the configuration asks for.
        code: the param that stands for the version of the library.
    """
    output = snakemake.workflow.output_settings
    if output.quiet and snakemake.quietness.ALL in output.quiet:
        return

    def look(jobs: list[Any]) -> list[Outlook]:
        concerned = {
            job.wildcards.texts
            for job in snakemake.workflow.dag.jobs
            if job.rule.name in ("score", "matrix")
        }
        return [
            _look(snakemake, asked, code, texts, jobs)
            for texts in asked.config.scored_on
            if texts in concerned
        ]

    shortens = not (output.quiet or output.printshellcmds or output.verbose or output.debug_dag)
    snakemake.logger.addHandler(
        Summary(snakemake, look, len(asked.config.models), shortens=shortens)
    )


def _look(snakemake: Snakemake, asked: Plan, code: str, texts: str, jobs: Sequence[Any]) -> Outlook:
    """One text set, as planned and as it lies on the disk."""
    config = asked.config
    entries = config.scored_on[texts]
    reference = asked.references.get(texts)
    wanted = {job.wildcards.release for job in jobs if job.rule.name == "published"}
    here = {name: each for name, each in config.published.items() if each.texts == texts}
    importing = {name: each.models for name, each in here.items() if name in wanted}
    imported = {
        name: count
        for name in here
        if name not in wanted and (count := releases.count(Path(config.results), name)) is not None
    }
    return forecast.look(
        texts,
        Path(config.results, texts),
        plan(snakemake.workflow.dag, texts, jobs, code),
        {model: Path(asked.score(texts, model)) for model in entries},
        {model: Path(asked.card(entry.source)) for model, entry in entries.items()},
        {model: json.loads(asked.spec(texts, model)) for model in entries},
        snakemake.settings_of,
        imported,
        importing,
        None
        if reference is None
        else (config.selections[texts].of, asked.models_of_reference(texts)),
    )


def plan(dag: Any, texts: str, jobs: Iterable[Any], code: str) -> Planned:
    """What Snakemake would do for one text set.

    Args:
        dag: Snakemake's graph of jobs.
        texts: name of the text set.
        jobs: the jobs that would run.
        code: the param that stands for the version of the library.
    """
    planned = Planned()
    because: dict[str, None] = {}
    for job in jobs:
        name = job.rule.name
        if getattr(job.wildcards, "texts", None) != texts:
            continue
        if name == "score":
            planned.scores[job.wildcards.model] = _why(dag.reason(job))
        elif name in _DRAWN:
            planned.drawn.append(name)
            because |= dict.fromkeys(_why_drawn(dag.reason(job), code))
    planned.drawn.sort(key=_DRAWN.index)
    if not planned.scores and "index" not in planned.drawn:
        planned.because.extend(because)
    return planned


def _why(reason: Any) -> str:
    """Why a score that is there would be made again; empty where it is missing."""
    if reason.forced:
        return "asked for by hand"
    names = {Path(path).name for path in {*reason.updated_input, *reason.updated_input_run}}
    if names & {"texts.jsonl", "texts.json"}:
        return "the texts are newer"
    if reason.incomplete_output:
        return "Snakemake did not see its job end"
    return "settings" if reason.params_changed or reason.input_changed else ""


def _why_drawn(reason: Any, code: str) -> list[str]:
    """Why one job of the aggregation would run, but for jobs before it."""
    if reason.forced:
        return ["asked for by hand"]
    if reason.params_changed:
        version = any(code in str(param) for param in reason.params_changed.only_new)
        return ["klmap was updated" if version else "settings of the map have changed"]
    return ["files are missing"] if reason.missing_output else []

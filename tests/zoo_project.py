"""Models of the demo zoo for tests that run the workflow: each is trained once in a session."""

from __future__ import annotations

import shutil

import pytest

from tests.project import Project, copy_clone

ZOO = "results/models/_zoo"


def give_zoo(factory: pytest.TempPathFactory, project: Project, *runs: str) -> None:
    """Put runs of the demo zoo where the workflow of a project looks for them.

    Args:
        factory: of the session's folders, in one of which the workflow trains the runs.
        project: one without models.
        runs: names as in ``klmap.zoo_runs``; those that they start from come too.
    """
    folder = factory.getbasetemp() / "zoo"
    workshop = Project(folder) if folder.exists() else copy_clone(folder)
    workshop.configure(texts={"any": {"source": "environment"}}, models=["demo/gpt2-base"])
    workshop.run(*(f"{ZOO}/runs/{run}" for run in runs))
    # With their times: a run that is older than its corpus would be trained again.
    shutil.copytree(folder / ZOO, project.folder / ZOO)

"""What several test modules share: one finished small project, made once."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.project import Project, make_project


@pytest.fixture(autouse=True)
def online() -> Iterator[None]:
    """Give back the network that a scorer within the test process shuts off."""
    before = os.environ.get("HF_HUB_OFFLINE"), constants.HF_HUB_OFFLINE
    yield
    os.environ.pop("HF_HUB_OFFLINE", None)
    if before[0] is not None:
        os.environ["HF_HUB_OFFLINE"] = before[0]
    constants.HF_HUB_OFFLINE = before[1]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose map is drawn. Copy it before changing anything."""
    project = make_project(tmp_path_factory.mktemp("finished") / "klmap")
    project.run()
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A finished project of one's own."""
    return finished.copy(tmp_path / "klmap")

"""What several test modules share: one finished small project, made once."""

from pathlib import Path

import pytest

from tests.project import Project, make_project


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

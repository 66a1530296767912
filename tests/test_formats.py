"""docs/formats.md is true: its example runs, and every name in it exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from klmap import collect, index, layout, neighbors, store, store_score
from tests.mapfiles import Folder, zoo

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "formats.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = zoo(tmp_path_factory.mktemp("formats") / "demo")
    found = folder.collect()
    distances, _ = neighbors.measure(found.matrix, 10, 5000)
    store.write_matrix(folder.root / "matrix.h5", found.matrix)
    store.write_distances(folder.root / "kl.h5", distances)
    return folder


def test_the_example_runs_and_agrees_with_itself(folder: Folder) -> None:
    code = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len(code) == 1
    done = subprocess.run(
        [sys.executable, "-c", code[0]],
        cwd=folder.root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r": (\S+) \+- (\S+) bits/byte \((\S+)\)", done.stdout)
    assert found is not None
    assert float(found[1]) > float(found[2]) > 0
    assert found[1] == found[3]


def described(name: str) -> dict[str, str]:
    """Datasets and their types in the table of one format."""
    section = DOCUMENT.read_text().split(f"**`{name}`**")[1].split("**`klmap-")[0]
    rows = re.findall(r"^\| `([\w/]+)` \| (\w+) \[", section, re.MULTILINE)
    return dict(rows)


def datasets(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = "string" if item.dtype == object else str(item.dtype)

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def test_every_dataset_is_described_with_its_type(folder: Folder, tmp_path: Path) -> None:
    matrix = folder.root / "matrix.h5"
    assert datasets(matrix) == described("klmap-matrix")
    assert datasets(folder.root / "kl.h5") == described("klmap-kl")
    score = store_score.read_score(folder.score_path("demo--merge"))
    score.token_logprob = np.zeros(3, np.float32)
    score.token_offset = np.zeros(4, np.int64)
    store_score.write_score(tmp_path / "x.h5", score)
    assert datasets(tmp_path / "x.h5") == described("klmap-score")


def test_every_attribute_and_column_is_described(folder: Folder) -> None:
    text = DOCUMENT.read_text()
    for path in (folder.root / "matrix.h5", folder.root / "kl.h5"):
        with h5py.File(path) as file:
            for name in file.attrs:
                assert f"`{name}`" in text, name
    columns = [
        *(field for field in collect.Model.__dataclass_fields__),
        *index.COLUMNS,
        *collect.FAILURE_COLUMNS,
        *layout.COLUMNS,
        *neighbors.COLUMNS,
    ]
    for name in columns:
        assert f"`{name}`" in text, name

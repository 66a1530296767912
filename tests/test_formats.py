"""docs/formats.md and docs/analyses.md are true: examples run, and every name is described."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

from klmap import (
    axes,
    code_lengths,
    configfile,
    contrast,
    conventions,
    geometry,
    index,
    layout,
    leakage,
    models_table,
    neighbors,
    prediction_files,
    resample,
    robustness,
    store,
    store_score,
    store_selection,
    texts,
)
from klmap.benchmarks import Benchmarks
from klmap.config_analyses import NAMES
from tests import mapfiles
from tests.mapfiles import Folder, zoo

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "formats.md"
ANALYSES = DOCUMENT.with_name("analyses.md")
AXES = {
    "axes/variance.tsv": ("component", "variance", "share", "cumulative"),
    "axes/places.tsv": ("model", "axis1"),
    "axes/texts.tsv": ("component", "end", "rank", "index", "domain", "loading", "text"),
    "axes/domains.tsv": ("component", "domain", "texts", "share", "mean_loading"),
    "axes/correlations.tsv": ("feature", "task", "models", "pearson", "spearman"),
}
TABLES = {
    "conventions.tsv": [field.name for field in fields(conventions.Difference)],
    "predict/accuracy.tsv": [field.name for field in fields(prediction_files.Accuracy)],
    "predict/predictions.tsv": [field.name for field in fields(prediction_files.Predicted)],
    "predict/curve.tsv": [field.name for field in fields(prediction_files.CurvePoint)],
    "leakage/leakage.tsv": leakage.COLUMNS,
    "leakage/domains.tsv": leakage.DOMAIN_COLUMNS,
    "contrast/comparisons.tsv": contrast.COMPARISON_COLUMNS,
    "contrast/domains.tsv": contrast.DOMAIN_COLUMNS,
    "contrast/texts.tsv": contrast.TEXT_COLUMNS,
    "robustness/halves.tsv": robustness.HALF_COLUMNS,
    "robustness/domains.tsv": robustness.DOMAIN_COLUMNS,
    "robustness/numbers.tsv": robustness.NUMBER_COLUMNS,
    "robustness/sets.tsv": robustness.SET_COLUMNS,
    "resample/errors.tsv": resample.ERROR_COLUMNS,
    "resample/numbers.tsv": resample.NUMBER_COLUMNS,
    "resample/stability.tsv": resample.STABILITY_COLUMNS,
    "resample/ellipses.tsv": resample.ELLIPSE_COLUMNS,
    "resample/places.tsv": resample.PLACE_COLUMNS,
}


SELECTION = DOCUMENT.with_name("selection.md")


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
    score.layers = np.zeros(1, np.int32)
    score.layer_loglik = np.zeros((1, len(score.loglik)))
    score.weights_sketch = np.zeros(3)
    store_score.write_score(tmp_path / "x.h5", score)
    assert datasets(tmp_path / "x.h5") == described("klmap-score")


def test_every_attribute_and_column_is_described(folder: Folder) -> None:
    text = DOCUMENT.read_text()
    for path in (folder.root / "matrix.h5", folder.root / "kl.h5"):
        with h5py.File(path) as file:
            for name in file.attrs:
                assert f"`{name}`" in text, name
    columns = [
        *(field for field in models_table.Model.__dataclass_fields__),
        *index.COLUMNS,
        *models_table.FAILURE_COLUMNS,
        *layout.COLUMNS,
        *neighbors.COLUMNS,
    ]
    for name in columns:
        assert f"`{name}`" in text, name


@pytest.mark.parametrize("table", [*TABLES, *AXES])
def test_every_column_stands_in_the_paragraph_of_its_table(table: str) -> None:
    paragraph = DOCUMENT.read_text().split(f"**`{table}`**")[1].split("\n\n")[0]
    for name in (TABLES | AXES)[table]:
        assert f"`{name}`" in paragraph, name


def test_columns_of_the_axes_are_those_that_are_written(folder: Folder, tmp_path: Path) -> None:
    models = folder.collect().models
    with store.open_matrix(folder.root / "matrix.h5") as matrix:
        found = axes.find(matrix, 1)
        domains = code_lengths.told_apart(matrix.domain)
        described = texts.read_texts(folder.texts)
        axes.write(tmp_path, found, models, domains, described, 1)
        scores = Benchmarks(["task"], np.zeros((len(models), 1)))
        correlations = axes.correlate(matrix, models, found, scores)
    axes.write_correlations(tmp_path / "correlations.tsv", correlations)
    for table, columns in AXES.items():
        header = (tmp_path / Path(table).name).read_text().splitlines()[0]
        assert tuple(header.split("	")) == columns


def small_selection(path: Path) -> store_selection.Selection:
    rng = np.random.default_rng(0)
    design, index = mapfiles.drawn(rng.random(40) + 0.1, 30, rng)
    count = design.balance.round().astype(np.int32)
    made = store_selection.Selection(
        index=index.astype(np.int32),
        weight=design.weight,
        variance=design.variance,
        balance=design.balance,
        probability=np.full(len(index), 0.025),
        count=count,
        expected=np.full(len(index), -700.0),
        expected_mean=-700.0,
        method="ls",
        replacement=True,
        n=30,
        seed=0,
        texts=40,
        mean_bytes=990.0,
        texts_sha256="a" * 64,
        reference="b" * 12,
        models=5,
        clip_threshold=-740.0,
    )
    store_selection.write_selection(path, made)
    return made


def test_selections_are_described_and_read_by_code_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = small_selection(tmp_path / "selection.h5")
    assert datasets(tmp_path / "selection.h5") == described("klmap-selection")
    text = DOCUMENT.read_text()
    with h5py.File(tmp_path / "selection.h5") as file:
        assert [name for name in file.attrs if f"`{name}`" not in text] == []
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", SELECTION.read_text(), re.DOTALL)
    known: dict[str, Any] = {}
    exec(code, known)
    loglik = np.random.default_rng(1).normal(-700, 40, (2, len(made.index)))
    q = geometry.double_centre(loglik, made.clip_threshold, made.design)
    kl, _ = geometry.pairwise_kl(q, made.mean_bytes, made.design)
    assert known["kl"](*loglik) == pytest.approx(kl[0, 1], rel=1e-9)


def test_every_configuration_shown_for_selections_is_accepted() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", SELECTION.read_text(), re.DOTALL)
    found = [configfile.check(yaml.safe_load(block)) for block in blocks]
    assert [list(config.selections) for config in found] == [["demo-fewer"], ["pile-2k"]]
    assert list(found[1].scored_on["pile-2k"]) == ["org--new-model"]


def test_every_configuration_shown_for_the_analyses_is_accepted() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", ANALYSES.read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        config = configfile.check(
            {
                "results": "results",
                "texts": {"own": {"source": "file", "path": "own.jsonl"}},
                "models": ["org/a", "org/b"],
            }
            | yaml.safe_load(block)
        )
        assert config.analyses.on == list(NAMES)

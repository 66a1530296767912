"""docs/formats.md and docs/analyses.md are true: examples run, and every name is described."""

from __future__ import annotations

import json
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
    explorer_ways,
    generation,
    geometry,
    index,
    layout,
    leakage,
    likelihoods,
    mixture_check,
    mixture_tables,
    mixture_ways,
    models_table,
    neighbors,
    prediction_files,
    prompt_tables,
    prompt_ways,
    resample,
    robustness,
    store,
    store_divergence,
    store_samples,
    store_score,
    store_selection,
    texts,
    variants,
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
    "prompts/shifts.tsv": prompt_tables.SHIFT_COLUMNS,
    "prompts/edits.tsv": prompt_tables.EDIT_COLUMNS,
    "prompts/cosines.tsv": prompt_tables.COSINE_COLUMNS,
    "prompts/additivity.tsv": prompt_tables.SUM_COLUMNS,
    "prompts/domains.tsv": prompt_tables.DOMAIN_COLUMNS,
    "prompts/missing.tsv": ("edit", "model"),
    "ways.tsv": prompt_ways.COLUMNS,
    "generation/generation.tsv": generation.COLUMNS,
    "generation/summary.tsv": generation.SUMMARY_COLUMNS,
    "mixture/weights.tsv": mixture_tables.WEIGHT_COLUMNS,
    "mixture/plans.tsv": mixture_tables.PLAN_COLUMNS,
    "mixture/path.tsv": mixture_tables.PATH_COLUMNS,
    "mixture_check/check.tsv": mixture_check.COLUMNS,
}


SELECTION = DOCUMENT.with_name("selection.md")
SCORING = DOCUMENT.with_name("scoring.md")


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
    rows = re.findall(r"^\| `([\w/]+)` \| (\w+) [\[|]", section, re.MULTILINE)
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
    score.boundary_loglik = score.unconditional = np.zeros(len(score.loglik))
    score.chat_template = "{{ messages }}"
    store_score.write_score(tmp_path / "x.h5", score)
    assert datasets(tmp_path / "x.h5") == described("klmap-score")


def test_every_dataset_of_two_models_is_described_with_its_type(tmp_path: Path) -> None:
    named: Any = {
        "first": "a",
        "second": "b",
        "commits": ["", ""],
        "texts_sha256": "",
        "fingerprint": "",
        "spec": {},
    }
    store_divergence.write_divergence(tmp_path / "d.h5", store_divergence.Divergence(**named))
    assert datasets(tmp_path / "d.h5") == described("klmap-divergence")
    store_samples.write_samples(tmp_path / "s.h5", store_samples.Samples(**named))
    assert datasets(tmp_path / "s.h5") == described("klmap-samples")
    text = DOCUMENT.read_text()
    for name in ("d.h5", "s.h5"):
        with h5py.File(tmp_path / name) as file:
            assert [name for name in file.attrs if f"`{name}`" not in text] == []


PAIRS = {
    "source": "file",
    "fields": {"question": None, "prompt": None, "response": None},
    "edits": {"kind": {"prefix": "Please. "}, "other": {"prompt": "question"}},
}


def test_every_key_of_texts_with_prompts_is_described(tmp_path: Path) -> None:
    lines = ({"prompt": f"Q{n}", "question": f"F{n}", "response": f"A {n}"} for n in range(3))
    source = tmp_path / "pairs.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = configfile.check(
        {
            "results": "results",
            "texts": {"chat": PAIRS | {"path": str(source)}},
            "models": ["org/a", "org/b"],
        }
    )
    base = tmp_path / "texts.jsonl", tmp_path / "texts.json"
    texts.build(config.paired["chat"], *base)
    variant = config.variants["chat.kind"]
    made = tmp_path / "edited.jsonl", tmp_path / "edited.json"
    variants.build(*base, variant.edits, variant.recipe(), made)
    section = DOCUMENT.read_text().split("\n## Texts\n")[1].split("\n## ")[0]
    keys = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    for path, manifest in (base, made):
        line = json.loads(path.read_text().splitlines()[0])
        assert set(keys) - {"reference_index"} == set(line)
        assert [key for key in json.loads(manifest.read_text()) if f"`{key}`" not in section] == []
    base_line, edited_line = (
        json.loads(path.read_text().splitlines()[0]) for path, _ in (base, made)
    )
    differ = {key for key in base_line if base_line[key] != edited_line[key]}
    assert differ == {"prompt", "messages"}
    before, after = (json.loads(manifest.read_text()) for _, manifest in (base, made))
    assert {key for key in after if after[key] != before[key]} == {
        "sha256",
        "recipe",
        "mean_prompt_bytes",
    }


def test_ways_have_the_same_columns_whoever_writes_them() -> None:
    assert prompt_ways.COLUMNS == mixture_ways.COLUMNS == explorer_ways.COLUMNS


@pytest.mark.parametrize("page", ["models.md", "scoring.md", "extending.md"])
def test_every_kind_of_likelihood_is_in_a_table(page: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \|", DOCUMENT.with_name(page).read_text(), re.MULTILINE)
    assert set(likelihoods.NAMES) <= set(rows)


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
                "texts": {"own": PAIRS | {"path": "own.jsonl"}},
                "models": ["org/a", "org/b", "org/a-code", "org/a-prose"],
            }
            | yaml.safe_load(block)
        )
        assert config.analyses.on == list(NAMES)


@pytest.mark.parametrize(
    ("page", "section"),
    [
        ("models.md", "### Other kinds of likelihood"),
        ("texts.md", "## Prompts and responses"),
        ("prompts.md", "# Prompts"),
        ("mixture.md", "# Mixtures"),
    ],
)
def test_every_configuration_shown_for_prompts_and_kinds_is_accepted(
    page: str, section: str
) -> None:
    text = DOCUMENT.with_name(page).read_text()
    level = section.split()[0]
    shown = re.split(rf"^{level} ", text.split(f"{section}", 1)[1], maxsplit=1, flags=re.MULTILINE)
    blocks = re.findall(r"```yaml\n(.*?)```", shown[0], re.DOTALL)
    assert blocks
    own = {"source": "file", "path": "own.jsonl"}
    for block in blocks:
        base = {"results": "results", "texts": {"own": own}, "models": ["org/a", "org/b"]}
        configfile.check(base | yaml.safe_load(block))


def test_the_number_of_a_response_can_be_made_by_hand(tmp_path: Path) -> None:
    from tests.builders import tiny_model
    from tests.oracle import scored
    from tests.test_prompts_scoring import paired_job

    settings = {"tokenizer_class": "LlamaTokenizer"}
    model = tiny_model(tmp_path / "model", "llama", tokenizer="sentencepiece", settings=settings)
    job = paired_job(tmp_path, model, pmi=True)
    score = scored(job)
    document = SCORING.read_text()
    recipe = document.split("```python\n")[1].split("```")[0]
    arguments = [str(job.weights), str(job.texts), str(job.output), "5"]
    done = subprocess.run(
        [sys.executable, "-c", recipe, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    by_hand, stored = (float(part.split()[-1]) for part in done.stdout.split(" nats")[0].split(","))
    assert by_hand == pytest.approx(stored, abs=1e-3)
    assert stored == pytest.approx(score.loglik[5], abs=1e-3)
    named = document + DOCUMENT.read_text()
    assert [name for name in score.attributes if f"`{name}`" not in named] == []

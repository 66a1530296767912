"""Tables of benchmark scores: which model of the map each row belongs to."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from klmap.benchmarks import read_benchmarks, rows_by_id
from klmap.errors import InputError
from klmap.log import logger
from klmap.models_table import Model

ID = "EleutherAI/pythia-410m"
PUBLISHED = Model("EleutherAI--pythia-410m", id=ID)
AGAIN = Model("pythia-410m-again", id=ID)
OTHER = Model("org--other", id="org/other")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.WARNING, "klmap")
    return caplog


def table(folder: Path, *lines: str) -> list[Path]:
    path = folder / "scores.tsv"
    path.write_text("".join(line + "\n" for line in ("model\tours", *lines)))
    return [path]


def test_rows_are_known_by_name_and_by_id(tmp_path, log):
    found = read_benchmarks(
        table(tmp_path, "org/other\t1", "EleutherAI--pythia-410m\t2"), [PUBLISHED, OTHER]
    )
    np.testing.assert_array_equal(found.values, [[2], [1]])
    assert log.text == ""


@pytest.mark.parametrize("models", [[PUBLISHED, AGAIN, OTHER], [OTHER, AGAIN, PUBLISHED]])
def test_an_id_of_two_models_is_that_of_the_one_called_after_it(tmp_path, log, models):
    found = read_benchmarks(table(tmp_path, f"{ID}\t0.5", "pythia-410m-again\t0.25"), models)
    expected = {PUBLISHED.model: 0.5, AGAIN.model: 0.25, OTHER.model: np.nan}
    np.testing.assert_array_equal(found.values[:, 0], [expected[m.model] for m in models])
    assert log.text == ""
    assert rows_by_id(models)[ID] == [models.index(PUBLISHED)]


def test_an_id_of_several_models_none_of_which_is_called_after_it_is_told(tmp_path, log):
    models = [Model("one", id=ID), AGAIN, OTHER]
    found = read_benchmarks(table(tmp_path, f"{ID}\t0.5", "org/other\t1", "org/othr\t1"), models)
    np.testing.assert_array_equal(found.values[:, 0], [np.nan, np.nan, 1])
    assert "1 ids are those of several models of this map, none of which is called" in log.text
    assert f"{ID!r} (one, pythia-410m-again); write the names on the map instead" in log.text
    assert "1 models are not on this map: 'org/othr' (the map has 'org/other')" in log.text


def test_a_name_and_its_id_may_not_contradict_each_other(tmp_path):
    lines = [f"{ID}\t0.5", f"{PUBLISHED.model}\t0.75"]
    with pytest.raises(InputError, match=r"scores\.tsv:3: ours .* is 0\.75, but 0\.5 at .*:2"):
        read_benchmarks(table(tmp_path, *lines), [PUBLISHED, AGAIN])

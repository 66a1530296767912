"""The index of a map: what is written is what is read."""

from __future__ import annotations

import pytest

from klmap import files, index
from klmap.errors import InputError


def cells(model: str, family: str) -> tuple[str, ...]:
    return (model, model, "0" * 12, model.replace("--", "/"), "", family, "int8")


ODD = [
    '"begins',
    '"quoted"',
    'in "the" middle',
    "it's",
    " spaces  kept ",
    "a,b;c",
    "two\nlines",
    "",
]


@pytest.mark.parametrize("family", ODD)
def test_an_odd_family_of_a_configured_model_is_read_as_it_is(tmp_path, family):
    rows = [cells("a--b", family), cells("c--d", "plain")]
    index.write_index(tmp_path / "index.tsv", ["\t".join(row) for row in rows], [])
    found = index.read_index(tmp_path / "index.tsv", tmp_path, tmp_path)
    assert [(entry.model, entry.family) for entry in found] == [("a--b", family), ("c--d", "plain")]
    assert [entry.variant for entry in found] == ["int8", "int8"]


@pytest.mark.parametrize("family", ['"begins', '"quoted"', 'in "the" middle'])
def test_an_odd_family_of_a_release_is_read_as_it_is(tmp_path, family):
    rows = [cells("a--b", family), cells("c--d", "plain")]
    files.write_tsv(tmp_path / "release.tsv", index.COLUMNS, rows)
    index.write_index(tmp_path / "index.tsv", [], [tmp_path / "release.tsv"])
    found = index.read_index(tmp_path / "index.tsv", tmp_path, tmp_path)
    assert [(entry.model, entry.family) for entry in found] == [("a--b", family), ("c--d", "plain")]


def test_ordinary_lines_are_written_to_the_letter(tmp_path):
    lines = ["\t".join(cells("a--b", "gpt_neox, it's  7B")), "\t".join(cells("./x y", ""))]
    index.write_index(tmp_path / "index.tsv", lines, [])
    expected = ["\t".join(index.COLUMNS), *lines]
    assert (tmp_path / "index.tsv").read_bytes() == ("\n".join(expected) + "\n").encode()


def test_a_tab_in_a_family_is_refused_with_the_model(tmp_path):
    with pytest.raises(InputError, match="'a--b' has 8 cells in the index, expected 7; take the t"):
        index.write_index(tmp_path / "index.tsv", ["\t".join(cells("a--b", "x\ty"))], [])


def test_a_name_that_a_release_has_too_is_refused(tmp_path):
    files.write_tsv(tmp_path / "release.tsv", index.COLUMNS, [cells("a--b", "x")])
    with pytest.raises(InputError, match=r"'a--b' is the name of a model of .*release\.tsv"):
        index.write_index(
            tmp_path / "index.tsv", ["\t".join(cells("a--b", ""))], [tmp_path / "release.tsv"]
        )

from __future__ import annotations

import math
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from klmap import (
    blocks,
    centring,
    collect,
    files,
    geometry,
    index,
    models_table,
    neighbors,
    store,
    store_score,
)
from klmap.config_models import revision_step
from klmap.errors import InputError, PermanentFailure
from klmap.models_table import Model
from tests.mapfiles import Folder

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "demo")
    for name in ("org--b", "org--a", "org--c@step20", "org--c+int8"):
        folder.add(name)
    return folder


def test_rows_are_joined_by_name_and_sorted(folder: Folder) -> None:
    found = folder.collect()
    names = ["org--a", "org--b", "org--c+int8", "org--c@step20"]
    assert found.matrix.model == names
    assert [model.model for model in found.models] == names
    for row, name in enumerate(names):
        assert np.array_equal(
            found.matrix.loglik[row], store_score.read_score(folder.score_path(name)).loglik
        )
    assert found.matrix.domain[:3] == ["code", "prose", "legal"]
    assert found.matrix.n_bytes.tolist() == folder.lengths.tolist()
    assert found.failures == []


def test_order_of_the_index_changes_no_byte(folder: Folder, tmp_path: Path) -> None:
    written = []
    for number, order in enumerate(([0, 1, 2, 3], [3, 1, 0, 2])):
        folder.write_index(order)
        out = tmp_path / str(number)
        found = collect.collect(
            *(folder.index, folder.scores, folder.cards, folder.texts, folder.manifest),
            matrix=out / "matrix.h5",
        )
        models_table.write_models(out / "models.tsv", found.models)
        written.append([(out / n).read_bytes() for n in ("matrix.h5", "models.tsv")])
    assert written[0] == written[1]


def with_responses_alone(folder: Folder) -> dict[str, np.ndarray]:
    """Rewrite the scores as those of responses that were also scored without their prompts."""
    found = {}
    for made in folder.made:
        found[made.model] = folder.values(10.0)
        folder.write(made, unconditional=found[made.model])
    return found


def test_a_matrix_of_pmi_has_what_responses_gain_by_their_prompts(folder: Folder) -> None:
    alone = with_responses_alone(folder)
    found = folder.collect(vector="pmi")
    plain = folder.collect()
    assert found.matrix.model == plain.matrix.model
    for row, name in enumerate(found.matrix.model):
        expected = plain.matrix.loglik[row] - alone[name]
        np.testing.assert_array_equal(found.matrix.loglik[row], expected)
        assert found.models[row].mean_pmi == pytest.approx(expected.mean())
        gain = expected.mean() / (folder.mean_bytes * math.log(2))
        assert found.models[row].pmi_bits_per_byte == pytest.approx(gain)
    assert (found.matrix.vector, plain.matrix.vector) == ("pmi", "loglik")
    assert {model.pmi for model in found.models} == {True}
    np.testing.assert_allclose(found.matrix.noise, plain.matrix.noise * math.sqrt(2))
    assert found.models[0].noise_nats == pytest.approx(0.01 * math.sqrt(2))
    assert found.matrix.clip_threshold != plain.matrix.clip_threshold


def test_the_table_of_a_map_of_pmi_names_what_it_holds(folder: Folder, tmp_path: Path) -> None:
    with_responses_alone(folder)
    found = folder.collect(vector="pmi").models
    found = [replace(found[0], mean_loglik=12.0, bits_per_byte=-0.25, noise_nats=0.5), *found[1:]]
    models_table.write_models(tmp_path / "models.tsv", found)
    rows = files.read_tsv(tmp_path / "models.tsv")
    assert (rows[0]["pmi_bits_per_byte"], rows[0]["mean_pmi"]) == ("0.25", "12")
    assert not {"bits_per_byte", "mean_loglik", "pmi"} & set(rows[0])
    again = models_table.read_models(tmp_path / "models.tsv", [model.model for model in found])
    assert again[0] == found[0]
    plain = folder.collect().models
    models_table.write_models(tmp_path / "plain.tsv", plain)
    assert not {"pmi_bits_per_byte", "mean_pmi", "pmi"} & set(
        files.read_tsv(tmp_path / "plain.tsv")[0]
    )


def test_a_matrix_of_pmi_names_the_score_that_has_none(folder: Folder) -> None:
    with_responses_alone(folder)
    folder.write(folder.made[1])
    with pytest.raises(InputError, match=r"org--a\..*without their prompts.*run again"):
        folder.collect(vector="pmi")


def test_hidden_states_have_no_pmi(folder: Folder) -> None:
    alone = with_responses_alone(folder)
    for made in folder.made:
        n = len(folder.lengths)
        layers = {"layers": np.array([0]), "layer_loglik": np.full((1, n), -500.0)}
        folder.write(made, unconditional=alone[made.model], **layers)
    folder.write_index()
    rows = files.read_tsv(folder.index)
    files.write_tsv(folder.index, (*rows[0], "layers"), [(*row.values(), "all") for row in rows])
    names = folder_names(folder, "loglik"), folder_names(folder, "pmi")
    assert (len(names[0]), len(names[1])) == (8, 4)


def folder_names(folder: Folder, vector: str) -> list[str]:
    found = collect.collect(
        *(folder.index, folder.scores, folder.cards, folder.texts, folder.manifest),
        matrix=folder.root / "layers.h5",
        vector=vector,
    )
    return [model.model for model in found.models]


def test_the_commands_take_the_vector(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_responses_alone(folder)
    expected = folder.collect(vector="pmi")
    common = ["--index", folder.index, "--scores", folder.scores, "--cards", folder.cards]
    common += ["--texts", folder.texts, "--manifest", folder.manifest, "--vector", "pmi"]
    common += ["--models", tmp_path / "models.tsv", "--failures", tmp_path / "failures.tsv"]
    made = tmp_path / "matrix.h5"
    for script, own in (
        ("matrix.py", ["--matrix", made]),
        ("offmap.py", ["--clip-from", made, "--offmap", tmp_path / "offmap.h5"]),
    ):
        monkeypatch.setattr(sys, "argv", [script, *map(str, [*common, *own])])
        runpy.run_path(str(SCRIPTS / script), run_name="commands")["main"]()
    for path in (made, tmp_path / "offmap.h5"):
        found = store.read_matrix(path)
        np.testing.assert_array_equal(found.loglik, expected.matrix.loglik)
        assert found.clip_threshold == expected.matrix.clip_threshold


def of_two_kinds(folder: Folder) -> None:
    """Two causal models, of which others have computed one, and two masked ones."""
    folder.made[0].attributes = {"likelihood": "masked"}
    folder.made[1].attributes = {"imported": "release", "card": '{"id": "org/a"}'}
    folder.made[2].attributes = {"likelihood": "masked"}
    for made in folder.made:
        folder.write(made)


def test_kinds_of_likelihood_do_not_share_a_map_unasked(folder: Folder) -> None:
    of_two_kinds(folder)
    with pytest.raises(InputError) as caught:
        folder.collect()
    told = str(caught.value)
    assert "org--a by causal, org--b by masked" in told
    assert "on_map: false" in told
    assert "map: {mixed_likelihoods: true}" in told
    assert not (folder.root / "collected.h5").exists()


def test_kinds_of_likelihood_that_may_be_mixed_are_joined_with_a_warning(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    of_two_kinds(folder)
    found = folder.collect(mixed_likelihoods=True)
    kinds = {model.model: model.likelihood for model in found.models}
    assert kinds == {
        "org--a": "causal",
        "org--b": "masked",
        "org--c+int8": "causal",
        "org--c@step20": "masked",
    }
    assert "likelihoods of 2 kinds are joined" in caplog.text
    assert "no KL divergences" in caplog.text


def test_a_map_of_one_kind_says_nothing_of_kinds(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    for made in folder.made:
        made.attributes = {"likelihood": "masked"}
        folder.write(made)
    found = folder.collect()
    assert {model.likelihood for model in found.models} == {"masked"}
    assert "kinds" not in caplog.text


def test_a_failed_model_of_another_kind_is_no_mixture(folder: Folder) -> None:
    folder.add("org--m", error="no mask", attributes={"likelihood": "masked"})
    assert len(folder.collect(skip_failures=True).models) == 4


@pytest.mark.parametrize("script", ["matrix.py", "offmap.py"])
def test_the_commands_mix_kinds_of_likelihood_only_where_they_are_told_to(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    folder.collect()
    of_two_kinds(folder)
    said = ["--index", folder.index, "--scores", folder.scores, "--cards", folder.cards]
    said += ["--texts", folder.texts, "--manifest", folder.manifest]
    said += ["--models", tmp_path / "models.tsv", "--failures", tmp_path / "failures.tsv"]
    made = tmp_path / "made.h5"
    said += ["--clip-from", folder.root / "collected.h5"]
    said += ["--matrix" if script == "matrix.py" else "--offmap", made]
    main = runpy.run_path(str(SCRIPTS / script), run_name="commands")["main"]
    monkeypatch.setattr(sys, "argv", [script, *map(str, said)])
    with pytest.raises(InputError, match="different kinds"):
        main()
    monkeypatch.setattr(sys, "argv", [script, *map(str, said), "--mixed-likelihoods"])
    main()
    assert len(store.read_matrix(made).model) == 4


def test_matrix_is_clipped_at_two_percent_and_centred(folder: Folder) -> None:
    matrix = folder.collect().matrix
    assert matrix.clip_quantile == 0.02
    assert matrix.clip_threshold == np.quantile(matrix.loglik, 0.02)
    q = geometry.double_centre(matrix.loglik, matrix.clip_threshold)
    np.testing.assert_allclose(matrix.coordinates, q, rtol=1e-5, atol=1e-3)
    assert matrix.mean_bytes == folder.lengths.mean()


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_blocks_of_scores_change_no_byte(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    folder.add("org--a2", error="a gap in a block")
    for number in range(7):
        folder.add(f"org--more-{number}")
    once = folder.collect(skip_failures=True)
    whole = (folder.root / "collected.h5").read_bytes()
    ranges = blocks.ranges
    for module in (collect, centring):
        monkeypatch.setattr(module, "ranges", lambda total, row: ranges(total, row, rows * row))
    found = folder.collect(skip_failures=True)
    assert (folder.root / "collected.h5").read_bytes() == whole
    assert found.models == once.models
    assert len(found.matrix.model) == 11


def test_a_given_threshold_is_reused(folder: Folder) -> None:
    assert folder.collect(threshold=-400.0).matrix.clip_threshold == -400.0


def test_models_table_joins_scores_and_cards(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "demo")
    folder.add(
        "org--child@step7+bos",
        id="org/child",
        revision="step7",
        variant="bos",
        card={
            "architecture": "LlamaForCausalLM",
            "model_type": "llama",
            "parameters": 14_067_712,
            "base_model": ["org/a", "org/b"],
            "created_at": "2024-01-02T03:04:05Z",
            "license": "apache-2.0",
        },
    )
    folder.add("org--named", family="mine", card={"model_type": "gpt2"})
    folder.add("org--bare", card={"architecture": "X", "base_model": None, "parameters": None})
    found = folder.collect()
    path = tmp_path / "models.tsv"
    models_table.write_models(path, found.models)
    bare, child, named = models_table.read_models(path, found.matrix.model)
    assert child.base_model == ("org/a", "org/b")
    assert (child.family, child.parameters, child.step) == ("llama", 14_067_712, 7)
    assert child.tokens == 99 * 120
    mean = float(folder.made[0].loglik.mean())  # type: ignore[union-attr]
    assert child.mean_loglik == pytest.approx(mean, rel=1e-5)
    assert child.bits_per_byte == pytest.approx(-mean / (folder.mean_bytes * math.log(2)), rel=1e-5)
    assert named.family == "mine"
    assert (bare.family, bare.parameters, bare.base_model) == ("X", None, ())
    assert named.noise_nats == 0.01


def test_scores_of_other_texts_are_refused_by_name(folder: Folder) -> None:
    for made in folder.made[1:3]:
        folder.write(made, texts_sha256="f" * 64)
    with pytest.raises(InputError) as caught:
        folder.collect()
    message = str(caught.value)
    assert str(folder.score_path("org--a")) in message
    assert str(folder.score_path("org--c@step20")) in message
    assert str(folder.score_path("org--b")) not in message
    assert "remove these files" in message


def test_wrong_number_of_texts_is_refused(folder: Folder) -> None:
    n = len(folder.lengths) - 1
    folder.write(
        folder.made[0],
        loglik=np.zeros(n),
        n_tokens=np.zeros(n, np.int32),
        n_scored=np.zeros(n, np.int32),
        truncated=np.zeros(n, np.bool_),
    )
    with pytest.raises(InputError, match="119 log-likelihoods for 120 texts"):
        folder.collect()


@pytest.mark.parametrize("change", [{"model": "org--a"}, {"fingerprint": "0" * 12}])
def test_a_score_under_another_name_is_refused(folder: Folder, change: dict[str, str]) -> None:
    folder.write(folder.made[0], **change)
    with pytest.raises(InputError, match="not what its name says"):
        folder.collect()


def test_a_missing_score_is_named(folder: Folder) -> None:
    folder.score_path("org--b").unlink()
    with pytest.raises(InputError, match=r"org--b\..*no such file"):
        folder.collect(skip_failures=True)


def test_failed_models_stop_the_map_and_are_all_listed(folder: Folder) -> None:
    folder.add("org--x", error="no weights in the folder")
    folder.add("org--y", error="logits are not finite")
    with pytest.raises(PermanentFailure) as caught:
        folder.collect()
    for part in ("org--x: no weights", "org--y: logits", "on_model_failure: skip", ".h5"):
        assert part in str(caught.value)


def test_an_error_leaves_no_matrix_behind(folder: Folder, tmp_path: Path) -> None:
    folder.add("org--x", error="no weights in the folder")
    folder.write_index()
    arguments = (folder.index, folder.scores, folder.cards, folder.texts, folder.manifest)
    out = tmp_path / "out"
    with pytest.raises(PermanentFailure):
        collect.collect(*arguments, matrix=out / "matrix.h5")
    assert list(out.iterdir()) == []


def test_failed_models_are_skipped_and_recorded(folder: Folder, tmp_path: Path) -> None:
    folder.add("org--x", error="no\tweights\nin the folder")
    found = folder.collect(skip_failures=True)
    assert "org--x" not in found.matrix.model
    path = tmp_path / "failures.tsv"
    models_table.write_failures(path, found.failures)
    assert files.read_tsv(path) == [
        {"model": "org--x", "id": "org/x", "revision": "", "reason": "no weights in the folder"}
    ]


def test_nothing_left_to_draw_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "demo")
    folder.add("org--x", error="boom")
    with pytest.raises(PermanentFailure, match="every model failed"):
        folder.collect(skip_failures=True)


def test_failures_table_has_its_header_when_empty(tmp_path: Path) -> None:
    models_table.write_failures(tmp_path / "failures.tsv", [])
    assert (tmp_path / "failures.tsv").read_text() == "model\tid\trevision\treason\n"


def test_bad_index(folder: Folder) -> None:
    files.write_tsv(folder.index, index.COLUMNS, [])
    arguments = (folder.index, folder.scores, folder.cards, folder.texts, folder.manifest)
    arguments += (folder.root / "matrix.h5",)
    with pytest.raises(InputError, match="no models"):
        collect.collect(*arguments)
    files.write_tsv(folder.index, ["model"], [["a"]])
    with pytest.raises(InputError, match="'source' is missing"):
        collect.collect(*arguments)
    folder.made.append(folder.made[0])
    with pytest.raises(InputError, match="stands there twice"):
        folder.collect()


def test_models_of_another_matrix_are_refused(folder: Folder, tmp_path: Path) -> None:
    path = tmp_path / "models.tsv"
    models_table.write_models(path, folder.collect().models)
    with pytest.raises(InputError, match="not the 1 of the matrix"):
        models_table.read_models(path, ["org--a"])
    path.write_text("model\tid\norg--a\torg/a\n")
    with pytest.raises(InputError, match="no column"):
        models_table.read_models(path)


@pytest.mark.parametrize(
    ("revision", "step"),
    [
        ("", math.inf),
        ("main", math.inf),
        ("step20", 20),
        ("step100", 100),
        ("1000", 1000),
        ("global_step143000", 143_000),
        ("stage1-step5000-tokens21B", 5000),
        ("checkpoint-50", 50),
        ("Checkpoint_50", 50),
        ("ckpt_355", 355),
        ("iter_0001000", 1000),
        ("epoch3", 3),
        ("3f9a0c1d2e4b5a69788796a5b4c3d2e1f0011223", math.inf),
        ("1" * 40, math.inf),
        ("v1.0", math.inf),
        ("checkpoint-1.5", math.inf),
        ("gptq-4bit-32g-actorder_True", math.inf),
        ("refs/pr/7", math.inf),
    ],
)
def test_steps_of_revisions(revision: str, step: float) -> None:
    assert revision_step(revision) == step


def test_neighbour_table_flags_noise_and_what_is_no_kl(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "demo", 600)
    base = folder.values()
    folder.add("a", base)
    folder.add("b", base + folder.rng.normal(0, 0.005, 600))
    folder.add("c", base + folder.rng.normal(0, 150, 600))
    found = folder.collect(threshold=-1e9)
    distances, nearest = neighbors.measure(found.matrix, 10, 5000)
    rows = neighbors.table(nearest, found.models, distances.neighbor_below_noise)
    path = tmp_path / "neighbors.tsv"
    neighbors.write_neighbors(path, rows)
    read = {(row.model, row.neighbor): row for row in neighbors.read_neighbors(path)}
    assert len(read) == 6
    assert read["a", "b"].flags == (neighbors.BELOW_NOISE,)
    assert read["c", "a"].flags == (neighbors.BEYOND,)
    assert distances.kl is not None
    assert read["a", "c"].kl == pytest.approx(distances.kl[0, 2], rel=1e-5)
    assert [row.rank for row in rows] == [1, 2] * 3
    limited, same = neighbors.measure(found.matrix, 10, 2)
    assert limited.kl is None
    assert limited.se is None
    np.testing.assert_allclose(same.kl, nearest.kl, rtol=1e-4)


def test_broken_neighbour_table(tmp_path: Path) -> None:
    path = tmp_path / "neighbors.tsv"
    path.write_text("model\trank\nx\tone\n")
    with pytest.raises(InputError, match=r"neighbors\.tsv"):
        neighbors.read_neighbors(path)


def test_model_without_noise_estimate(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "demo")
    folder.add("a", attributes={"noise_nats": None})
    model = folder.collect().models[0]
    assert model.noise_nats is None
    models_table.write_models(tmp_path / "models.tsv", [model])
    assert models_table.read_models(tmp_path / "models.tsv")[0].noise_nats is None
    assert isinstance(model, Model)


def noisy(root: Path) -> Folder:
    """Five models of known, unknown and zero noise whose KL to the first is known by hand.

    Half the texts are ``d`` nats better and half ``d`` worse than under the first model, so the
    variance of the difference is ``d^2`` and the KL is at the noise floor where
    ``d^2 = e1^2 + e2^2``.
    """
    folder = Folder(root)
    base, signs = folder.values(), np.where(np.arange(120) % 2, 1.0, -1.0)
    for name, distance, noise in (
        ("a", 0.0, 0.3),
        ("b", 0.49, 0.4),  # 0.3^2 + 0.4^2 = 0.5^2
        ("c", -0.51, 0.4),
        ("d", 0.1, None),
        ("e", 0.2, 0.0),
    ):
        folder.add(name, base + distance * signs, attributes={"noise_nats": noise})
    return folder


BELOW = {("a", "b"), ("a", "e"), ("b", "e")}
"""Pairs of :func:`noisy` below their floors: 0.49 < 0.5, 0.2 < 0.3 and 0.29 < 0.4.

Not so ``c``: 0.51 to ``a``, 1 to ``b`` and 0.71 to ``e``; and nothing beside ``d``.
"""


def test_noise_goes_from_the_scores_to_the_distances(tmp_path: Path) -> None:
    found = noisy(tmp_path / "demo").collect(threshold=-1e9)
    store.write_matrix(tmp_path / "matrix.h5", found.matrix)
    matrix = store.read_matrix(tmp_path / "matrix.h5")
    np.testing.assert_array_equal(matrix.noise, [0.3, 0.4, 0.4, np.nan, 0.0])
    for dense_limit in (5000, 2):
        measured, nearest = neighbors.measure(matrix, 10, dense_limit)
        store.write_distances(tmp_path / "kl.h5", measured)
        distances = store.read_distances(tmp_path / "kl.h5")
        np.testing.assert_array_equal(distances.noise, matrix.noise)
        rows = neighbors.table(nearest, found.models, distances.neighbor_below_noise)
        flagged = {(row.model, row.neighbor) for row in rows if neighbors.BELOW_NOISE in row.flags}
        assert flagged == BELOW | {(second, first) for first, second in BELOW}
        if distances.below_noise is None:
            assert dense_limit == 2
            continue
        names = distances.model
        marked = {(names[i], names[j]) for i, j in np.argwhere(distances.below_noise)}
        assert marked == flagged
        assert distances.kl is not None
        unit = 2 * matrix.mean_bytes * math.log(2)
        assert distances.kl[0, 1] == pytest.approx(0.49**2 / unit)
        assert distances.kl[0, 3] == pytest.approx(0.1**2 / unit)


def test_the_command_writes_marks_that_agree_with_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = noisy(tmp_path / "demo").collect(threshold=-1e9)
    paths = {name: str(tmp_path / name) for name in ("matrix.h5", "models.tsv", "kl.h5", "n.tsv")}
    store.write_matrix(Path(paths["matrix.h5"]), found.matrix)
    models_table.write_models(Path(paths["models.tsv"]), found.models)
    arguments = ["kl.py", "--matrix", paths["matrix.h5"], "--models", paths["models.tsv"]]
    arguments += ["--kl", paths["kl.h5"], "--neighbors-table", paths["n.tsv"]]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(SCRIPTS / "kl.py"))["main"]()
    distances = store.read_distances(Path(paths["kl.h5"]))
    rows = neighbors.read_neighbors(Path(paths["n.tsv"]))
    marks = [neighbors.BELOW_NOISE in row.flags for row in rows]
    assert marks == distances.neighbor_below_noise.ravel().tolist()
    assert sum(marks) == 2 * len(BELOW)


@pytest.mark.parametrize("noise", [None, math.nan, math.inf])
def test_unknown_noise_marks_nothing(tmp_path: Path, noise: float | None) -> None:
    folder = Folder(tmp_path / "demo")
    base = folder.values()
    for name, own in (("a", noise), ("b", 100.0), ("c", noise)):
        folder.add(name, base, attributes={"noise_nats": own})
    found = folder.collect()
    assert [model.noise_nats for model in found.models] == [None, 100.0, None]
    np.testing.assert_array_equal(found.matrix.noise, [np.nan, 100.0, np.nan])
    distances, nearest = neighbors.measure(found.matrix, 10, 5000)
    assert distances.below_noise is not None
    assert not distances.below_noise.any()
    rows = neighbors.table(nearest, found.models, distances.neighbor_below_noise)
    assert all(row.flags == () for row in rows)


def test_noise_that_is_no_number_is_refused_by_name(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "demo")
    folder.add("a", attributes={"noise_nats": "little"})
    with pytest.raises(InputError, match=r"a\..*\.h5: noise_nats is 'little', expected a number"):
        folder.collect()

"""Exact divergences of two models against hand-made and slow ones, and how such a job ends."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from klmap import scorer_compare, scorer_divergence, store_divergence
from klmap.config import fingerprint
from klmap.errors import InputError, PermanentFailure
from klmap.files import read_json
from klmap.scorer_as_causal import CausalModel
from klmap.scorer_divergence import Job
from klmap.scorer_load import load_weights
from klmap.scorer_pair import Side
from klmap.scorer_precision import prepare
from klmap.scorer_run import make_plan, probe_texts
from klmap.store_divergence import Divergence, read_divergence
from klmap.tokens import windows
from tests.builders import sample_texts, tiny_model
from tests.oracle import exact_model, ids_of, make_job, oracle

ROOT = Path(__file__).parent.parent
TEXTS = [text for text, _ in sample_texts(7)]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    prepare("cpu", 1)


def pair_job(
    folder: Path,
    models: Sequence[Path],
    texts: Sequence[str] = TEXTS,
    number: int = 5,
    specs: Sequence[dict[str, Any]] = ({}, {}),
    **changes: Any,
) -> Job:
    """The job of one pair of model folders, with everything that it reads."""
    made = [
        make_job(folder / f"side{place}", model, texts, **spec)
        for place, (model, spec) in enumerate(zip(models, specs, strict=True))
    ]
    sides = [
        Side(one.card, one.weights, f"demo--m{place}", one.spec) for place, one in enumerate(made)
    ]
    spec = {"kind": "divergence", "number": number, "pair": [one.spec for one in made]}
    name = f"demo--m0~demo--m1.{fingerprint(spec)}.h5"
    job = Job(
        sides=(sides[0], sides[1]), texts=made[0].texts, manifest=made[0].manifest, number=number,
        spec=spec, output=folder / "divergences" / name, device="cpu",
    )  # fmt: skip
    return dataclasses.replace(job, **changes)


def computed(job: Job) -> Divergence:
    scorer_divergence.divergence(job)
    return read_divergence(job.output)


@torch.no_grad()
def slow(models: Sequence[Any], sequence: Sequence[int], limit: int | None = None) -> np.ndarray:
    """Both divergences of one text: float64, the models' own logits, position by position."""
    total = np.zeros(2)
    for window in windows(len(sequence), limit):
        ids = torch.tensor([list(sequence[window.start : window.stop])])
        logs = [
            model(input_ids=ids, use_cache=False).logits[0].double().log_softmax(1).numpy()
            for model in models
        ]
        for place in range(window.first - window.start - 1, ids.shape[1] - 1):
            one, other = (log[place] for log in logs)
            total += [np.exp(one) @ (one - other), np.exp(other) @ (other - one)]
    return total


def table_model(folder: Path, seed: int, size: int = 1024) -> tuple[Path, np.ndarray]:
    """A Llama without layers that looks its next token up in a table; and the log of the table."""
    overrides: dict[str, Any] = {"hidden_size": size, "num_hidden_layers": 0, "rms_norm_eps": 1e-30}
    tiny_model(folder, "llama", vocabulary=size, **overrides)
    logs = np.log(np.random.default_rng(seed).dirichlet(np.full(size, 0.5), size) + 1e-9)
    logs -= np.log(np.exp(logs).sum(1, keepdims=True))
    weights = load_file(folder / "model.safetensors")
    for name, tensor in weights.items():
        if "embed_tokens" in name:
            weights[name] = torch.eye(size)  # its rows, normalised to length sqrt(size), pick one
        elif "lm_head" in name:
            weights[name] = torch.tensor(logs.T.copy() / math.sqrt(size)).float()
        else:
            weights[name] = torch.ones_like(tensor)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder, logs


def test_hand_made_conditionals_give_the_hand_sum(tmp_path: Path) -> None:
    (one, p), (other, q) = (table_model(tmp_path / f"table{seed}", seed) for seed in (1, 2))
    found = computed(pair_job(tmp_path, (one, other)))
    rows = [(np.exp(p) * (p - q)).sum(1), (np.exp(q) * (q - p)).sum(1)]
    for column, text in enumerate(found.text):
        (ids,) = ids_of(one, [TEXTS[text]])
        by_hand = [row[ids[:-1]].sum() for row in rows]
        np.testing.assert_allclose(found.kl[:, column], by_hand, rtol=1e-6)
        steps = np.array([[table[a, b] for a, b in itertools.pairwise(ids)] for table in (p, q)])
        np.testing.assert_allclose(found.loglik[:, column], steps.sum(1), rtol=1e-6)
        squares = ((steps[0] - steps[1]) ** 2).sum()
        assert found.squares[column] == pytest.approx(squares, rel=1e-5)
        assert found.n_scored[column] == len(ids) - 1


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two GPT-2 and a GPT-NeoX with one tokenizer."""
    folder = tmp_path_factory.mktemp("models")
    return [
        tiny_model(folder / "gpt2-0", "gpt2", seed=0),
        tiny_model(folder / "gpt2-1", "gpt2", seed=1),
        tiny_model(folder / "neox", "gpt_neox", seed=2),
    ]


@pytest.mark.parametrize("other", [1, 2])
def test_a_slow_oracle_agrees_within_and_across_architectures(
    tmp_path: Path, folders: list[Path], other: int
) -> None:
    found = computed(pair_job(tmp_path, (folders[0], folders[other])))
    sequences = ids_of(folders[0], [TEXTS[number] for number in found.text])
    models = [exact_model(folders[0]), exact_model(folders[other])]
    expected = np.stack([slow(models, sequence) for sequence in sequences], axis=1)
    np.testing.assert_allclose(found.kl, expected, rtol=1e-5)
    logliks = [oracle(folder, sequences) for folder in (folders[0], folders[other])]
    np.testing.assert_allclose(found.loglik, logliks, atol=1e-3)
    assert (found.kl > 0).all()
    assert (np.abs(found.kl[0] - found.kl[1]) > 1e-3 * found.kl[0]).all()  # it is no metric


def test_texts_are_evenly_spread_and_no_more_than_there_are(
    tmp_path: Path, folders: list[Path]
) -> None:
    few = computed(pair_job(tmp_path / "few", folders[:2], number=3))
    assert few.text.tolist() == probe_texts(7, 3) == [0, 3, 6]
    every = computed(pair_job(tmp_path / "all", folders[:2], number=200))
    assert every.text.tolist() == list(range(7))
    np.testing.assert_allclose(every.kl[:, [0, 3, 6]], few.kl, rtol=1e-5)


def test_a_model_has_no_divergence_from_itself(tmp_path: Path, folders: list[Path]) -> None:
    found = computed(pair_job(tmp_path, (folders[0], folders[0])))
    assert (found.kl == 0).all()
    assert (found.squares == 0).all()


def test_long_texts_are_cut_into_the_windows_of_the_shorter_context(tmp_path: Path) -> None:
    short = tiny_model(tmp_path / "short", "gpt2", seed=0, n_positions=40)
    long = tiny_model(tmp_path / "long", "gpt2", seed=1, n_positions=64)
    found = computed(pair_job(tmp_path, (short, long), number=3))
    assert found.attributes["context"] == 40
    sequences = ids_of(short, [TEXTS[number] for number in found.text])
    assert max(map(len, sequences)) > 80
    models = [exact_model(short), exact_model(long)]
    expected = np.stack([slow(models, sequence, 40) for sequence in sequences], axis=1)
    np.testing.assert_allclose(found.kl, expected, rtol=1e-5)


def loaded(folders: Sequence[Path]) -> tuple[CausalModel, CausalModel]:
    one, other = (CausalModel(load_weights(folder, "float32", "cpu")) for folder in folders)
    return one, other


def test_batches_blocks_and_heads_do_not_matter(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = loaded(folders[:2])
    plan = make_plan(ids_of(folders[0], TEXTS), 256)
    whole = scorer_compare.tokenwise(models, plan, 10_000)
    assert whole.shape == (7, plan.offset[-1])
    monkeypatch.setattr(scorer_compare, "CPU_LOGITS", 3 * 512)
    np.testing.assert_allclose(
        scorer_compare.tokenwise(models, plan, 1), whole, rtol=1e-4, atol=1e-6
    )
    models[1].head = None
    np.testing.assert_allclose(
        scorer_compare.tokenwise(models, plan, 300), whole, rtol=1e-4, atol=1e-6
    )


def test_a_batch_that_does_not_fit_the_gpu_is_halved(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = loaded(folders[:2])
    plan = make_plan(ids_of(folders[0], TEXTS), 256)
    expected = scorer_compare.tokenwise(models, plan, 1)
    plainly = scorer_compare._batch

    def limited(models: Any, plan: Any, batch: Any, values: Any) -> Any:
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plainly(models, plan, batch, values)

    monkeypatch.setattr(scorer_compare, "_batch", limited)
    found = scorer_compare.tokenwise(models, plan, 10_000)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_columns_that_one_model_lacks_are_left_out_and_their_mass_is_told() -> None:
    generator = np.random.default_rng(3)
    p, q = generator.dirichlet(np.ones(6)), generator.dirichlet(np.ones(9))
    first, second = (torch.tensor(np.log(values))[None] for values in (p, q))
    values = scorer_compare.compare(first, second + 5, torch.tensor([2]))[:, 0].numpy()
    inner = q[:6] / q[:6].sum()
    expected = [
        (p * np.log(p / inner)).sum(),
        (inner * np.log(inner / p)).sum(),
        math.log(p[2]),
        math.log(q[2]),  # as in its score, of all nine
        (math.log(p[2]) - math.log(q[2])) ** 2,
        0,
        q[6:].sum(),
    ]
    np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-15)


def test_padded_vocabularies_are_compared_over_what_both_have(
    tmp_path: Path, folders: list[Path]
) -> None:
    padded = tiny_model(tmp_path / "padded", "gpt2", seed=1, vocab_size=640)
    found = computed(pair_job(tmp_path, (folders[0], padded), number=2))
    assert found.attributes["mass_outside_first"] == 0
    assert 0 < found.attributes["mass_outside_second"] < 1
    assert (found.kl > 0).all()


def test_what_both_rule_out_costs_nothing_and_what_one_rules_out_is_infinite() -> None:
    one = torch.tensor([[0.0, 1.0, -torch.inf]])
    other = torch.tensor([[1.0, 0.0, -torch.inf]])
    values = scorer_compare.compare(one, other, torch.tensor([0]))
    p = np.array([1, math.e]) / (1 + math.e)
    expected = (p * np.log(p / p[::-1])).sum()
    np.testing.assert_allclose(values[:2, 0], [expected, expected], rtol=1e-7)
    assert scorer_compare.compare(torch.zeros(1, 3), other, torch.tensor([0]))[0, 0] == torch.inf


def test_tiny_divergences_are_not_rounding() -> None:
    logits = torch.randn(1, 50_000, generator=torch.Generator().manual_seed(1))
    moved = logits.clone()
    moved[0, 7] += 1e-3
    values = scorer_compare.compare(logits, moved, torch.tensor([0]))
    p = logits.double().softmax(1)[0, 7].item()
    shift = moved.double()[0, 7].item() - logits.double()[0, 7].item()
    exact = math.log1p(p * math.expm1(shift)) - p * shift
    assert float(values[0, 0]) == pytest.approx(exact, rel=1e-3)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantised") / "llama"
    return tiny_model(folder, "llama", spread=0.1, hidden_size=64, intermediate_size=128)


def test_a_quantised_variant_is_compared_with_its_original(tmp_path: Path, llama: Path) -> None:
    found = {
        method: computed(
            pair_job(tmp_path / method, (llama, llama), specs=({}, {"quantization": method}))
        )
        for method in ("int8", "nf4")
    }
    assert found["nf4"].attributes["quantization"] == '["none", "nf4"]'
    sequences = ids_of(llama, [TEXTS[number] for number in found["nf4"].text])
    models = [
        load_weights(llama, "float32", "cpu"),
        load_weights(llama, "float32", "cpu", quantization="nf4"),
    ]
    expected = np.stack([slow(models, sequence) for sequence in sequences], axis=1)
    np.testing.assert_allclose(found["nf4"].kl, expected, rtol=1e-3)
    assert (found["int8"].kl > 0).all()
    assert found["int8"].kl.sum() < 0.1 * found["nf4"].kl.sum()


def test_other_tokens_are_refused_with_the_place_where_they_differ(
    tmp_path: Path, folders: list[Path]
) -> None:
    other = tiny_model(tmp_path / "other", "llama", tokenizer="sentencepiece")
    job = pair_job(tmp_path, (folders[0], other))
    ours, theirs = ids_of(folders[0], TEXTS[:1])[0], ids_of(other, TEXTS[:1], [1])[0]
    expected = (
        rf"demo--m0 and demo--m1 have no common vocabulary: text 0 becomes {len(ours)} and "
        rf"{len(theirs)} tokens, which differ from token 0 on \(ids {ours[0]} and 1\)"
    )
    with pytest.raises(PermanentFailure, match=expected):
        scorer_divergence.divergence(job)
    assert not job.output.exists()
    with pytest.raises(PermanentFailure, match=expected):  # with the same words, at once
        scorer_divergence.divergence(job)
    left = read_json(job.output.with_suffix(".failed.json"))
    assert left["model"] == "demo--m0~demo--m1"


def test_one_vocabulary_of_another_prefix_is_refused(tmp_path: Path, folders: list[Path]) -> None:
    job = pair_job(tmp_path, (folders[0], folders[1]), specs=({}, {"prefix": "bos"}))
    with pytest.raises(PermanentFailure, match="differ from token 0 on"):
        scorer_divergence.divergence(job)


def test_the_first_difference_is_found_behind_equal_tokens_and_at_an_end() -> None:
    with pytest.raises(PermanentFailure, match=r"text 1 .* from token 2 on \(ids 3 and 4\)"):
        scorer_divergence.check_same("ab", [[1], [1, 2, 3]], [[1], [1, 2, 4]], [0, 1])
    with pytest.raises(PermanentFailure, match=r"2 and 3 tokens.* token 2 on \(ids none and 9\)"):
        scorer_divergence.check_same("ab", [[1, 2]], [[1, 2, 9]], [0])
    scorer_divergence.check_same("ab", [[1], [2]], [[1], [3]], [0])  # text 1 is not compared


def test_a_failure_becomes_a_file_where_failures_are_skipped(
    tmp_path: Path, folders: list[Path]
) -> None:
    job = pair_job(tmp_path, folders[:2], skip_failures=True, refusal="two models are too large")
    found = computed(job)
    assert (found.status, found.error) == ("failed", "two models are too large")
    assert found.kl.shape == (2, 0)
    again = computed(dataclasses.replace(job, refusal=""))  # the next attempt may find room
    assert again.status == "ok"


def test_weights_that_are_not_there_name_their_model(tmp_path: Path, folders: list[Path]) -> None:
    job = pair_job(tmp_path, folders[:2])
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "FAILED").write_text("gone from the Hub")
    second = dataclasses.replace(job.sides[1], weights=tmp_path / "none")
    job = dataclasses.replace(job, sides=(job.sides[0], second))
    with pytest.raises(PermanentFailure, match="demo--m1: gone from the Hub"):
        scorer_divergence.divergence(job)


def test_a_name_of_other_settings_is_refused(tmp_path: Path, folders: list[Path]) -> None:
    job = pair_job(tmp_path, folders[:2])
    with pytest.raises(InputError, match=r"config\.yaml now gives"):
        scorer_divergence.divergence(dataclasses.replace(job, spec={**job.spec, "number": 6}))


def test_what_is_finished_is_not_computed_again_and_a_new_commit_is(
    tmp_path: Path, folders: list[Path]
) -> None:
    job = pair_job(tmp_path, folders[:2], number=2)
    computed(job)
    before = job.output.stat()
    scorer_divergence.divergence(job)
    assert job.output.stat() == before
    moved = pair_job(tmp_path / "new", (folders[0], folders[2]), number=2).sides[1]
    changed = dataclasses.replace(
        job, sides=(job.sides[0], dataclasses.replace(moved, model="demo--m1"))
    )
    commits = read_divergence(job.output).commits
    assert computed(changed).commits[1] != commits[1]


def test_equal_jobs_give_equal_numbers(tmp_path: Path, folders: list[Path]) -> None:
    job = pair_job(tmp_path, folders[:2], number=2)
    first = computed(job)
    job.output.unlink()
    second = computed(job)
    np.testing.assert_allclose(second.kl, first.kl, rtol=1e-5)


def broken(change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return apply


def _swap(file: h5py.File, name: str, values: Any) -> None:
    del file[name]
    file[name] = values


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (broken(lambda f: _swap(f, "kl", np.zeros((2, 3)))), "kl is"),
        (broken(lambda f: _swap(f, "squares", np.zeros(1))), "squares is"),
        (broken(lambda f: f["kl"].__setitem__((0, 0), np.nan)), "not all numbers are finite"),
        (broken(lambda f: f["text"].__setitem__(0, 5)), "not in their order"),
        (broken(lambda f: f.attrs.__setitem__("status", "fine")), "status is 'fine'"),
        (broken(lambda f: f.attrs.__setitem__("format", "klmap-score")), "format is"),
        (broken(lambda f: f.__delitem__("loglik")), "truncated or not a klmap file"),
        (lambda path: path.write_bytes(path.read_bytes()[:500]), "truncated"),
        (lambda path: path.unlink(), "no such file"),
    ],
)
def test_broken_files_are_refused(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / "pair.h5"
    found = Divergence(
        "a", "b", ["c1", "c2"], "5ha", "f1", {"number": 2}, kl=np.ones((2, 2)),
        text=np.array([0, 3], np.int32), n_scored=np.array([4, 5], np.int32),
        loglik=-np.ones((2, 2)), squares=np.ones(2), attributes={"device": "cpu"},
    )  # fmt: skip
    store_divergence.write_divergence(path, found)
    again = read_divergence(path)
    assert (again.first, again.commits, again.spec) == ("a", ["c1", "c2"], {"number": 2})
    np.testing.assert_array_equal(again.text, [0, 3])
    damage(path)
    with pytest.raises(InputError, match=message):
        read_divergence(path)


def test_the_script_takes_what_the_rule_gives(tmp_path: Path, folders: list[Path]) -> None:
    job = pair_job(tmp_path, folders[:2], number=2)
    command = [
        sys.executable, str(ROOT / "scripts" / "divergence.py"),
        "--cards", *(str(side.card) for side in job.sides),
        "--weights", *(str(side.weights) for side in job.sides),
        "--models", *(side.model for side in job.sides),
        "--specs", *(json.dumps(side.spec) for side in job.sides),
        "--texts", str(job.texts), "--manifest", str(job.manifest), "--number", "2",
        "--spec", json.dumps(job.spec), "--divergence", str(job.output), "--device", "cpu",
        "--batch-tokens", "auto", "--on-failure", "skip",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert read_divergence(job.output).status == "ok"

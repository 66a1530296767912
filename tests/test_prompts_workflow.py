"""Prompts on real Snakemake: a twin of the example, what is computed again, what fails, kinds."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from klmap import store, store_score
from klmap.files import read_json, read_tsv
from klmap.products import ANALYSES
from tests.builders import sample_texts, tiny_model
from tests.kinds import kind_model
from tests.project import Project, copy_clone
from tests.prompts_project import (
    BASES,
    EDITS,
    QUICK_MAP,
    assert_complete,
    number,
    rows,
    settings,
    twins,
)
from tests.test_prompts_scoring import CHATML

pytestmark = pytest.mark.workflow

MODELS = [f"demo--{name}" for name in BASES]
TEXTS = "continuations"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The finished twins. Copy them before any change."""
    return twins(tmp_path_factory)


@pytest.fixture(scope="module")
def folder(made: Project) -> Path:
    """What belongs to the texts with prompts."""
    return made.folder / "results" / TEXTS


# What the example makes


def test_everything_that_the_example_promises_is_there(made: Project, folder: Path) -> None:
    for analysis in ("prompts", "generation"):
        assert_complete(folder / analysis, *map(list, ANALYSES[analysis]))
    for name in (TEXTS, f"{TEXTS}.pmi"):
        page = (made.folder / "results" / name / "map.html").read_text()
        assert all(model in page for model in MODELS)
    for edit in EDITS:
        files = {path.name for path in (folder.parent / f"{TEXTS}.{edit}").iterdir()}
        assert "matrix.h5" in files
        assert not files & {"map.html", "kl.h5", "layout.tsv"}, "of edits there are shifts"
    assert made.planned() == {}
    assert not made.leftovers()
    assert not [*made.folder.glob("results/models/*/weights")]


def test_responses_are_the_same_under_every_edit_and_prompts_are_what_was_asked_for(
    folder: Path,
) -> None:
    def texts(name: str) -> list[dict[str, Any]]:
        path = folder.parent / name / "texts.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    before, of = texts(TEXTS), settings()["texts"][TEXTS]["edits"]
    begins = {"code": of["code"]["prefix"], "licence": of["licence"]["prefix"]}
    begins["code-licence"] = begins["licence"] + begins["code"]
    for edit in EDITS:
        after = texts(f"{TEXTS}.{edit}")
        assert [row["text"] for row in after] == [row["text"] for row in before]
        assert [row["prompt"] for row in after] == [begins[edit] + row["prompt"] for row in before]
    lengths = [len(row["prompt"].encode()) for row in before]
    assert 48 < np.median(lengths) <= max(lengths) <= 96


def test_a_map_of_pmi_is_of_what_prompts_add_to_the_same_scores(folder: Path) -> None:
    found = store.read_matrix(folder.parent / f"{TEXTS}.pmi/matrix.h5")
    plain = store.read_matrix(folder / "matrix.h5")
    assert found.model == plain.model == MODELS
    for row, model in enumerate(MODELS):
        (path,) = (folder / "scores").glob(f"{model}.*.h5")
        score = store_score.read_score(path)
        assert score.unconditional is not None
        np.testing.assert_allclose(plain.loglik[row], score.loglik, rtol=1e-6)
        expected = score.loglik - score.unconditional
        np.testing.assert_allclose(found.loglik[row], expected, rtol=1e-5, atol=1e-4)
        if "llama" in model:
            # Without a BOS, as GPT-2 is read here, the first token has no probability of its own.
            assert expected.mean() > 0, "the beginning of a text helps to say how it goes on"
    assert not (folder.parent / f"{TEXTS}.pmi/scores").exists()


def test_shifts_are_the_variances_of_what_an_edit_adds(made: Project, folder: Path) -> None:
    found = {(row["edit"], row["model"]): row for row in rows(made, f"{TEXTS}/prompts/shifts.tsv")}
    assert [*found] == [(edit, model) for edit in EDITS for model in MODELS]
    before = store.read_matrix(folder / "matrix.h5")
    unit = np.log(2) * read_json(folder / "texts.json")["mean_bytes"]
    for edit in EDITS:
        after = store.read_matrix(folder.parent / f"{TEXTS}.{edit}/matrix.h5")
        for row, model in enumerate(MODELS):
            one, other = (
                np.maximum(each.loglik[row], before.clip_threshold) for each in (after, before)
            )
            assert number(found[edit, model], "kl") == pytest.approx(
                np.var(one - other) / (2 * unit), rel=1e-3
            )
            gain = (after.loglik[row] - before.loglik[row]).mean() / unit
            assert number(found[edit, model], "mean_shift") == pytest.approx(gain, rel=1e-3)
            assert found[edit, model]["below_noise"] == "no"
    assert read_tsv(folder / "prompts/missing.tsv") == []


def test_the_composed_edit_is_compared_with_the_sum_of_its_parts(made: Project) -> None:
    found = rows(made, f"{TEXTS}/prompts/additivity.tsv")
    assert [(row["model"], row["edit"], row["parts"]) for row in found] == [
        (model, "code-licence", "code, licence") for model in MODELS
    ]
    for row in found[1:]:
        assert number(row, "cosine") > 0.9, "of models with relative positions"
        assert number(row, "relative_error") < number(row, "nearest_part_error")


def test_estimates_stand_beside_the_kl_from_what_models_write(made: Project) -> None:
    found = rows(made, f"{TEXTS}/generation/generation.tsv")
    assert {(row["first"], row["second"]): row["scored_as"] for row in found} == {
        ("demo--llama-base", "demo--llama-code"): "tokens",
        ("demo--gpt2-base", "demo--llama-base"): "text",
    }
    near, far = sorted(found, key=lambda row: number(row, "estimate"))
    for column in ("kl", "estimate"):
        assert 0 < number(near, column) < number(far, column)
    assert {row["error"] for row in found} == {""}


def test_the_page_has_a_way_for_every_model_and_edit(folder: Path) -> None:
    ways = read_tsv(folder / "prompts/ways.tsv")
    drawn = {(row["group"], row["model"]) for row in ways}
    assert drawn == {(edit, model) for edit in EDITS for model in MODELS}
    page = (folder / "map.html").read_text()
    assert all(f'"key":"prompts/{edit}"' in page for edit in EDITS)
    assert '"key":"prompts/' not in (folder.parent / f"{TEXTS}.pmi/map.html").read_text()


def test_one_report_holds_the_figures_of_prompts_and_of_mixtures(
    made: Project, tmp_path: Path
) -> None:
    report = tmp_path / "report.html"
    made.run("--report", str(report))
    page = report.read_text()
    for analysis in ("prompts", "generation", "mixture", "mixture_check"):
        assert all(title in page for title in ANALYSES[analysis][1].values())
    assert made.planned() == {}


# What is computed again


@pytest.fixture
def project(made: Project, tmp_path: Path) -> Project:
    """The finished project of one's own."""
    return made.copy(tmp_path / "klmap")


AGAIN = {"prompts": 1, "explorer": 1}
"""What is drawn again when something about edits changes: the page shows ways."""

DRAWN = {
    **dict.fromkeys(("matrix", "kl", "layout", "tree", "figures"), 2),
    **{"prompts": 1, "generation": 1, "explorer": 2},
}
"""What follows from scores of the texts with prompts, for their map and that of PMI."""


def edits(project: Project, *, order: bool = True, **changes: dict[str, Any] | None) -> None:
    """Change edits; None takes one away."""
    found = settings()["texts"]
    kept = {**found[TEXTS]["edits"], **changes}
    kept = {name: edit for name, edit in kept.items() if edit is not None}
    if not order:
        kept = dict(reversed(kept.items()))
    found[TEXTS]["edits"] = kept
    project.configure(texts=found)


def edited(number: int = 1, **others: int) -> dict[str, int]:
    """The jobs that new texts of some edits take: three models each."""
    each = {"variant": number, "matrix": number, "score": 3 * number, "fetch": 3}
    return {**each, **AGAIN, **others}


def test_a_new_edit_is_scored_alone(project: Project) -> None:
    edits(project, loud={"suffix": "!"})
    assert project.planned() == edited(index=1)


def test_a_changed_edit_is_scored_again_with_those_that_are_made_of_it(project: Project) -> None:
    edits(project, **{"code-licence": {"of": ["licence", "code"]}})
    assert project.planned() == edited(index=1)
    edits(project, code={"prefix": "import os\n\n"})
    assert project.planned() == edited(2, index=2)


def test_a_renamed_edit_is_a_text_set_of_its_own(project: Project) -> None:
    both = settings()["texts"][TEXTS]["edits"]["code-licence"]
    edits(project, **{"code-licence": None, "both": both})
    assert project.planned() == edited(index=1)


def test_an_edit_that_leaves_takes_no_scoring(project: Project) -> None:
    edits(project, **{"code-licence": None})
    assert project.planned() == AGAIN


def test_another_order_of_edits_and_keys_does_nothing(project: Project) -> None:
    edits(project, order=False)
    assert project.planned() == {}
    config = yaml.safe_load((project.folder / "config.yaml").read_text())
    path = project.folder / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=True))
    assert project.planned() == {}


def test_pmi_is_scored_with_the_texts_and_not_with_their_edits(project: Project) -> None:
    found = settings()["texts"]
    found[TEXTS]["pmi"] = False
    project.configure(texts=found)
    planned = project.planned()
    assert planned["score"] == 3
    assert planned["matrix"] == 1
    assert not {"variant", "samples", "texts", "mixture"} & {*planned}


def test_maps_and_analyses_are_drawn_again_without_scores(project: Project) -> None:
    project.configure(analyses={**settings()["analyses"], "prompts": {"seed": 1}})
    assert project.planned() == AGAIN
    project.configure(map={**QUICK_MAP, "perplexity": 5}, analyses=settings()["analyses"])
    planned = project.planned()
    assert planned["layout"] == 3
    assert not {"score", "fetch", "variant", "samples", "texts", "matrix"} & {*planned}


def test_another_seed_of_sampling_writes_texts_again_and_scores_nothing(project: Project) -> None:
    analyses = settings()["analyses"]
    project.configure(analyses={**analyses, "generation": {**analyses["generation"], "seed": 1}})
    assert project.planned() == {"fetch": 3, "samples": 2, "generation": 1}


def test_a_new_model_is_scored_under_every_edit(project: Project) -> None:
    mixed = {"id": "demo/gpt2-base@step150", "family": "gpt2", "texts": TEXTS}
    project.configure(models=[*settings()["models"], mixed])
    planned = project.planned()
    assert planned == {
        **{"resolve": 1, "fetch": 1, "score": 1 + len(EDITS), "index": 2 + len(EDITS)},
        **{**DRAWN, "matrix": 2 + len(EDITS)},
    }


def test_touched_texts_do_nothing_and_others_are_edited_and_scored_again(project: Project) -> None:
    for path in project.folder.glob(f"results/{TEXTS}*/texts.jsonl"):
        os.utime(path)
    assert project.planned() == {}
    found = settings()["texts"]
    found[TEXTS]["n"] = 40
    project.configure(texts=found)
    planned = project.planned()
    assert (planned["texts"], planned["variant"]) == (1, 1 + len(EDITS))
    assert planned["score"] == 3 * (1 + len(EDITS))
    assert "mixture" not in planned


def test_prune_and_status_know_variants(project: Project) -> None:
    project.run("prune")
    project.run("prune")
    assert {*project.scores(TEXTS)} == {*MODELS}
    assert all({*project.scores(f"{TEXTS}.{edit}")} == {*MODELS} for edit in EDITS)
    project.run("status")
    states = {row["state"] for row in rows(project, "status.tsv")}
    assert states == {"done"}
    assert project.planned() == {}


# Kinds of likelihood, and what fails

QUESTIONS = [
    {
        "question": f"What follows? {text[:60]}",
        "question_de": f"Was folgt? {text[:60]}",
        "answer": text[60:160],
        "domain": domain,
    }
    for text, domain in sample_texts(12)
]
SHORT = [{"text": text[:40], "domain": domain} for text, domain in sample_texts(12)]
PAIRED = {"prompt": "question", "response": "answer"}
KINDS = {"masked": ["bert", "roberta"], "seq2seq": ["t5", "bart"]}
TEMPLATES = {"a": ("llama", CHATML), "b": ("gpt2", CHATML), "bare": ("gpt2", None)}


def write_rows(path: Path, found: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in found))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str]:
    """A project of three kinds of models in which one model cannot be scored, and what it said."""
    project = copy_clone(tmp_path_factory.mktemp("kinds") / "klmap")
    for seed, (name, (kind, template)) in enumerate(TEMPLATES.items()):
        given = {} if template is None else {"settings": {"chat_template": template}}
        tiny_model(project.folder / "models" / name, kind, seed=seed, **given)
    for likelihood, kinds in KINDS.items():
        for kind in kinds:
            kind_model(project.folder / "models" / likelihood / kind, kind)
    write_rows(project.folder / "questions.jsonl", QUESTIONS)
    write_rows(project.folder / "short.jsonl", SHORT)
    file = {"source": "file", "path": "questions.jsonl"}
    fields = {**PAIRED, "german": "question_de"}
    edited = {"edits": {"german": {"prompt": "german"}, "plain": {"template": "none"}}}
    project.configure(
        texts={
            "chat": {**file, "fields": fields, "template": "model", **edited},
            "short": {"source": "file", "path": "short.jsonl"},
            "written": {**file, "fields": PAIRED},
        },
        models=[
            *({"id": f"./models/{name}", "texts": "chat"} for name in TEMPLATES),
            *(
                {"id": f"./models/{likelihood}/{kind}", "likelihood": likelihood, "texts": texts}
                for likelihood, texts in {"masked": "short", "seq2seq": "written"}.items()
                for kind in KINDS[likelihood]
            ),
        ],
        map=QUICK_MAP,
        analyses={"prompts": None},
    )
    return project, project.run("--keep-going", check=False)


NO_TEMPLATE = "has no chat template"


def test_a_model_without_a_chat_template_is_told_and_all_others_are_scored(
    stopped: tuple[Project, str],
) -> None:
    project, said = stopped
    assert NO_TEMPLATE in said
    assert "template: none" in said, "the fix"
    assert "Traceback" not in said
    assert {*project.scores("chat")} == {"models--a", "models--b"}
    assert {*project.scores("chat.german")} == {"models--a", "models--b"}
    assert {*project.scores("chat.plain")} == {f"models--{name}" for name in TEMPLATES}
    assert not (project.folder / "results/chat/map.html").exists()
    assert not project.leftovers()


@pytest.mark.parametrize(("texts", "likelihood"), [("short", "masked"), ("written", "seq2seq")])
def test_models_of_other_kinds_have_a_map_of_their_own(
    stopped: tuple[Project, str], texts: str, likelihood: str
) -> None:
    project, _ = stopped
    folder = project.folder / "results" / texts
    names = sorted(f"{kind}" for kind in KINDS[likelihood])
    found = read_tsv(folder / "models.tsv")
    assert [
        row["model"].rpartition(f"{likelihood}--")[2].partition("+")[0] for row in found
    ] == names
    assert all(np.isfinite(float(row["bits_per_byte"])) for row in found)
    assert likelihood in (folder / "map.html").read_text()
    for path in (folder / "scores").glob("*.h5"):
        score = store_score.read_score(path)
        assert score.spec["likelihood"] == likelihood
        assert (score.status, len(score.loglik)) == ("ok", 12)
        assert (score.loglik < 0).all()
        # An encoder-decoder reads the question, and only the answer is scored.
        assert (score.boundary_loglik is None) == (texts == "short")
    assert store.read_distances(folder / "kl.h5").kl is not None


def test_where_failures_are_skipped_the_map_is_drawn_without_the_model(
    stopped: tuple[Project, str], tmp_path: Path
) -> None:
    project = stopped[0].copy(tmp_path / "klmap")
    before = {name: project.scores(name) for name in ("chat.plain", "short", "written")}
    project.configure(on_model_failure="skip")
    project.run()
    for name, kept in before.items():
        assert project.scores(name) == kept, "nothing is scored again"
    folder = project.folder / "results/chat"
    (failed,) = read_tsv(folder / "failures.tsv")
    assert failed["model"] == "models--bare"
    assert NO_TEMPLATE in failed["reason"]
    assert [row["model"] for row in read_tsv(folder / "models.tsv")] == ["models--a", "models--b"]
    shifts = read_tsv(folder / "prompts/shifts.tsv")
    assert {(row["edit"], row["model"]) for row in shifts} == {
        (edit, f"models--{name}") for edit in ("german", "plain") for name in ("a", "b")
    }
    missing = read_tsv(folder / "prompts/missing.tsv")
    assert [(row["edit"], row["model"]) for row in missing] == [("plain", "models--bare")]
    assert (folder / "map.html").is_file()
    assert project.planned() == {}
    assert not project.leftovers()


def test_edits_of_a_wording_that_a_record_lacks_are_told_with_its_line(
    stopped: tuple[Project, str], tmp_path: Path
) -> None:
    project = stopped[0].copy(tmp_path / "klmap")
    shutil.rmtree(project.folder / "results/chat")
    lacking = [{k: v for k, v in row.items() if k != "question_de"} for row in QUESTIONS[:1]]
    write_rows(project.folder / "questions.jsonl", QUESTIONS[1:] + lacking)
    said = project.run("results/chat/texts.jsonl", check=False)
    assert "question_de" in said
    assert "12" in said, "the line"
    assert "Traceback" not in said

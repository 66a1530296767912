"""Prompts, mixtures and kinds of likelihood before any job runs: configuration, plan, requests."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from klmap import arguments, configfile, plan_prompts, plan_tables, products
from klmap.config import Config
from klmap.errors import ConfigError
from klmap.plan import Plan
from klmap.submission import Submission
from tests.test_plan import looked_up, place

FIELDS = {"prompt": "question", "response": "answer", "german": "question_de"}
POLITE = {"suffix": " Please."}
LOUD = {"suffix": "!"}
CHAT = {
    "source": "file",
    "path": "chat.jsonl",
    "fields": FIELDS,
    "pmi": True,
    "edits": {
        "polite": POLITE,
        "german": {"prompt": "german"},
        "both": {"of": ["german", "polite"]},
    },
}
PLAIN = {"source": "environment"}
CUT = {**PLAIN, "prompt_bytes": 200}
OF_CHAT = ["chat.polite", "chat.german", "chat.both", "chat.pmi"]
MODELS = ["org/a", "org/b", {"id": "org/c", "texts": "chat"}, {"id": "org/d", "texts": "plain"}]


def write(folder: Path, **keys: Any) -> Path:
    """A configuration of prompts, plain texts, and models of both."""
    usual = {
        "results": str(folder / "results"),
        "texts": {"chat": CHAT, "plain": PLAIN},
        "models": MODELS,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**usual, **keys}, sort_keys=False))
    return path


def load(folder: Path, **keys: Any) -> Config:
    return configfile.load(write(folder, **keys))


def planned(folder: Path, **keys: Any) -> Plan:
    path = write(folder, **keys)
    return Plan(configfile.load(path), path)


def refusal(folder: Path, **keys: Any) -> str:
    """All that is said about a configuration, of which every line names a place of the file."""
    with pytest.raises(ConfigError) as told:
        load(folder, **keys)
    said = str(told.value)
    assert all(re.search(r"config\.yaml: .*line \d+", line) for line in said.splitlines()), said
    return said


# What is refused


def of_chat(**changes: Any) -> dict[str, Any]:
    """The text sets with another `chat`."""
    return {"chat": {**CHAT, **changes}, "plain": PLAIN}


def edit(**keys: Any) -> dict[str, Any]:
    return of_chat(edits={"polite": POLITE, "wrong": keys})


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({"chat": {**PLAIN, "edits": {"polite": POLITE}}}, "chat: edits: is about prompts, and"),
        ({"chat": {**PLAIN, "pmi": True}}, "chat: pmi: is about prompts, .*; give prompt_bytes:"),
        ({"chat": {**PLAIN, "template": "model"}}, "chat: template: is about prompts"),
        ({"chat": {**PLAIN, "separator": " "}}, "chat: separator: is about prompts"),
        ({"chat": {**CUT, "separator": " "}}, "chat: separator: has no meaning with prompt_bytes:"),
        (of_chat(prompt_bytes=20), "chat: there are fields: and prompt_bytes:; keep one"),
        (of_chat(chunk=True), "chat: chunk: has no meaning with fields:"),
        (of_chat(template="chatml"), r"chat\.template: 'chatml' is not one of none, model"),
        (of_chat(fields={"prompt": "q"}), r"chat\.fields: found prompt; name the fields of prompt"),
        (
            of_chat(fields={**FIELDS, "messages": "m"}),
            r"chat\.fields: found prompt, response, german, messages; name the fields",
        ),
        (edit(prompt="french"), r"chat: edits\.wrong\.prompt: there is no other wording 'french'"),
        (edit(of=["polite", "cut"]), r"chat: edits\.wrong\.of: 'cut' is no single .* are polite"),
        (edit(of=["polite", "wrong"]), r"edits\.wrong\.of: 'wrong' is no single edit"),
        (edit(of=["polite"]), r"chat\.edits\.wrong\.of: 1 given; give at least 2"),
        (edit(of=["polite", "polite"], suffix="!"), "there are of: and suffix:; an edit is one or"),
        (edit(), r"chat\.edits\.wrong: changes nothing; give prefix:, suffix:"),
        (edit(format="{prompt}"), r"chat\.edits\.wrong\.format: '{prompt}' changes nothing"),
        (edit(template="none"), r"edits\.wrong\.template: .* have the form 'none' already"),
        (
            of_chat(template="model", edits={"wrong": {"template": "model"}}),
            r"edits\.wrong\.template: .* have the form 'model' already; give the other one",
        ),
        (edit(of=["polite", "polite"]), r"edits\.wrong\.of: 'polite' stands there twice"),
        (
            of_chat(
                edits={"a": {"system": "x"}, "b": {"system": "y"}, "wrong": {"of": ["a", "b"]}}
            ),
            r"chat: edits\.wrong\.of: {'system': 'y'} would undo system: of an edit before it",
        ),
        (
            of_chat(
                edits={
                    "polite": POLITE,
                    "german": {"prompt": "german"},
                    "wrong": {"of": ["polite", "german"]},
                }
            ),
            r"edits\.wrong\.of: {'prompt': 'german'} would undo .*; put an edit with prompt: first",
        ),
        (edit(suffx="!"), r"chat\.edits\.wrong\.suffx: unknown key; known keys: prefix, suffix"),
        (edit(format="Q:"), r"chat\.edits\.wrong\.format: 'Q:' does not have {prompt} in it once"),
        (of_chat(edits={"pmi": POLITE}), "chat: edits: 'pmi' is no name for an edit.*is taken"),
        (of_chat(edits={"so nice": POLITE}), "edits: 'so nice' is no name .*'_' and '-' are fine"),
        (of_chat(edits={"a.b": POLITE}), "edits: 'a.b' is no name for an edit"),
    ],
)
def test_mistakes_in_prompts_name_their_place_and_the_fix(
    tmp_path: Path, texts: dict[str, Any], said: str
) -> None:
    told = refusal(tmp_path, texts=texts, models=["org/a"])
    assert re.search(rf"texts\.{said}" if said.startswith("chat") else said, told), told


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("chat.polite", "the edit 'polite' of 'chat'"), ("chat.pmi", "PMI of 'chat'")],
)
def test_no_text_set_can_have_the_name_of_a_variant_wherever_it_stands(
    tmp_path: Path, name: str, kind: str, after: bool
) -> None:
    texts = {"chat": CHAT, name: PLAIN} if after else {name: PLAIN, "chat": CHAT}
    told = refusal(tmp_path, texts=texts, models=["org/a"])
    assert f"texts.{name}: this is the name of {kind} too; choose another" in told


def test_a_selection_is_of_texts_and_not_of_their_variants(tmp_path: Path) -> None:
    few = {"source": "selection", "of": "chat.polite", "n": 20}
    told = refusal(tmp_path, texts={"chat": CHAT, "few": few}, models=["org/a"])
    assert "texts.few.of: 'chat.polite' follows from 'chat'; name that" in told


def test_nothing_is_scored_for_pmi_alone(tmp_path: Path) -> None:
    told = refusal(tmp_path, models=["org/a", {"id": "org/e", "texts": ["plain", "chat.pmi"]}])
    assert "models[1]: texts: 'chat.pmi' is made of the scores on 'chat'; name that" in told
    release = {"texts": "chat.pmi", "loglik": "L.tsv", "models": 10}
    told = refusal(tmp_path, published={"lab": release})
    assert "published.lab.texts: 'chat.pmi' is what prompts add" in told
    assert "texts: chat " in f"{told} "


def masked(**keys: Any) -> dict[str, Any]:
    return {"id": "org/bert", "likelihood": "masked", **keys}


@pytest.mark.parametrize(
    ("models", "place"),
    [
        (["org/a", masked()], "texts.chat"),
        (["org/a", masked(texts=["chat", "plain"])], "texts.plain"),
        (["org/a", masked(texts="chat.polite")], "texts.chat.polite"),
    ],
)
def test_likelihoods_of_two_kinds_do_not_stand_on_one_map(
    tmp_path: Path, models: list[Any], place: str
) -> None:
    told = refusal(tmp_path, models=models)
    assert f"{place}: likelihoods of different kinds would stand on one map" in told
    assert "org--a by causal, org--bert+masked by masked" in told
    assert "(texts: of the models)" in told
    assert "map: {mixed_likelihoods: true}" in told
    assert told.count("different kinds") == len({*load_kinds(told)}), "each is told once"
    load(tmp_path, models=models, map={"mixed_likelihoods": True})


def load_kinds(told: str) -> list[str]:
    """The text sets of which is told that likelihoods are mixed."""
    return re.findall(r"texts\.([a-z.]+): likelihoods of different kinds", told)


def test_the_same_mixture_of_kinds_is_told_of_the_text_set_and_not_of_each_edit(
    tmp_path: Path,
) -> None:
    told = refusal(tmp_path, models=["org/a", masked()])
    assert load_kinds(told) == ["chat", "plain"]


def test_a_kind_of_its_own_is_fine_on_a_text_set_of_its_own_or_off_the_map(tmp_path: Path) -> None:
    plan = planned(
        tmp_path,
        models=["org/a", {"id": "org/b", "texts": "plain"}, masked(on_map=False)],
    )
    assert [*plan.config.mapped_on["chat"]] == ["org--a"]
    assert [*plan.config.unmapped_on["chat"]] == ["org--bert+masked"]
    texts = {"chat": CHAT, "cut": CUT}
    alone = planned(
        tmp_path, texts=texts, models=[{"id": "org/a", "texts": "chat"}, masked(texts="cut")]
    )
    assert json.loads(alone.spec("cut", "org--bert+masked"))["likelihood"] == "masked"
    assert "likelihood" not in json.loads(alone.spec("chat", "org--a"))
    assert arguments.identity(alone, "org--bert") == "--id org/bert --likelihood masked"
    assert arguments.identity(alone, "org--a") == "--id org/a"


def test_a_model_of_another_kind_does_not_stand_beside_a_release(tmp_path: Path) -> None:
    release = {"texts": "plain", "loglik": "L.tsv", "models": 10}
    told = refusal(tmp_path, models=[masked(texts="plain")], published={"lab": release})
    assert "published.lab: its vectors are causal log-likelihoods, and org--bert+masked is" in told


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (
            ["org/bert", masked(on_map=False)],
            "models[1]: 'org/bert' is scored by causal in models[0] and by masked here",
        ),
        ([masked(layers=[0, 1])], "models[0]: layers: reads hidden states of causal models, and"),
        ([{"id": "org/a", "likelihood": "exact"}], "models[0].likelihood: 'exact' is not one of"),
    ],
)
def test_a_source_is_of_one_kind_and_only_causal_ones_have_layers(
    tmp_path: Path, models: list[Any], said: str
) -> None:
    assert said in refusal(tmp_path, models=models, texts={"plain": PLAIN})


def mixture(**changes: Any) -> dict[str, Any]:
    """Settings of one mixture."""
    return {"mixture": {"plans": {"mine": {"base": "org/a", "target": "org/b", **changes}}}}


def generation(*pair: str, **keys: Any) -> dict[str, Any]:
    return {"generation": {"pairs": [[*pair]], **keys}}


PAIR = ("org--a", "org--b")


@pytest.mark.parametrize(
    ("analyses", "said"),
    [
        (generation("org--a", "org--z"), "generation.pairs[0]: no model has the name 'org--z'"),
        (generation("org--a", "org--a"), "pairs[0]: 'org--a' is compared with itself; name two"),
        (generation("org--a", "org--d"), "pairs[0]: no text set with prompts has scores of both"),
        (generation(*PAIR, texts="plain"), "generation.texts: 'plain' is no text set with prompts"),
        (mixture(target="org/z"), "plans.mine.target: no model has the name 'org/z' on the map"),
        (
            mixture(probes={"code": "org/z"}),
            "plans.mine.probes.code: no model has the name 'org/z'",
        ),
        (mixture(texts="gone"), "plans.mine.texts: no text set 'gone'; configured: chat, plain"),
        (mixture(target="org/a"), "plans.mine: base and target are the same model, 'org/a'"),
        (mixture(check=True), "plans.mine: check: only bases of the demo are trained here"),
        (
            mixture(base="org/c", target="org/d"),
            "plans.mine: none of its text sets has all its models ('chat' lacks org--d); let",
        ),
        (
            mixture(target="org/d", texts="chat"),
            "plans.mine: none of its text sets has all its models ('chat' lacks org--d)",
        ),
        ({"mixture": {"plans": {}}}, "analyses.mixture.plans: is empty; give at least one"),
        ({"prompts": {"bootstrap": 1}}, "analyses.prompts.bootstrap: 1: input should be"),
    ],
)
def test_analyses_of_what_is_not_there_name_their_place(
    tmp_path: Path, analyses: dict[str, Any], said: str
) -> None:
    assert said in refusal(tmp_path, analyses=analyses)


def test_a_checked_mixture_names_folders_and_another_one_does_not(tmp_path: Path) -> None:
    models = ["demo/gpt2-base", "demo/gpt2-code"]
    plan = {"base": "demo/gpt2-base", "target": "demo--gpt2-code"}

    def asked(name: str, **keys: Any) -> dict[str, Any]:
        return {"models": models, "analyses": {"mixture": {"plans": {name: {**plan, **keys}}}}}

    load(tmp_path, **asked("towards code"))
    load(tmp_path, **asked("towards-code", check=True))
    told = refusal(tmp_path, **asked("towards code", check=True))
    assert "plans.towards code: 'towards code' names folders of what is trained" in told


def test_only_causal_models_write_texts(tmp_path: Path) -> None:
    models = [masked(texts="chat"), "org/a"]
    told = refusal(
        tmp_path,
        models=models,
        map={"mixed_likelihoods": True},
        analyses=generation("org--a", "org--bert+masked"),
    )
    assert "'org--bert+masked' is scored by masked, and only causal models write texts" in told


def test_analyses_of_prompts_need_texts_with_prompts(tmp_path: Path) -> None:
    told = refusal(
        tmp_path, texts={"plain": PLAIN}, models=PAIR_OF_PLAIN, analyses={"prompts": None}
    )
    assert "analyses.prompts: no text set has edits: of its prompts" in told
    told = refusal(
        tmp_path, texts={"plain": PLAIN}, models=PAIR_OF_PLAIN, analyses=generation(*PAIR)
    )
    assert "analyses.generation: no text set has prompts that models could answer" in told


PAIR_OF_PLAIN = ["org/a", "org/b"]


# What follows from a good one


def test_variants_stand_behind_their_texts_and_have_their_models(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert [*config.texts] == ["chat", *OF_CHAT, "plain"]
    assert [*config.variants] == OF_CHAT
    of_chat = ["org--a", "org--b", "org--c"]
    assert {name: [*models] for name, models in config.mapped_on.items()} == {
        **dict.fromkeys(["chat", *OF_CHAT], of_chat),
        "plain": ["org--a", "org--b", "org--d"],
    }
    assert {*config.scored_on} == {*config.texts} - {"chat.pmi"}


def test_a_model_may_be_scored_on_one_edit_alone(tmp_path: Path) -> None:
    config = load(tmp_path, models=["org/a", {"id": "org/e", "texts": "chat.polite"}])
    found = {name for name, models in config.scored_on.items() if "org--e" in models}
    assert found == {"chat.polite"}


def test_the_matrix_of_pmi_is_made_of_the_same_scores(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    assert plan.score("chat.pmi", "org--a") == plan.score("chat", "org--a")
    assert arguments.values(plan, "chat.pmi") == f"--scores {plan.results}/chat/scores --vector pmi"
    assert arguments.values(plan, "chat") == f"--scores {plan.results}/chat/scores"
    assert arguments.values(plan, "chat.both") == f"--scores {plan.results}/chat.both/scores"
    rows = [row.split("\t")[2] for row in plan_tables.index_rows(plan, "chat.pmi")]
    assert rows == [row.split("\t")[2] for row in plan_tables.index_rows(plan, "chat")]


def scores(plan: Plan) -> dict[str, set[str]]:
    """Files of all scores, by text set."""
    return {
        texts: {plan.score(texts, model) for model in models}
        for texts, models in plan.config.scored_on.items()
    }


def changed(folder: Path, **chat: Any) -> set[str]:
    """Text sets whose scores have other names when the prompts are configured like this."""
    before, after = scores(planned(folder)), scores(planned(folder, texts=of_chat(**chat)))
    return {name for name in {*before, *after} if before.get(name) != after.get(name)}


EDITS: dict[str, Any] = CHAT["edits"]  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("chat", "names"),
    [
        ({"edits": {**EDITS, "loud": LOUD}}, {"loud"}),
        ({"edits": {**EDITS, "german": {"prompt": "german", "suffix": "!"}}}, {"german", "both"}),
        ({"edits": dict(reversed(EDITS.items()))}, set()),
        (
            {"edits": {**EDITS, "loud": LOUD, "both": {"of": ["loud", "polite"]}}},
            {"loud", "both"},
        ),
        ({"pmi": False}, {"chat"}),
        ({"separator": "\n"}, set()),
        ({"template": "none"}, set()),
        ({"fields": dict(reversed(FIELDS.items()))}, set()),
        ({"separator": " "}, {"chat", "polite", "german", "both"}),
        ({"template": "model"}, {"chat", "polite", "german", "both"}),
    ],
)
def test_what_is_scored_again_is_what_changes_and_nothing_else(
    tmp_path: Path, chat: dict[str, Any], names: set[str]
) -> None:
    expected = {name if name.startswith("chat") else f"chat.{name}" for name in names}
    assert changed(tmp_path, **chat) == expected


def test_an_edit_by_another_name_is_the_same_edit_of_another_text_set(tmp_path: Path) -> None:
    first = planned(tmp_path)
    other = planned(tmp_path, texts=of_chat(edits={"nice": POLITE}))
    one, two = first.score("chat.polite", "org--a"), other.score("chat.nice", "org--a")
    assert (Path(one).parent, Path(one).name) != (Path(two).parent, Path(two).name)
    assert Path(one).name == Path(two).name
    edits = {"nice": POLITE, "loud": LOUD, "b": {"of": ["nice", "loud"]}}
    composed = planned(tmp_path, texts=of_chat(edits=edits))
    assert json.loads(plan_prompts.edits(composed, "chat.b")) == [POLITE, LOUD]


def test_a_score_of_plain_texts_has_the_settings_it_always_had(tmp_path: Path) -> None:
    spec = json.loads(planned(tmp_path).spec("plain", "org--a"))
    assert {*spec} == {
        *("id", "revision", "dtype", "quantization", "prefix", "overlength", "texts"),
        "scorer_version",
    }
    assert {*spec["texts"]} == {"source", "n", "max_bytes", "min_bytes", "seed"}


def test_arguments_do_not_depend_on_the_order_of_edits(tmp_path: Path) -> None:
    plan = planned(tmp_path, analyses={"prompts": {"bootstrap": 50, "seed": 1}})
    folder = plan.results
    assert arguments.prompts(plan, "chat") == (
        f"--edits both={folder}/chat.both/matrix.h5 german={folder}/chat.german/matrix.h5 "
        f"polite={folder}/chat.polite/matrix.h5 --composed both=german,polite "
        "--bootstrap 50 --seed 1"
    )
    edits = {"polite": POLITE, "a": {"suffix": "!"}, "z": {"of": ["polite", "a"]}}
    edits |= {"b": {"of": ["a", "polite"]}}
    found = {
        arguments.prompts(planned(tmp_path, texts=of_chat(edits=dict(order))), "chat")
        for order in (edits.items(), reversed(edits.items()))
    }
    (only,) = found
    assert "--composed b=a,polite z=polite,a" in only


def made(plan: Plan, texts: str) -> set[str]:
    """Names of all that is wanted of one text set."""
    wanted = [*products.map_files(plan), *products.analysis_files(plan)]
    start = f"{plan.results}/{texts}/"
    return {path.removeprefix(start) for path in wanted if path.startswith(start)}


ALL = {
    "prompts": None, "scale": None, "axes": None, "robustness": None, **generation(*PAIR),
    **mixture(texts="plain"),
}  # fmt: skip


def test_edits_have_no_map_and_pmi_has_one_without_analyses_of_whole_sets(tmp_path: Path) -> None:
    plan = planned(tmp_path, analyses=ALL)
    found = {name: {path.split("/")[0] for path in made(plan, name)} for name in plan.config.texts}
    assert {name for name, files in found.items() if not files} == {*OF_CHAT} - {"chat.pmi"}
    assert all("map.html" in found[name] for name in ("chat", "chat.pmi", "plain"))
    analyses = {name: files & {*ALL} for name, files in found.items() if files}
    assert analyses == {
        "chat": {"prompts", "scale", "axes", "robustness", "generation"},
        "chat.pmi": {"scale", "axes"},
        "plain": {"scale", "axes", "robustness", "mixture"},
    }
    assert products.ways_on(plan, "chat") == [f"{plan.results}/chat/prompts/ways.tsv"]
    assert products.ways_on(plan, "plain") == [f"{plan.results}/plain/mixture/ways.tsv"]
    assert products.ways_on(plan, "chat.pmi") == []


def test_other_text_sets_are_no_variants(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    assert [*products.other_matrices(plan, "chat")] == ["plain"]
    assert [*products.other_matrices(plan, "plain")] == ["chat"]


CHECKED = {"base": "demo/gpt2-base@step150", "target": "demo/gpt2-code", "check": True}


def of_mixtures(folder: Path, **plans: Any) -> Plan:
    models = ["demo/gpt2-base", "demo/gpt2-base@step150", "demo/gpt2-code"]
    models.append({"id": "demo/llama-base", "texts": "chat"})  # type: ignore[arg-type]
    return planned(folder, models=models, analyses={"mixture": {"plans": plans}})


def test_what_is_trained_follows_from_the_plans_that_are_checked(tmp_path: Path) -> None:
    plan = of_mixtures(
        tmp_path,
        other={"base": "demo/gpt2-base", "target": "demo/llama-base"},
        mine={**CHECKED, "texts": "plain"},
    )
    assert [*plan_prompts.mixtures_on(plan, "plain")] == ["mine"]
    assert [*plan_prompts.mixtures_on(plan, "chat")] == ["other"]
    folder = f"{plan.results}/plain/mixture_train"
    assert plan_prompts.trained(plan, "plain") == [f"{folder}/mine-found", f"{folder}/mine-uniform"]
    assert plan_prompts.trained(plan, "chat") == []
    assert plan_prompts.base_run(plan, "plain", "mine") == [f"{plan.zoo}/runs/gpt2-base"]
    assert plan_prompts.base_folder(plan, "plain", "mine") == f"{plan.zoo}/runs/gpt2-base/step150"
    with pytest.raises(ConfigError, match=r"'chat' have no mixture 'other' that is checked"):
        plan_prompts.base_run(plan, "chat", "other")
    assert "check.tsv" in {path.split("/")[-1] for path in made(plan, "plain")}
    assert "check.tsv" not in {path.split("/")[-1] for path in made(plan, "chat")}
    assert json.loads(arguments.checked_mixtures(plan, "plain")) == {
        "mine": {"base": CHECKED["base"], "target": CHECKED["target"], "probes": {}, "known": {}}
    }


def test_whether_a_mixture_is_checked_does_not_change_how_it_is_found(tmp_path: Path) -> None:
    plain = {key: value for key, value in CHECKED.items() if key != "check"}
    other = {"base": "demo/gpt2-base", "target": "demo/gpt2-code"}
    one = of_mixtures(tmp_path, mine=CHECKED, other=other)
    two = of_mixtures(tmp_path, other=other, mine=plain)
    assert arguments.mixtures(one, "plain") == arguments.mixtures(two, "plain")


# Pairs that answer prompts


def pairs(folder: Path, chat: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    """File and settings of the pair on each text set."""
    asked = generation("org--b", "org--a", **keys)
    plan = planned(folder, texts={"chat": chat or CHAT, "plain": PLAIN}, analyses=asked)
    return {
        texts: (plan.samples.file(texts, *pair), plan.samples.settings(texts, *pair))
        for texts in plan.config.texts
        for pair in plan.samples.of(texts)
    }


def test_each_pair_answers_the_prompts_of_the_texts_and_not_of_their_edits(tmp_path: Path) -> None:
    found = pairs(tmp_path)
    assert [*found] == ["chat"]
    path, settings = found["chat"]
    assert re.search(r"/chat/samples/org--a~org--b\.[0-9a-f]{12}\.h5$", path)
    assert {key: settings[key] for key in settings if key not in ("kind", "pair")} == {
        **{"prompts": 50, "samples": 4, "tokens": 64, "temperature": 1.0},
        **{"mauve": False, "seed": 42},
    }


def test_answers_are_written_again_for_what_changes_them_and_not_for_pmi(tmp_path: Path) -> None:
    (first,) = {path for path, _ in pairs(tmp_path).values()}
    for same in (pairs(tmp_path, {**CHAT, "pmi": False}), pairs(tmp_path, {**CHAT, "edits": {}})):
        assert {path for path, _ in same.values()} == {first}
    other = [
        *(pairs(tmp_path, **{key: value}) for key, value in {"seed": 1, "tokens": 9}.items()),
        pairs(tmp_path, mauve=True),
        pairs(tmp_path, {**CHAT, "separator": " "}),
    ]
    found = {path for each in other for path, _ in each.values()}
    assert len(found) == 4
    assert first not in found


def test_answers_are_told_in_full_on_the_command_line(tmp_path: Path) -> None:
    plan = planned(tmp_path, analyses=generation(*PAIR, temperature=0.5, mauve=True))
    line = arguments.pair(plan.samples, "chat", *PAIR)
    assert line.startswith("--models org--a org--b --specs '{")
    assert line.endswith("--prompts 50 --samples 4 --tokens 64 --temperature 0.5 --seed 42 --mauve")
    assert '"pmi"' not in line


# What jobs ask for


def minutes(folder: Path, texts: str, likelihood: str | None = None, **chat: Any) -> int:
    """What the score of a large model on texts of a known size asks for."""
    entry = {"id": "org/a", "texts": texts, **({"likelihood": likelihood} if likelihood else {})}
    made = {"chat": {**CHAT, **chat}} if texts.startswith("chat") else {"plain": PLAIN}
    plan = planned(folder, texts=made, models=[entry])
    looked_up(plan, 7_000_000_000)
    sizes = {"n": 10_000, "mean_bytes": 500.0}
    if texts != "plain":
        sizes["mean_prompt_bytes"] = 1500.0
    place(f"{plan.results}/{texts}/texts.json", 0, json.dumps(sizes))
    (model,) = plan.config.by_slug
    return Submission(plan, dict).request(texts, model).minutes


def test_prompts_pmi_and_masked_models_ask_for_more_time(tmp_path: Path) -> None:
    plain = minutes(tmp_path, "plain")
    prompted = minutes(tmp_path, "chat", pmi=False)
    both = minutes(tmp_path, "chat", pmi=True)
    edited = minutes(tmp_path, "chat.polite", pmi=True)
    by_mask = minutes(tmp_path, "plain", "masked")
    assert plain < prompted < both
    assert edited == prompted, "PMI is of the prompts as they are"
    assert by_mask > 20 * plain, "each token is read for itself"


def test_a_pair_asks_for_the_time_of_both_models(tmp_path: Path) -> None:
    plan = planned(tmp_path, analyses=generation(*PAIR))
    looked_up(plan, 7_000_000_000)
    place(f"{plan.results}/chat/texts.json", 0, json.dumps({"n": 10_000, "mean_bytes": 500.0}))
    submission = Submission(plan, dict)
    one, two = (submission.request("chat", model) for model in PAIR)
    both = submission.pair(plan.samples, "chat", *PAIR)
    assert both.minutes == one.minutes + two.minutes
    assert both.memory == one.memory + two.memory
    assert both.gpus == 1, "both fit on one"


def test_how_a_score_reads_its_texts_is_in_the_table_that_is_looked_ahead_by(
    tmp_path: Path,
) -> None:
    texts = {"chat": CHAT, "plain": PLAIN}
    plan = planned(tmp_path, texts=texts, models=[{"id": "org/a", "texts": "chat"}, masked(
        texts="plain"
    )])  # fmt: skip
    found = dict(zip(plan_tables.PLAN_COLUMNS, zip(*(
        row.split("\t") for row in plan_tables.score_rows(plan)
    ), strict=True), strict=True))  # fmt: skip
    by_set = dict(zip(found["texts"], found["reading"], strict=True))
    edits = ("chat.polite", "chat.german", "chat.both")
    assert by_set == {"chat": "pmi", **dict.fromkeys(edits, ""), "plain": "masked"}

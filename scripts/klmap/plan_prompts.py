"""What a plan says of edited prompts, and of mixtures that are looked for.

Rules ask while they are parsed, so nothing heavy is imported.
"""

from __future__ import annotations

import json

from klmap.config_analyses import MixturePlan
from klmap.errors import ConfigError
from klmap.plan import Plan


def edited(plan: Plan, texts: str) -> dict[str, str]:
    """Matrices of a text set with other prompts, by the names of the edits."""
    found = plan.config.edited.get(texts, {})
    return {edit: f"{plan.results}/{name}/matrix.h5" for edit, name in found.items()}


def edited_paths(plan: Plan, texts: str) -> list[str]:
    """The same without their names."""
    return [*edited(plan, texts).values()]


def edits(plan: Plan, texts: str) -> str:
    """The single edits of a variant, in the order in which they are made, as JSON."""
    found = plan.config.variants[texts].edits
    return json.dumps([each.model_dump(mode="json", exclude_none=True) for each in found])


def base_texts(plan: Plan, texts: str) -> str:
    """The texts that those of a variant follow from."""
    return f"{plan.results}/{plan.config.variants[texts].of}/texts.jsonl"


def base_manifest(plan: Plan, texts: str) -> str:
    """Their manifest."""
    return f"{plan.results}/{plan.config.variants[texts].of}/texts.json"


def scores_folder(plan: Plan, texts: str) -> str:
    """Where the scores lie that stand on a map."""
    return f"{plan.results}/{plan.config.scored_as(texts)}/scores"


def mixtures_on(plan: Plan, texts: str) -> dict[str, MixturePlan]:
    """The mixtures that are to be looked for on a text set, by name."""
    asked = plan.config.analyses.mixture
    scored = {entry.slug for entry in plan.config.scored_on.get(texts, {}).values()}
    return {
        name: each
        for name, each in ({} if asked is None else asked.plans).items()
        if (each.texts is None or texts in each.texts) and _parts(plan, each) <= scored
    }


def _parts(plan: Plan, mixture: MixturePlan) -> set[str]:
    """Names on the map of the models that a mixture is worked out from."""
    named = (mixture.base, mixture.target, *mixture.probes.values())
    return {entry.slug for name in named if (entry := plan.config.part(name)) is not None}


def checked_on(plan: Plan, texts: str) -> dict[str, MixturePlan]:
    """Those of them that are to be checked by training."""
    return {name: each for name, each in mixtures_on(plan, texts).items() if each.check}


def _base(plan: Plan, texts: str, mixture: str) -> str:
    """Source of the model that a mixture is to be trained on.

    Raises:
        ConfigError: the configuration asks for no such check, or the base is not of the demo.
    """
    found = checked_on(plan, texts).get(mixture)
    entry = None if found is None else plan.config.part(found.base)
    if entry is None or not entry.is_demo:
        raise ConfigError(
            f"texts {texts!r} have no mixture {mixture!r} that is checked by training a base of "
            "the demo; the configuration was edited while the job waited, or the name is mistyped"
        )
    return entry.source


def base_run(plan: Plan, texts: str, mixture: str) -> list[str]:
    """The training run of the base of a mixture."""
    return plan.zoo_run(_base(plan, texts, mixture))


def base_folder(plan: Plan, texts: str, mixture: str) -> str:
    """The folder of the base of a mixture."""
    return plan.folder(_base(plan, texts, mixture))


def trained_by_plan(plan: Plan, texts: str) -> dict[str, dict[str, str]]:
    """Folders of the models that are trained to check mixtures, by mixture and kind of weights."""
    folder = f"{plan.results}/{texts}/mixture_train"
    return {
        name: {kind: f"{folder}/{name}-{kind}" for kind in ("found", "uniform")}
        for name in checked_on(plan, texts)
    }


def trained(plan: Plan, texts: str) -> list[str]:
    """The same folders alone."""
    return [path for kinds in trained_by_plan(plan, texts).values() for path in kinds.values()]


def spec_of_base(plan: Plan, texts: str, mixture: str) -> str:
    """Settings by which the models are scored that are trained to check a mixture, as JSON."""
    _base(plan, texts, mixture)
    entry = plan.config.part(checked_on(plan, texts)[mixture].base)
    return plan.spec(texts, entry.slug if entry is not None else "")

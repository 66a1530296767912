"""What the rules tell their scripts, as it stands on a command line.

Snakemake compares what is a param with what it was when a file was made, letter by letter: another
order of the same arguments would draw every map again.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

from klmap.config import Config
from klmap.config_analyses import (
    Axes,
    MixturePlan,
    Predict,
    Prompts,
    Resample,
    Robustness,
    Scale,
    Trajectories,
)
from klmap.likelihoods import CAUSAL
from klmap.pair_jobs import PairJobs
from klmap.plan import Plan
from klmap.plan_prompts import checked_on, edited, mixtures_on, scores_folder, trained_by_plan
from klmap.products import (
    comparisons_on,
    other_matrices,
    release_files,
    releases_on,
)

_KEPT = {True: "", False: " --fresh", "fixed": " --fixed"}


def identity(plan: Plan, source: str) -> str:
    """Arguments that tell resolve which model is meant.

    Raises:
        ConfigError: no configured model has this source.
    """
    entry = plan.source(source)
    revision = entry.effective_revision
    parts = [
        f"--id {shlex.quote(entry.repository)}",
        f"--revision {shlex.quote(revision)}" if revision else "",
        folder(plan, source),
        "--remote-code" if plan.runs_code(source) else "",
        "" if (kind := plan.config.likelihood(entry)) == CAUSAL else f"--likelihood {kind}",
    ]
    return " ".join(part for part in parts if part)


def folder(plan: Plan, source: str) -> str:
    """Argument that tells resolve and fetch where a local model lies; none for the Hub."""
    found = plan.folder(source)
    return f"--folder {shlex.quote(found)}" if found else ""


def resolve(config: Config) -> str:
    """Arguments of resolve and preflight that change nothing about what is found."""
    return f"--on-failure {config.on_model_failure}{_mirrors(config)}"


def fetch(config: Config) -> str:
    """Arguments of every fetch that change nothing about what comes, and so are no params."""
    return f"{merge_options(config)}{_mirrors(config)}"


def merge_options(config: Config) -> str:
    """Arguments of every merge that change nothing about what comes."""
    budget = f"--budget-gb {config.hardware.disk_budget_gb:g}"
    return f"{budget} --on-failure {config.on_model_failure}"


def _mirrors(config: Config) -> str:
    """Argument that names the mirrors of the Hub; nothing without any."""
    mirrors = [str(Path(path).expanduser()) for path in config.hardware.mirrors]
    return f" --mirrors {shlex.join(mirrors)}" if mirrors else ""


def address(config: Config, texts: str) -> str:
    """Argument that tells texts where a file of the web is; none for other sources."""
    url = getattr(config.texts[texts], "url", None)
    return f"--url {shlex.quote(url)}" if url else ""


def release_recipe(plan: Plan, release: str) -> str:
    """What decides what is imported of a release, as JSON."""
    return json.dumps(plan.release(release).recipe(), sort_keys=True)


def release_spec(plan: Plan, release: str) -> str:
    """What the scores of a release have in common, as JSON: the recipe of their texts."""
    return json.dumps({"texts": plan.config.recipe(plan.release(release).texts)}, sort_keys=True)


def score(config: Config) -> str:
    """Arguments of every scoring job that change no number, and so are no params."""
    stop, batch = _how_to_run(config)
    return f"{stop} --keep-tokens {str(config.scoring.keep_tokens).lower()} {batch}"


def pair_options(config: Config) -> str:
    """The same of every job that compares two models."""
    return " ".join(_how_to_run(config))


def _how_to_run(config: Config) -> tuple[str, str]:
    """What to do with a model that fails, and how many tokens are in a batch."""
    batch = config.hardware.batch_tokens
    tokens = "auto" if batch is None else batch
    return f"--on-failure {config.on_model_failure}", f"--batch-tokens {tokens}"


def extras(plan: Plan, source: str) -> str:
    """Arguments of the scores of one source that change no number of them.

    Checkpoints of a run get a sketch of their weights, so that these can be compared when they are
    gone.
    """
    return "--sketch true" if plan.is_checkpoint(source) else ""


def merge(plan: Plan, source: str) -> str:
    """Arguments that tell merge_card and merge in which shares weights are merged."""
    # Every digit: the sum of rounded thirds is too far from 1.
    return f"--weights {' '.join(repr(share).removesuffix('.0') for share in plan.shares(source))}"


def pair(jobs: PairJobs, texts: str, first: str, second: str) -> str:
    """Arguments that tell divergence and samples which models are compared, and how."""
    found = jobs.settings(texts, first, second)
    specs = [shlex.quote(json.dumps(spec, sort_keys=True)) for spec in found["pair"]]
    how = {key: value for key, value in found.items() if key not in ("kind", "pair", "mauve")}
    options = [f"--{key} {value!r}" for key, value in how.items()]
    mauve = ["--mauve"] if found.get("mauve") else []
    return " ".join([f"--models {first} {second} --specs", *specs, *options, *mauve])


def refusal(reason: str) -> str:
    """Argument that ends a job whose models no configured machine holds; none for others."""
    return f"--refuse {shlex.quote(reason)}" if reason else ""


def preflight(plan: Plan) -> str:
    """Arguments of preflight: how large the texts are, and what the machines offer."""
    sizes = []
    for name in sorted(plan.config.scored_on):
        number, longest = plan.sizes(name)
        sizes.append(f"{name}={'all' if number is None else number},{longest}")
    offer = plan.config.hardware
    return (
        f"--texts {' '.join(sizes)} --disk-budget-gb {offer.disk_budget_gb!r} "
        f"--gpu-memory-gb {offer.gpu_memory_gb!r} --max-gpus {offer.max_gpus}"
    )


def values(plan: Plan, texts: str) -> str:
    """Arguments that tell matrix and offmap where the scores are, and what to take of them."""
    variant = plan.config.variants.get(texts)
    vector = " --vector pmi" if variant is not None and variant.edit is None else ""
    mixed = " --mixed-likelihoods" if plan.config.map.mixed_likelihoods else ""
    return f"--scores {scores_folder(plan, texts)}{vector}{mixed}"


def clip(plan: Plan, texts: str) -> str:
    """Argument of matrix that reuses the clip threshold of another map.

    That of its reference for a selection, of a release by default for all others.
    """
    if texts in plan.references:
        return f"--clip-from {shlex.quote(plan.references[texts].file('matrix.h5'))}"
    threshold = plan.config.map.clip_threshold
    # One of log-likelihoods says nothing about what prompts add.
    if threshold is not None and plan.config.scored_as(texts) == texts:
        return f"--clip-threshold={threshold!r}"
    reports = release_files(plan, texts, "report.json")
    return f"--clip-from {reports[0]}" if reports else ""


def allow(plan: Plan, texts: str) -> str:
    """Argument of matrix that names in what scores may differ from those of a release."""
    releases = [plan.config.published[name] for name in releases_on(plan, texts)]
    names = {name for release in releases for name in release.allow}
    if texts in plan.config.selections:
        names.update(plan.config.selections[texts].allow)
    return f"--allow {' '.join(sorted(names))}" if names else ""


def layout(config: Config) -> str:
    """Arguments of layout."""
    how = config.map
    return (
        f"--method {how.method} --metric {how.metric} --perplexity {how.perplexity:g} "
        f"--iterations {how.iterations} --seed {how.seed} --dense-limit {how.dense_limit}"
        f"{_KEPT[how.stable]}"
    )


def predict(config: Config) -> str:
    """Arguments of predict but for the tasks."""
    how = config.analyses.predict or Predict()
    return (
        f"--features {' '.join(how.features)} --folds {how.folds} --seeds {how.seeds} "
        f"--curve {str(how.curve).lower()}"
    )


def axes(config: Config) -> str:
    """Arguments of axes."""
    how = config.analyses.axes or Axes()
    return f"--components {how.components} --ends {how.ends}"


def comparisons(plan: Plan, texts: str) -> str:
    """What contrast compares on a text set, as JSON."""
    asked = {
        name: comparison.model_dump(mode="json", exclude={"texts"})
        for name, comparison in comparisons_on(plan, texts).items()
    }
    return json.dumps(asked, sort_keys=True)


def robustness(config: Config) -> str:
    """Arguments of robustness but for the other text sets."""
    how = config.analyses.robustness or Robustness()
    return f"--splits {how.splits} --draws {how.draws} --seed {how.seed}"


def resample(plan: Plan, texts: str) -> str:
    """Arguments of resample, with the selections of these texts that are configured."""
    how = plan.config.analyses.resample or Resample()
    options = (
        f"--draws {how.draws} --maps {how.maps} --newest {how.newest:g} --error {how.error:g} "
        f"--share {how.share:g} --seed {how.seed}"
    )
    chosen = [
        f"{name}={each.method},{'with' if each.replacement else 'without'},{each.n}"
        for name, each in sorted(plan.config.selections.items())
        if each.n is not None and plan.reference_name(name) == texts
    ]
    return f"{options} --selections {' '.join(chosen)}" if chosen else options


def scale(config: Config) -> str:
    """Arguments of scale."""
    how = config.analyses.scale or Scale()
    early = "auto" if how.early_until is None else f"{how.early_until:.15g}"
    return (
        f"--early-until {early} --pairs {how.pairs} --bootstrap {how.bootstrap} --seed {how.seed}"
    )


def trajectories(config: Config) -> str:
    """Arguments of trajectories."""
    how = config.analyses.trajectories or Trajectories()
    return (
        f"--from-step {how.from_step:.15g} --drop {how.drop:.15g} --ahead {how.ahead} "
        f"--bootstrap {how.bootstrap} --seed {how.seed}"
    )


def prompts(plan: Plan, texts: str) -> str:
    """Arguments of prompts: the edits, which of them are composed, and how errors are found."""
    how = plan.config.analyses.prompts or Prompts()
    edits = [f"{name}={path}" for name, path in sorted(edited(plan, texts).items())]
    given = sorted(plan.config.paired[texts].edits.items())
    composed = [f"{name}={','.join(edit.of)}" for name, edit in given if edit.of]
    sums = f" --composed {' '.join(composed)}" if composed else ""
    return f"--edits {' '.join(edits)}{sums} --bootstrap {how.bootstrap} --seed {how.seed}"


def generation(config: Config) -> str:
    """Arguments of generation."""
    how = config.analyses.generation
    if how is None:
        return ""
    return f"--seed {how.seed}{' --mauve' if how.mauve else ''}"


def mixture(config: Config) -> str:
    """Arguments of mixture but for what is asked."""
    how = config.analyses.mixture
    return "" if how is None else f"--bootstrap {how.bootstrap} --seed {how.seed}"


def mixtures(plan: Plan, texts: str) -> str:
    """The mixtures that are to be looked for on a text set, as JSON."""
    return _as_json(mixtures_on(plan, texts))


def checked_mixtures(plan: Plan, texts: str) -> str:
    """Those of them that are checked by training."""
    return _as_json(checked_on(plan, texts))


def _as_json(found: Mapping[str, MixturePlan]) -> str:
    asked = {
        name: each.model_dump(mode="json", exclude={"texts", "check"})
        for name, each in found.items()
    }
    return json.dumps(asked, sort_keys=True)


def trained(plan: Plan, texts: str) -> str:
    """Folders of the models that were trained to check mixtures, as JSON."""
    return json.dumps(trained_by_plan(plan, texts), sort_keys=True)


def others(plan: Plan, texts: str) -> str:
    """Argument that names the matrices of the other text sets; nothing where there are none."""
    pairs = [f"{name}={path}" for name, path in other_matrices(plan, texts).items()]
    return f"--others {' '.join(pairs)}" if pairs else ""

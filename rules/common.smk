"""Helper functions of the workflow: paths, look-ups, resources. No other rule file defines any.

Imported by every Snakemake process, on every node, so it reads the configuration and nothing else.
"""

import gc
import hashlib
import inspect
import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.persistence import FileBackupMixin
from snakemake.persistence import PersistenceBase

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))
# Thousands of jobs are millions of objects that stay. Looking through them for garbage takes a fifth
# of the time, and a dry run ends before there is any.
DRY = workflow.output_settings.dryrun
if DRY:
    gc.disable()
else:
    gc.set_threshold(200_000, 50, 100)
# Rules call `python`: the interpreter that runs Snakemake, unless an environment is deployed.
search = [str(Path(sys.executable).parent), os.getenv("PATH", "")]
os.environ.update(PATH=os.pathsep.join(search))

from klmap import allocation
from klmap import config_analyses as analyses
from klmap import config as settings
from klmap import configfile
from klmap import estimates
from klmap import zoo_runs
from klmap.config import (
    FINGERPRINT_PATTERN,
    MODEL_PATTERN,
    NAME_PATTERN,
    SOURCE_PATTERN,
)
from klmap.cards import Card
from klmap.config_published import Published
from klmap.cards import read_card
from klmap.errors import ConfigError
from klmap.errors import InputError
from klmap.files import write_text
from klmap.index import write_index

try:
    CONFIG = configfile.check(config, [Path(path) for path in workflow.configfiles])
    ZOO_FOLDERS = {
        entry.source: "/".join(
            zoo_runs.locate(entry.repository, entry.effective_revision)
        )
        for entry in CONFIG.models
        if entry.is_demo
    }
except ConfigError as error:
    raise WorkflowError(str(error)) from None

RESULTS = CONFIG.results
MODELS_OF: dict[str, list[str]] = {}
for slug, entry in CONFIG.by_slug.items():
    MODELS_OF.setdefault(entry.source, []).append(slug)
# Models are looked up, fetched and scored in the order of the configuration.
PLACES = {
    source: place
    for place, source in enumerate(
        dict.fromkeys(entry.source for entry in CONFIG.models)
    )
}
# Priority of what others wait for: the texts, and the demo's training runs.
FIRST = 4 * len(PLACES)
ON_HEAD = CONFIG.hardware.download_on == "head"
# A fetch that waits for room holds no core, but one of Snakemake's workers, of which there are
# five more than cores. `--resources downloads=2` asks for fewer at a time.
if "downloads" not in workflow.global_resources:
    workflow.global_resources["downloads"] = 4
# Rules that may be asked for while a run is at work.
LOOKS = {"status", "efficiency", "preflight", "refresh"}
SUBMITS = workflow.global_resources["_nodes"].value is not None
if SUBMITS:
    # The cores of the machine that submits say nothing about those of a node.
    workflow.global_resources["_cores"] = None
    # Jobs that share an allocation take turns, so what they ask for does not add up.
    workflow.global_resources["gpu_turn"] = 1
ALLOCATION = "allocation"
RELEASES_FROM_AFAR = any(each.is_from_afar for each in CONFIG.published.values())
TEXTS_FROM_AFAR = any(texts.source in ("hub", "url") for texts in CONFIG.texts.values())
CARDS: dict[str, Card] = {}
MANIFESTS: dict[str, dict] = {}
SCRIPTS = f"python {shlex.quote(str(Path(workflow.basedir, 'scripts')))}"
ZOO = f"{RESULTS}/models/_zoo"
# Aggregation is cheap, so it follows the library's code; scores never do.
CODE = hashlib.sha256(
    b"".join(
        path.read_bytes()
        for path in sorted(Path(workflow.basedir, "scripts", "klmap").rglob("*.*"))
        if path.suffix != ".pyc" and path.is_file()
    )
).hexdigest()[:12]


@lru_cache(maxsize=None)
def spec_of(texts: str, model: str) -> str:
    """Settings of one score as JSON, from the configuration that this process has read."""
    return json.dumps(CONFIG.spec(texts, CONFIG.by_slug[model]), sort_keys=True)


@lru_cache(maxsize=None)
def score_path(texts: str, model: str) -> str:
    """File of one model's score."""
    fp = settings.fingerprint(json.loads(spec_of(texts, model)))
    return f"{RESULTS}/{texts}/scores/{model}.{fp}.h5"


@lru_cache(maxsize=None)
def is_finished(texts: str, model: str) -> bool:
    """Whether a score is there and no older than the card and the manifest it was made from."""
    source = CONFIG.by_slug[model].source
    made_from = (
        f"{RESULTS}/models/{source}/card.json",
        f"{RESULTS}/{texts}/texts.json",
    )
    try:
        made = os.stat(score_path(texts, model)).st_mtime
        return all(os.stat(path).st_mtime <= made for path in made_from)
    except OSError:
        return False


@lru_cache(maxsize=None)
def is_partly_finished(source: str) -> bool:
    """Whether some scores of a source are there and others are not."""
    scores = [(texts, model) for texts in CONFIG.texts for model in MODELS_OF[source]]
    return len(scores) > 1 and len({is_finished(*score) for score in scores}) > 1


def wanted_score(texts: str, model: str) -> str:
    """File of one score, for a rule that needs it.

    Variants of a source and text sets share one temporary folder of weights. Fetching it for a
    new score would make Snakemake repeat the finished ones too (`ancient` does not help while the
    folder is missing), so those are handed over as files that need no job.
    """
    path = score_path(texts, model)
    forced = workflow.dag_settings.forceall or workflow.dag_settings.forcerun
    if not forced and is_partly_finished(CONFIG.by_slug[model].source):
        return before_update(path) if is_finished(texts, model) else path
    return path


def scores_of(wildcards: object) -> list[str]:
    """Scores of all configured models on one text set."""
    return [wanted_score(wildcards.texts, model) for model in sorted(CONFIG.by_slug)]


def asked_for(wildcards: object) -> settings.ModelEntry:
    """The configured model behind a score, which must be what its file name says.

    Raises:
        WorkflowError: config.yaml no longer asks for this score; it was edited while the job
            waited, or the file was asked for by hand.
    """
    if not workflow.is_main_process:
        stay_together()
    entry = CONFIG.by_slug.get(wildcards.model)
    if entry is None or wildcards.texts not in CONFIG.texts:
        raise WorkflowError(
            f"{workflow.configfiles[-1]}: no model {wildcards.model!r} for the texts "
            f"{wildcards.texts!r}; it was removed while its job waited, or the name is mistyped"
        )
    asked = score_path(wildcards.texts, wildcards.model)
    job = f"{RESULTS}/{wildcards.texts}/scores/{wildcards.model}.{wildcards.fp}.h5"
    if asked != job:
        raise WorkflowError(
            f"{workflow.configfiles[-1]}: this job is to write {job}, but the configuration now "
            f"asks for {asked}: it was edited while the job waited. Nothing was computed; run "
            "snakemake again."
        )
    return entry


def score_spec(wildcards: object) -> str:
    """Settings of one score as JSON."""
    return spec_of(wildcards.texts, wildcards.model)


def card_of(wildcards: object) -> str:
    """Card of the model behind a score."""
    return f"{RESULTS}/models/{asked_for(wildcards).source}/card.json"


def weights_of(wildcards: object) -> str:
    """Weights of the model behind a score.

    Weights that are fetched again for another score must not repeat a score that is there, so for
    that one their age does not count. For a score that is missing it has to: where a fetch was
    killed at its very end, Snakemake would else forget all that comes after it.
    """
    path = f"{RESULTS}/models/{asked_for(wildcards).source}/weights"
    made = os.path.exists(score_path(wildcards.texts, wildcards.model))
    return ancient(path) if made else path


def cards_of(wildcards: object) -> list[str]:
    """Cards of all configured models."""
    return [
        f"{RESULTS}/models/{source}/card.json" for source in sorted(CONFIG.by_source)
    ]


def entry_of(wildcards: object) -> settings.ModelEntry:
    """The configured model that a source folder belongs to.

    Raises:
        WorkflowError: no configured model has this source.
    """
    try:
        return CONFIG.by_source[wildcards.source]
    except KeyError:
        raise WorkflowError(
            f"{workflow.configfiles[-1]}: no model is filed under {wildcards.source!r}"
        ) from None


def zoo_run_of(wildcards: object) -> list[str]:
    """The training run that builds a demo model; nothing for any other model."""
    if entry_of(wildcards).is_demo:
        return [f"{ZOO}/runs/{ZOO_FOLDERS[wildcards.source].partition('/')[0]}"]
    return []


def zoo_parents_of(wildcards: object) -> list[str]:
    """The runs whose last models a run of the demo zoo starts from."""
    return [f"{ZOO}/runs/{parent}" for parent in zoo_runs.RUNS[wildcards.run].parents]


def folder_of(source: str) -> str:
    """The folder on this machine that holds a model, or nothing for one of the Hub."""
    entry = CONFIG.by_source[source]
    if entry.is_demo:
        return f"{ZOO}/runs/{ZOO_FOLDERS[source]}"
    return str(Path(entry.repository).expanduser()) if entry.is_local else ""


def runs_code(source: str) -> bool:
    """Whether the code of a repository is fetched: one of its models opted in."""
    return any(CONFIG.by_slug[model].remote_code for model in MODELS_OF[source])


def identity_arguments(wildcards: object) -> str:
    """Arguments that tell resolve which model is meant."""
    entry = entry_of(wildcards)
    revision = entry.effective_revision
    parts = [
        f"--id {shlex.quote(entry.repository)}",
        f"--revision {shlex.quote(revision)}" if revision else "",
        folder_argument(wildcards),
        "--remote-code" if runs_code(wildcards.source) else "",
    ]
    return " ".join(part for part in parts if part)


def folder_argument(wildcards: object) -> str:
    """Argument that tells resolve and fetch where a local model lies; none for the Hub."""
    folder = folder_of(wildcards.source)
    return f"--folder {shlex.quote(folder)}" if folder else ""


def index_rows(wildcards: object) -> list[str]:
    """One tab-separated line per configured model: what the aggregation has to join."""
    rows = []
    for model in sorted(CONFIG.by_slug):
        entry = CONFIG.by_slug[model]
        fp = score_path(wildcards.texts, model).rsplit(".", 2)[1]
        variant = (entry.quantization, entry.dtype, entry.prefix, entry.overlength)
        cells = [
            model,
            entry.source,
            fp,
            entry.repository,
            entry.effective_revision or "",
            entry.family or "",
            "+".join(part for part in variant if part),
        ]
        rows.append("\t".join(cells))
    return rows


def releases_on(texts: str) -> list[str]:
    """Names of the releases whose models stand on the map of a text set, first configured first."""
    return [name for name, each in CONFIG.published.items() if each.texts == texts]


def release_tables(wildcards: object) -> list[str]:
    """Lists of the models of each release on the map of a text set."""
    releases = releases_on(wildcards.texts)
    return [f"{RESULTS}/published/{release}/index.tsv" for release in releases]


def release_reports(wildcards: object) -> list[str]:
    """What was found out about each release on the map of a text set."""
    releases = releases_on(wildcards.texts)
    return [f"{RESULTS}/published/{release}/report.json" for release in releases]


def release_of(wildcards: object) -> Published:
    """A configured release.

    Raises:
        WorkflowError: the configuration has no such release.
    """
    try:
        return CONFIG.published[wildcards.release]
    except KeyError:
        known = ", ".join(CONFIG.published) or "none"
        raise WorkflowError(
            f"{workflow.configfiles[-1]}: published: no release {wildcards.release!r}; "
            f"configured: {known}"
        ) from None


def release_recipe(wildcards: object) -> str:
    """What decides what is imported of a release, as JSON."""
    return json.dumps(release_of(wildcards).recipe(), sort_keys=True)


def release_spec(wildcards: object) -> str:
    """What the scores of a release have in common, as JSON: the recipe of their texts."""
    texts = CONFIG.texts[release_of(wildcards).texts].recipe()
    return json.dumps({"texts": texts}, sort_keys=True)


def release_manifest(wildcards: object) -> str:
    """Manifest of the texts of a release."""
    return f"{RESULTS}/{release_of(wildcards).texts}/texts.json"


def release_texts(wildcards: object) -> str:
    """The texts of a release."""
    return f"{RESULTS}/{release_of(wildcards).texts}/texts.jsonl"


def release_scores(wildcards: object) -> str:
    """Where the scores of a release go: beside all others of its text set."""
    return f"{RESULTS}/{release_of(wildcards).texts}/scores"


def release_paths(wildcards: object) -> list[str]:
    """Files of a release that lie on this machine."""
    return release_of(wildcards).paths()


def clip_argument(wildcards: object) -> str:
    """Argument of matrix that reuses the clip threshold of another map; by default of a release."""
    threshold = CONFIG.map.clip_threshold
    if threshold is not None:
        return f"--clip-threshold={threshold!r}"
    releases = releases_on(wildcards.texts)
    if not releases:
        return ""
    return f"--clip-from {RESULTS}/published/{releases[0]}/report.json"


def allowed_conventions(wildcards: object) -> str:
    """Argument of matrix that names in what scores may differ from those of a release."""
    names = {
        name
        for release in releases_on(wildcards.texts)
        for name in CONFIG.published[release].allow
    }
    return f"--allow {' '.join(sorted(names))}" if names else ""


def benchmarks_on(texts: str) -> list[str]:
    """Tables of benchmark scores for the models of a text set."""
    tables = [
        f"{RESULTS}/published/{release}/benchmarks.tsv"
        for release in releases_on(texts)
        if CONFIG.published[release].metadata is not None
    ]
    return [*tables, *CONFIG.analyses.benchmarks]


def benchmarks_of(wildcards: object) -> list[str]:
    """Tables of benchmark scores, for a rule."""
    return benchmarks_on(wildcards.texts)


def predictions_of(wildcards: object) -> list[str]:
    """Predicted benchmark scores, where they are asked for and there are scores to learn from."""
    wanted = CONFIG.analyses.predict and benchmarks_on(wildcards.texts)
    return [f"{RESULTS}/{wildcards.texts}/predict/predictions.tsv"] if wanted else []


def other_matrices(wildcards: object) -> list[str]:
    """Matrices of the other text sets."""
    return [
        f"{RESULTS}/{texts}/matrix.h5"
        for texts in CONFIG.texts
        if texts != wildcards.texts
    ]


def other_arguments(wildcards: object) -> str:
    """Argument that names the matrices of the other text sets; nothing where there are none."""
    others = [texts for texts in CONFIG.texts if texts != wildcards.texts]
    pairs = [f"{texts}={RESULTS}/{texts}/matrix.h5" for texts in others]
    return f"--others {' '.join(pairs)}" if pairs else ""


def predict_arguments() -> str:
    """Arguments of predict but for the tasks."""
    how = CONFIG.analyses.predict or analyses.Predict()
    curve = str(how.curve).lower()
    return (
        f"--features {' '.join(how.features)} --folds {how.folds} --seeds {how.seeds} "
        f"--curve {curve}"
    )


def axes_arguments() -> str:
    """Arguments of axes."""
    how = CONFIG.analyses.axes or analyses.Axes()
    return f"--components {how.components} --ends {how.ends}"


def robustness_arguments() -> str:
    """Arguments of robustness."""
    how = CONFIG.analyses.robustness or analyses.Robustness()
    return f"--splits {how.splits} --draws {how.draws} --seed {how.seed}"


def comparisons() -> str:
    """What contrast compares, as JSON."""
    asked = CONFIG.analyses.contrast
    if asked is None:
        return ""
    groups = asked.model_dump(mode="json")["comparisons"]
    return json.dumps(groups, sort_keys=True)


def analysis_files() -> list[str]:
    """Everything that the configured analyses write."""
    return [
        f"{RESULTS}/{texts}/{name}/{file}"
        for texts in CONFIG.texts
        for name in CONFIG.analyses.on
        if name not in NEED_BENCHMARKS or benchmarks_on(texts)
        for file in [*ANALYSES[name][0], *with_endings(ANALYSES[name][1])]
    ]


def with_endings(figures: Iterable[str]) -> list[str]:
    """Both files of each figure."""
    return [f"{name}.{ending}" for name in figures for ending in ("png", "svg")]


def source_columns() -> list[str]:
    """Columns of the table of sources; the last one only where some model opted in to it."""
    columns = ["source", "id", "revision", "folder"]
    return columns + ["remote_code"] * any(map(runs_code, MODELS_OF))


def source_rows() -> list[str]:
    """One tab-separated line per configured source: what refresh has to ask about."""
    columns = source_columns()
    rows = []
    for source, entry in sorted(CONFIG.by_source.items()):
        cells = {
            "source": source,
            "id": entry.repository,
            "revision": entry.effective_revision or "",
            "folder": folder_of(source),
            "remote_code": "true" if runs_code(source) else "",
        }
        rows.append("\t".join(cells[column] for column in columns))
    return rows


def figure_names() -> list[str]:
    """Figures that this configuration can fill; what needs all pairs is left out above the limit."""
    names = ["map", "loglik", "paper", "layout"]
    if ALL_PAIRS:
        names += ["dendrogram", "heatmap"]
        revisions = Counter(entry.repository for entry in CONFIG.models)
        if max(revisions.values(), default=0) > 2:
            names.append("checkpoints")
    if HAS_ELLIPSES:
        names.append("ellipses")
    if HAS_DOMAINS:
        names.append("domains")
    return names


def map_files() -> list[str]:
    """Everything that a finished map consists of."""
    names = [
        "kl.h5",
        "neighbors.tsv",
        "layout.tsv",
        "layout.json",
        "models.tsv",
        "failures.tsv",
        "map.html",
    ]
    names += [
        f"figures/{name}.{ending}" for name in FIGURES for ending in ("png", "svg")
    ]
    if ALL_PAIRS:
        names.append("tree.nwk")
    if HAS_ELLIPSES:
        names.append("ellipses.tsv")
    if HAS_DOMAINS:
        names.append("domains.tsv")
    return [f"{RESULTS}/{texts}/{name}" for texts in CONFIG.texts for name in names]


def known_card(source: str) -> Card | None:
    """The card of a source, once it is there: before that the question is asked again."""
    if source not in CARDS:
        try:
            CARDS[source] = read_card(Path(RESULTS, "models", source, "card.json"))
        except InputError:
            return None
    return CARDS[source]


def known_manifest(texts: str) -> dict | None:
    """The manifest of a text set, once it is there; a broken one is for others to complain of."""
    if texts not in MANIFESTS:
        try:
            text = Path(RESULTS, texts, "texts.json").read_text(encoding="utf-8")
            found = json.loads(text)
            float(found["n"] * found["mean_bytes"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        MANIFESTS[texts] = found
    return MANIFESTS[texts]


@lru_cache(maxsize=None)
def measured() -> list[estimates.Measured]:
    """What finished scores told about speed when this was last looked at."""
    return estimates.read_measured(Path(RESULTS))


@lru_cache(maxsize=None)
def speeds() -> tuple[estimates.Speed, estimates.Speed]:
    """How fast demo models are scored, and all others."""
    return estimates.speeds(measured(), CONFIG.hardware)


def measure() -> None:
    """Look at finished scores again, so that what is submitted from now on asks for less."""
    estimates.measure(Path(RESULTS))
    for known in (measured, speeds):
        known.cache_clear()


def request_of(texts: str, model: str) -> allocation.Request:
    """What the first attempt at a score asks for."""
    entry = CONFIG.by_slug[model]
    recipe = CONFIG.texts[texts]
    manifest = known_manifest(texts)
    spec = json.loads(spec_of(texts, model))
    return allocation.request(
        known_card(entry.source),
        spec["dtype"],
        spec["quantization"] or "",
        estimates.tokens_of(recipe.n, recipe.max_bytes, manifest, measured()),
        CONFIG.hardware,
        speeds()[0 if entry.is_demo else 1],
        demo=entry.is_demo,
        skip=CONFIG.on_model_failure == "skip",
        shared=sharing() if SUBMITS and workflow.is_main_process else (),
    )


@lru_cache(maxsize=None)
def sharing() -> dict[str, int]:
    """How many jobs of a size class share an allocation, as `group-components` has it.

    All weights of an allocation are on the disk at one time. A class for which the disk budget is
    too small is left out: its models would wait for each other's room. Snakemake knows what was
    asked for when it has read the rules, not before.
    """
    asked = workflow.group_settings.group_components
    found = {}
    left = CONFIG.hardware.disk_budget_gb * 1e9 / 2
    for size, largest in {allocation.CPU: 0, **allocation.SIZES}.items():
        room = 4 * largest * asked.get(size, 1)
        if asked.get(size, 1) > 1 and room <= left:
            found[size] = asked[size]
            left -= room
    return found


def last_error(log: str) -> str:
    """The line with which a job failed; empty where it did not, or never began."""
    try:
        text = Path(log).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    last = text.rstrip().rpartition("\n")[2]
    return last if " ERROR " in last else ""


def was_refused(source: str) -> bool:
    """Whether the last attempt to fetch a model failed.

    It would keep those that share its allocation waiting, in every run.
    """
    arrived = os.path.exists(f"{RESULTS}/models/{source}/weights")
    return not arrived and bool(last_error(f"logs/fetch/{source}.log"))


@lru_cache(maxsize=None)
def blocks(texts: str) -> dict[str, str]:
    """The allocation of each model that shares one: neighbours in the configuration.

    So their weights are fetched one after the other, and none waits for long.
    """
    found: dict[str, str] = {}
    seen = Counter()
    for model, entry in CONFIG.by_slug.items():
        size = request_of(texts, model).size
        if size in sharing() and not was_refused(entry.source):
            found[model] = f"{size}_{texts}_{seen[size] // sharing()[size]}"
            workflow.parent_groupids[found[model]] = size
            seen[size] += 1
    return found


@lru_cache(maxsize=None)
def stay_together() -> None:
    """On a node: run what shares an allocation by one process, to the end whatever fails.

    Snakemake hands neither setting to nodes, and knows its own when it has read the rules. Without
    them each score starts two more of it, and the first one that fails keeps the rest from trying.
    """
    workflow.execution_settings.keep_going = True
    together = len(workflow.dag_settings.target_jobs)
    workflow.group_settings.group_components = {ALLOCATION: together}


def leave_updates_alone() -> None:
    """Keep Snakemake from taking an old file for a new one when the job that updates it fails.

    It copies a file flagged `update` before its job, copies it back when the job fails, which makes
    it newer than what it should have been made from, and notes the job as finished. Nothing that
    klmap writes is ever half done, so the file stays as it is, with its time, and no note is made:
    the next run sees what it would have seen without the failure.
    """
    failed = set()
    note = PersistenceBase.finished

    def keep(self: object, path: Path) -> None:
        """Make no copy."""

    def fail(self: object, path: Path) -> bool:
        """Remember that the job of this file has failed."""
        failed.add(str(path))
        return path.exists()

    async def finish(self: PersistenceBase, job: object) -> None:
        """Note a finished job, and forget a failed one."""
        if failed.isdisjoint(map(str, job.output)):
            await note(self, job)
        else:
            failed.difference_update(map(str, job.output))
            self.cleanup(job)

    FileBackupMixin.backup_output = keep
    FileBackupMixin.restore_output = fail
    PersistenceBase.finished = finish


def score_group(wildcards: object) -> str | None:
    """The allocation that a score shares with others of its size; none for most."""
    if workflow.is_main_process:
        return blocks(wildcards.texts).get(wildcards.model)
    return ALLOCATION if len(workflow.dag_settings.target_jobs) > 1 else None


def score_request(wildcards: object, attempt: int = 1) -> allocation.Request:
    """What a scoring job asks for at this attempt."""
    asked_for(wildcards)
    return request_of(wildcards.texts, wildcards.model).again(attempt)


def score_threads(wildcards: object) -> int:
    """CPUs of one scoring job."""
    return score_request(wildcards).cpus


def score_gpus(wildcards: object, attempt: int) -> int:
    """GPUs of one scoring job, more where those of the last attempt had too little memory."""
    gpus = score_request(wildcards).gpus
    if attempt == 1 or not gpus:
        return gpus
    log = "logs/score/{0.texts}/{0.model}.{0.fp}.log".format(wildcards)
    short = "GPU memory" in last_error(log)
    return min(gpus * attempt, CONFIG.hardware.max_gpus) if short else gpus


def score_memory(wildcards: object, attempt: int) -> int:
    """Host memory of one scoring job in MB, more with each attempt."""
    return score_request(wildcards, attempt).memory


def score_minutes(wildcards: object, attempt: int) -> int:
    """Time limit of one scoring job in minutes, more with each attempt."""
    return score_request(wildcards, attempt).minutes


def score_refusal(wildcards: object, output: list[str]) -> str:
    """Argument that ends a job whose model no configured machine holds; none for others.

    It takes the output for the reason for which `text_address` takes the threads. With those,
    Snakemake would work out all resources of each score before it knows which ones are missing.
    """
    refusal = score_request(wildcards).refusal
    return f"--refuse {shlex.quote(refusal)}" if refusal else ""


def text_recipe(wildcards: object) -> str:
    """What decides which texts come out, as JSON.

    Raises:
        WorkflowError: the configuration has no such text set.
    """
    if wildcards.texts not in CONFIG.texts:
        raise WorkflowError(
            f"{workflow.configfiles[-1]}: texts: no text set {wildcards.texts!r}; "
            f"configured: {', '.join(CONFIG.texts)}"
        )
    return json.dumps(CONFIG.texts[wildcards.texts].recipe(), sort_keys=True)


def text_address(wildcards: object, threads: int) -> str:
    """Argument that tells texts where a file of the web is; none for other sources.

    It takes the threads because Snakemake compares no param that is derived from them: another
    mirror of the same file must not score every model again.
    """
    url = getattr(CONFIG.texts[wildcards.texts], "url", None)
    return f"--url {shlex.quote(url)}" if url else ""


def zoo_recipe_of(wildcards: object) -> str:
    """The recipe of one training run, so that a changed recipe trains again."""
    return repr(zoo_runs.RUNS[wildcards.run])


def all_scores(wildcards: object) -> list[str]:
    """Scores of all models on all text sets."""
    return [
        wanted_score(texts, model)
        for texts in CONFIG.texts
        for model in sorted(CONFIG.by_slug)
    ]


def turn(source: str, stage: int) -> int:
    """Priority of a job: later stages first, and within one the order of the configuration.

    Scoring goes before fetching, because it makes room; looking up goes before both, because it
    is cheap and says early what cannot be scored.
    """
    return (stage + 1) * len(PLACES) - PLACES[source]


def resolve_turn(wildcards: object) -> int:
    """Priority of looking up a model."""
    return turn(wildcards.source, 2)


def score_turn(wildcards: object) -> int:
    """Priority of a score."""
    return turn(CONFIG.by_slug[wildcards.model].source, 1)


def fetch_turn(wildcards: object) -> int:
    """Priority of a download."""
    return turn(wildcards.source, 0)


def fetch_place(wildcards: object) -> int:
    """Rank of a model in the order in which scoring wants them."""
    return PLACES[entry_of(wildcards).source]


def fetch_threads(wildcards: object) -> int:
    """CPUs of one fetch: a download waits more than it computes, and must not keep a core."""
    entry = entry_of(wildcards)
    return 0 if ON_HEAD and not (entry.is_demo or entry.is_local) else 1


def fetch_options() -> str:
    """Arguments of every fetch that change nothing about what comes, and so are no params."""
    return (
        f"--budget-gb {CONFIG.hardware.disk_budget_gb:g} "
        f"--on-failure {CONFIG.on_model_failure}{mirrors_argument()}"
    )


def mirrors_argument() -> str:
    """Argument that names the mirrors of the Hub; nothing without any."""
    mirrors = [str(Path(path).expanduser()) for path in CONFIG.hardware.mirrors]
    return f" --mirrors {shlex.join(mirrors)}" if mirrors else ""


def score_options() -> str:
    """Arguments of every scoring job that change no number, and so are no params."""
    batch = CONFIG.hardware.batch_tokens
    return (
        f"--on-failure {CONFIG.on_model_failure} "
        f"--keep-tokens {str(CONFIG.scoring.keep_tokens).lower()} "
        f"--batch-tokens {'auto' if batch is None else batch}"
    )


KEPT = {True: "", False: " --fresh", "fixed": " --fixed"}


def layout_arguments() -> str:
    """Arguments of layout."""
    how = CONFIG.map
    return (
        f"--method {how.method} --metric {how.metric} --perplexity {how.perplexity:g} "
        f"--iterations {how.iterations} --seed {how.seed} --dense-limit {how.dense_limit}"
        f"{KEPT[how.stable]}"
    )


def map_memory(wildcards: object, attempt: int) -> int:
    """Megabytes of a job that works on all models of a map; docs/benchmarks.md has what they take."""
    return attempt * (4000 + 80 * MODELS // 1000)


def map_minutes(wildcards: object, attempt: int) -> int:
    """Minutes of a job that works on all models of a map."""
    return attempt * (20 + MODELS // 100)


def plan_rows(wildcards: object) -> list[str]:
    """One tab-separated line per wanted score: what pre-flight has to look for."""
    rows = []
    for texts in sorted(CONFIG.texts):
        for model, entry in sorted(CONFIG.by_slug.items()):
            spec = json.loads(spec_of(texts, model))
            path = score_path(texts, model)
            made_as = [spec["dtype"], spec["quantization"] or ""]
            rows.append("\t".join([model, entry.source, texts, path, *made_as]))
    return rows


def unlocked(wildcards: object) -> list[str]:
    """No input at all, and no lock where nothing is asked for but to look.

    A Snakemake that ends removes every lock of the folder, that of a run at work too.
    """
    if LOOKS.issuperset(workflow.dag_settings.targets):
        persistence = workflow.persistence
        persistence.lock = persistence.unlock = persistence.noop
    return []


def preflight_options() -> str:
    """Arguments of preflight: how large the texts are, and what the machines offer."""
    sizes = [
        f"{name}={'all' if texts.n is None else texts.n},{texts.max_bytes}"
        for name, texts in sorted(CONFIG.texts.items())
    ]
    offer = CONFIG.hardware
    return (
        f"--texts {' '.join(sizes)} --disk-budget-gb {offer.disk_budget_gb!r} "
        f"--gpu-memory-gb {offer.gpu_memory_gb!r} --max-gpus {offer.max_gpus}"
    )


leave_updates_alone()
SCORE_GROUP = score_group if SUBMITS else None
# The most models on one map. Those of a release are known only when its files have been read.
MODELS = len(CONFIG.models) + max(
    sum(CONFIG.published[name].count for name in releases_on(texts))
    for texts in CONFIG.texts
)
ALL_PAIRS = MODELS <= CONFIG.map.dense_limit
HAS_ELLIPSES = ALL_PAIRS and CONFIG.map.ellipses and CONFIG.map.bootstrap > 1
HAS_DOMAINS = ALL_PAIRS and CONFIG.map.domains
FIGURES = figure_names()
FIGURE_TITLES = {
    "map": "Map",
    "loglik": "Map by mean log-likelihood",
    "dendrogram": "Tree",
    "heatmap": "KL of all pairs",
    "checkpoints": "Checkpoints",
    "paper": "Map for a paper",
    "layout": "How faithful the map is",
    "ellipses": "Map with its uncertainty",
    "domains": "Maps by domain",
}
# Tables and figures of each analysis; those that need benchmark scores are left out without any.
ANALYSES = {
    "predict": (
        ["accuracy.tsv", "predictions.tsv", "curve.tsv"],
        {
            "scatter": "Benchmark scores, predicted",
            "accuracy": "How well scores are predicted",
            "curve": "By number of models",
        },
    ),
    "leakage": (
        ["leakage.tsv", "domains.tsv"],
        {"leakage": "Models that may have seen the texts"},
    ),
    "axes": (
        ["variance.tsv", "places.tsv", "texts.tsv", "domains.tsv", "correlations.tsv"],
        {
            "variance": "Variance of the axes",
            "axes": "Principal axes",
            "correlations": "Log-likelihood and benchmark scores",
        },
    ),
    "contrast": (
        ["comparisons.tsv", "domains.tsv", "texts.tsv"],
        {"contrast": "What carries the distance"},
    ),
    "robustness": (
        ["halves.tsv", "domains.tsv", "numbers.tsv", "sets.tsv"],
        {"robustness": "How far distances depend on the texts"},
    ),
}
NEED_BENCHMARKS = ("predict", "leakage")
FETCH_OPTIONS = fetch_options()
RESOLVE_OPTIONS = f"--on-failure {CONFIG.on_model_failure}{mirrors_argument()}"
PREFLIGHT_OPTIONS = preflight_options()
SCORE_OPTIONS = score_options()

# Snakemake looks up the parameters of a function each time before it calls it: several times for
# each job. Python takes them from here without looking.
for helper in [found for found in globals().values() if inspect.isfunction(found)]:
    if helper.__globals__ is globals():
        helper.__signature__ = inspect.signature(helper)

if DRY:
    from klmap import dry_run
    from snakemake.io import IOFile
    from snakemake.logging import logger
    from snakemake.settings.types import Quietness

    dry_run.announce(
        dry_run.Snakemake(workflow, logger, Quietness, IOFile),
        CONFIG,
        score_path,
        CODE,
    )

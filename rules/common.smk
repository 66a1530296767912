"""What the rules ask: their paths, inputs, params and resources. No other rule file defines any.

Read by every Snakemake process, on every node, so it reads the configuration and nothing else. What
needs no Snakemake is in the library: `plan` and `products` (what is wanted, and where), `arguments`
(command lines), `submission` (what jobs ask for).
"""

import gc
import hashlib
import inspect
import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache, wraps
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.persistence import FileBackupMixin, PersistenceBase

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

from klmap import arguments, configfile, plan_tables
from klmap import plan_prompts, products, references, turns, updates, zoo_runs
from klmap.allocation import Request
from klmap.config_models import (
    FINGERPRINT_PATTERN,
    MODEL_PATTERN,
    ModelEntry,
    NAME_PATTERN,
    SOURCE_PATTERN,
)
from klmap.errors import ConfigError, InputError
from klmap.files import write_text
from klmap.index import write_index
from klmap.pair_jobs import PairJobs
from klmap.plan import Plan
from klmap.products import ANALYSES, FIGURE_TITLES
from klmap.submission import Submission

try:
    CONFIG = configfile.check(config, [Path(path) for path in workflow.configfiles])
    PLAN = Plan(CONFIG, Path(workflow.configfiles[-1]))
except ConfigError as error:
    raise WorkflowError(str(error)) from None

RESULTS = PLAN.results
ZOO = PLAN.zoo
FIRST = turns.first(PLAN)
# Merges are made here; all other models are looked up and fetched.
MERGE_PATTERN = f"merge--{NAME_PATTERN}"
FETCHED_PATTERN = f"(?!merge--){SOURCE_PATTERN}"
ON_HEAD = CONFIG.hardware.download_on == "head"
RELEASES_FROM_AFAR = any(each.is_from_afar for each in CONFIG.published.values())
TEXTS_FROM_AFAR = any(texts.source in ("hub", "url") for texts in CONFIG.texts.values())
MODELS = products.most_scored(PLAN)
ALL_PAIRS = products.has_all_pairs(PLAN)
HAS_ELLIPSES = products.has_ellipses(PLAN)
HAS_DOMAINS = products.has_domains(PLAN)
FIGURES = products.figure_names(PLAN)
TEXTS_PATTERN = references.here_pattern(PLAN.references)
SELECTION_PATTERN = references.pattern_of(PLAN.references)
VARIANT_PATTERN = references.pattern_of(CONFIG.variants)
DRAWN_TEXTS_PATTERN = references.drawn_pattern(PLAN.references, CONFIG.variants)
FETCH_OPTIONS = arguments.fetch(CONFIG)
MERGE_OPTIONS = arguments.merge_options(CONFIG)
RESOLVE_OPTIONS = arguments.resolve(CONFIG)
PREFLIGHT_OPTIONS = arguments.preflight(PLAN)
SCORE_OPTIONS = arguments.score(CONFIG)
PAIR_OPTIONS = arguments.pair_options(CONFIG)
SCRIPTS = f"python {shlex.quote(str(Path(workflow.basedir, 'scripts')))}"
# Aggregation is cheap, so it follows the library's code; scores never do.
CODE = hashlib.sha256(
    b"".join(
        path.read_bytes()
        for path in sorted(Path(workflow.basedir, "scripts", "klmap").rglob("*.*"))
        if path.suffix != ".pyc" and path.is_file()
    )
).hexdigest()[:12]
# Rules that may be asked for while a run is at work.
LOOKS = {"status", "efficiency", "preflight", "refresh"}
# A fetch that waits for room holds no core, but one of Snakemake's workers, of which there are
# five more than cores. `--resources downloads=2` asks for fewer at a time.
if "downloads" not in workflow.global_resources:
    workflow.global_resources["downloads"] = 4
SUBMITS = workflow.global_resources["_nodes"].value is not None
if SUBMITS:
    # The cores of the machine that submits say nothing about those of a node.
    workflow.global_resources["_cores"] = None
    # Jobs that share an allocation take turns, so what they ask for does not add up.
    workflow.global_resources["gpu_turn"] = 1
ALLOCATION = "allocation"


def told(look_up: Callable) -> Callable:
    """A look-up in the configuration whose complaint Snakemake takes for one of its own."""

    @wraps(look_up)
    def asked(wildcards: object) -> object:
        try:
            return look_up(wildcards)
        except ConfigError as error:
            raise WorkflowError(str(error)) from None

    return asked


def on_texts(look_up: Callable) -> Callable:
    """A look-up in the plan by the name of a text set, for a rule to ask."""

    def asked(wildcards: object) -> object:
        """What is found for the text set of a job."""
        return look_up(PLAN, wildcards.texts)

    return asked


def on_source(look_up: Callable) -> Callable:
    """A look-up in the plan by the source of a model, for a rule to ask."""
    return told(lambda wildcards: look_up(PLAN, PLAN.source(wildcards.source).source))


def on_release(look_up: Callable) -> Callable:
    """A look-up in the plan by the name of a release, for a rule to ask."""
    return told(lambda wildcards: look_up(PLAN, wildcards.release))


def on_pair(jobs: PairJobs, look_up: Callable) -> Callable:
    """A look-up by text set and names of two models, which must be what their file's name says."""

    @told
    def asked(wildcards: object) -> object:
        """What is found for the pair of a job."""
        named = [wildcards[key] for key in ("texts", "first", "second", "fp")]
        return look_up(jobs, *jobs.asked(*named))

    return asked


def on_mixture(look_up: Callable) -> Callable:
    """A look-up by text set and name of a mixture, for a rule to ask."""
    return told(lambda wildcards: look_up(PLAN, wildcards.texts, wildcards.plan))


def group_components() -> Mapping[str, int]:
    """How many jobs of a size class are to share an allocation; none where nothing is submitted."""
    submits = SUBMITS and workflow.is_main_process
    return workflow.group_settings.group_components if submits else {}


SUBMISSION = Submission(PLAN, group_components)


# Texts and releases


@told
def text_recipe(wildcards: object) -> str:
    """What decides which texts come out, as JSON."""
    return PLAN.recipe(wildcards.texts)


def text_address(wildcards: object, threads: int) -> str:
    """Argument that tells texts where a file of the web is; none for other sources.

    It takes the threads because Snakemake compares no param that is derived from them: another
    mirror of the same file must not score every model again.
    """
    return arguments.address(CONFIG, wildcards.texts)


def drawn_before(wildcards: object) -> list[str]:
    """The selection file that a text set is made from; none where one is drawn."""
    path = CONFIG.selections[wildcards.texts].path
    return [] if path is None else [os.path.expanduser(path)]


def matrix_to_draw_from(wildcards: object) -> str:
    """The matrix of a reference, for a selection that is drawn from it once.

    A reference that grows must not draw other texts and score everybody again, so the matrix of one
    that was drawn from counts neither by its age nor by its job. `ancient` alone would hide all
    other reasons to draw again from Snakemake while that job has to run.
    """
    path = PLAN.references[wildcards.texts].file("matrix.h5")
    there = os.path.exists(path) and PLAN.is_drawn(wildcards.texts)
    return ancient(before_update(path)) if there else path


def of_reference(name: str) -> Callable:
    """Looks up a file of the text set that another one is a selection of; nothing for others."""
    return on_texts(lambda plan, texts: products.of_reference(plan, texts, name))


# Models


@told
def entry_of(wildcards: object) -> ModelEntry:
    """The configured model that a source folder belongs to."""
    return PLAN.source(wildcards.source)


def fetch_place(wildcards: object) -> int:
    """Rank of a model in the order in which scoring wants them."""
    return PLAN.places[entry_of(wildcards).source]


def fetch_threads(wildcards: object) -> int:
    """CPUs of one fetch: a download waits more than it computes, and must not keep a core."""
    entry = entry_of(wildcards)
    return 0 if ON_HEAD and not (entry.is_demo or entry.is_local) else 1


def unlocked(wildcards: object) -> list[str]:
    """No input at all, and no lock where nothing is asked for but to look.

    A Snakemake that ends removes every lock of the folder, that of a run at work too.
    """
    if LOOKS.issuperset(workflow.dag_settings.targets):
        persistence = workflow.persistence
        persistence.lock = persistence.unlock = persistence.noop
    return []


# Scores


@told
def asked_for(wildcards: object) -> ModelEntry:
    """The configured model behind a score, which must be what its file name says."""
    if not workflow.is_main_process:
        stay_together()
    return PLAN.entry(wildcards.texts, wildcards.model, wildcards.fp)


@lru_cache(maxsize=None)
def stay_together() -> None:
    """On a node: run what shares an allocation by one process, to the end whatever fails.

    Snakemake hands neither setting to nodes, and knows its own when it has read the rules. Without
    them each score starts two more of it, and the first one that fails keeps the rest from trying.
    """
    workflow.execution_settings.keep_going = True
    together = len(workflow.dag_settings.target_jobs)
    workflow.group_settings.group_components = {ALLOCATION: together}


def card_of(wildcards: object) -> str:
    """Card of the model behind a score."""
    return PLAN.card(asked_for(wildcards).source)


def weights_of(wildcards: object) -> str:
    """Weights of the model behind a score.

    Weights that are fetched again for another score must not repeat a score that is there, so for
    that one their age does not count. For a score that is missing it has to: where a fetch was
    killed at its very end, Snakemake would else forget all that comes after it.
    """
    path = PLAN.weights(asked_for(wildcards).source)
    made = os.path.exists(PLAN.score(wildcards.texts, wildcards.model))
    return ancient(path) if made else path


@lru_cache(maxsize=None)
def blocks(texts: str) -> dict[str, str]:
    """Name of the allocation of each model that shares one, which Snakemake is told the size of."""
    found = SUBMISSION.blocks(texts)
    workflow.parent_groupids.update(found.values())
    return {model: name for model, (name, _) in found.items()}


def score_group(wildcards: object) -> str | None:
    """The allocation that a score shares with others of its size; none for most."""
    if workflow.is_main_process:
        return blocks(wildcards.texts).get(wildcards.model)
    return ALLOCATION if len(workflow.dag_settings.target_jobs) > 1 else None


SCORE_GROUP = score_group if SUBMITS else None


def score_request(wildcards: object, attempt: int = 1) -> Request:
    """What a scoring job asks for at this attempt."""
    asked_for(wildcards)
    return SUBMISSION.request(wildcards.texts, wildcards.model).again(attempt)


def score_threads(wildcards: object) -> int:
    """CPUs of one scoring job."""
    return score_request(wildcards).cpus


def score_gpus(wildcards: object, attempt: int) -> int:
    """GPUs of one scoring job, more where those of the last attempt had too little memory."""
    asked_for(wildcards)
    log = "logs/score/{0.texts}/{0.model}.{0.fp}.log".format(wildcards)
    return SUBMISSION.gpus(wildcards.texts, wildcards.model, attempt, log)


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
    return arguments.refusal(score_request(wildcards).refusal)


def is_forced() -> bool:
    """Whether files are to be made again although they are there."""
    return bool(workflow.dag_settings.forceall or workflow.dag_settings.forcerun)


def wanted_score(texts: str, model: str) -> str:
    """File of one score, for a rule that needs it.

    Variants of a source and text sets share one temporary folder of weights. Fetching it for a
    new score would make Snakemake repeat the finished ones too (`ancient` does not help while the
    folder is missing), so those are handed over as files that need no job.
    """
    path = PLAN.score(texts, model)
    if not is_forced() and PLAN.is_partly_finished(CONFIG.by_slug[model].source):
        return before_update(path) if PLAN.is_finished(texts, model) else path
    return path


def all_scores(wildcards: object) -> list[str]:
    """Scores of all models on all text sets."""
    return [
        wanted_score(texts, model)
        for texts, scored in CONFIG.scored_on.items()
        for model in sorted(scored)
    ]


def score_extras(wildcards: object, output: list[str]) -> str:
    """Arguments of one score that change no number of it; for its output see `score_refusal`."""
    return arguments.extras(PLAN, asked_for(wildcards).source)


# Pairs of models


def pair_weights(jobs: PairJobs) -> Callable:
    """Weights of both models; for those of a pair that was compared see `weights_of`."""

    def found(jobs: PairJobs, *pair: str) -> list[str]:
        paths, made = jobs.weights(*pair), os.path.exists(jobs.file(*pair))
        return [ancient(path) for path in paths] if made else paths

    return on_pair(jobs, found)


def pair_asks(jobs: PairJobs, key: str) -> Callable:
    """What the job of a pair asks for at an attempt, such as its `memory`."""
    request = on_pair(jobs, SUBMISSION.pair)
    return lambda wildcards, attempt=1: getattr(request(wildcards).again(attempt), key)


def files_of(jobs: PairJobs) -> Callable:
    """What was made of the pairs of one text set; for finished ones see `wanted_score`."""

    def asked(wildcards: object) -> list[str]:
        """Their files."""
        finished = set() if is_forced() else jobs.handed_over(wildcards.texts)
        paths = [jobs.file(wildcards.texts, *pair) for pair in jobs.of(wildcards.texts)]
        return [before_update(path) if path in finished else path for path in paths]

    return asked


# Maps and analyses


def scores_of(look_up: Callable) -> Callable:
    """Scores of some of the models of a text set: those on its map, or those off it."""

    def asked(wildcards: object) -> list[str]:
        """Their files."""
        return [
            wanted_score(wildcards.texts, model)
            for model in sorted(look_up(wildcards.texts))
        ]

    return asked


def cards_of(look_up: Callable) -> Callable:
    """Cards of some of the models of a text set."""

    def asked(wildcards: object) -> list[str]:
        """Their files."""
        sources = {entry.source for entry in look_up(wildcards.texts).values()}
        return [PLAN.card(source) for source in sorted(sources)]

    return asked


def map_group(wildcards: object) -> str:
    """The allocation of all that follows the last score.

    The map of a selection needs that of its reference, and scores that wait for it: in one
    allocation they would wait for each other.
    """
    return "selected" if wildcards.texts in PLAN.references else "map"


MAP_GROUP = map_group if SUBMITS else None


def map_memory(wildcards: object, attempt: int) -> int:
    """Megabytes of a job that works on all models of a map; docs/benchmarks.md has what they take."""
    return attempt * (4000 + 80 * MODELS // 1000)


def map_minutes(wildcards: object, attempt: int) -> int:
    """Minutes of a job that works on all models of a map."""
    return attempt * (20 + MODELS // 100)


def predict_minutes(wildcards: object, attempt: int) -> int:
    """Minutes of the predictions, which decompose a matrix of all scored models many times."""
    return attempt * (20 + MODELS // 25)


updates.leave_alone(FileBackupMixin, PersistenceBase)

# Snakemake looks up the parameters of a function each time before it calls it: several times for
# each job. Python takes them from here without looking.
for helper in [found for found in globals().values() if inspect.isfunction(found)]:
    if helper.__globals__ is globals():
        helper.__signature__ = inspect.signature(helper)

if DRY:
    from klmap.dry_run import Snakemake, announce
    from snakemake.io import IOFile
    from snakemake.logging import logger
    from snakemake.settings.types import Quietness

    announce(Snakemake(workflow, logger, Quietness, IOFile), PLAN, CODE)

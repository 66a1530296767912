"""A model of the demo zoo, trained on under a mixture, and scored as its base is.

It is on no map. All that is asked of it is how far it is from the target, so its score lies beside
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from klmap import mixture_weights, resolve, scorer, scorer_job, zoo, zoo_runs
from klmap.cards import write_card
from klmap.config import fingerprint
from klmap.errors import InputError
from klmap.files import atomic
from klmap.log import logger
from klmap.mixture_weights import Kind


def train(
    weights: Path, plan: str, kind: Kind, base: Path, corpus: Path, output: Path
) -> zoo_runs.MixedRun:
    """Train a base on for as many steps as a probe, and write it as a Hugging Face folder.

    Whatever is read stands in the order in which fine-tunes read it, so that two mixtures differ
    in their shares and not in the luck of the draw.

    Args:
        weights: weights.tsv.
        plan: name of the plan.
        kind: under the weights of the plan, or under equal ones.
        base: ``runs/<run>/<revision>`` of the zoo.
        corpus: the folder of the training texts.
        output: the folder to write.

    Returns:
        How it was trained.

    Raises:
        InputError: the base is no model of the zoo, or the corpus lacks a domain of the plan.
    """
    run = zoo_runs.RUNS.get(base.parent.name)
    if run is None or base.name not in run.revisions:
        raise InputError(
            f"{base}: no model of the demo zoo (runs/<run>/<revision>); train other bases "
            "yourself, under the weights in the table"
        )
    shares = mixture_weights.read_weights(weights, plan, kind)
    made = zoo_runs.mixed(run, f"{plan}-{kind}", shares, base.name)
    logger.info(
        "%s from %s: %s",
        made.name,
        made.parents[0],
        ", ".join(f"{domain} {100 * share:.1f} %" for domain, share in shares.items() if share),
    )
    zoo.train_on(made, base, corpus, output)
    return made


def score(
    name: str,
    model: Path,
    texts: Path,
    manifest: Path,
    spec: Mapping[str, Any],
    folder: Path,
    threads: int = 1,
) -> Path:
    """Score a trained model with the settings of its base.

    Args:
        name: what it is called.
        model: its Hugging Face folder.
        texts: texts.jsonl.
        manifest: texts.json.
        spec: settings of the base's score.
        folder: where its card and score are put.
        threads: CPU threads.

    Returns:
        The score file.

    Raises:
        InputError: the texts are broken.
        PermanentFailure: it cannot be scored.
    """
    card = folder / "card.json"
    write_card(card, resolve.resolve(name, folder=model))
    asked = {**spec, "id": name, "revision": None, "layers": None}
    output = folder / f"{name}.{fingerprint(asked)}.h5"
    scorer.score(scorer_job.Job(card, model, texts, manifest, name, asked, output, threads=threads))
    return output


def train_and_score(
    weights: Path,
    plan: str,
    kind: Kind,
    base: Path,
    corpus: Path,
    texts: Path,
    manifest: Path,
    spec: Mapping[str, Any],
    output: Path,
    threads: int = 1,
) -> None:
    """Both; the folder appears when it is complete.

    Args:
        weights: as for :func:`train`, and so are ``plan``, ``kind``, ``base`` and ``corpus``.
        plan: its name.
        kind: which weights.
        base: the model that is trained on.
        corpus: the training texts.
        texts: as for :func:`score`, and so are ``manifest``, ``spec`` and ``threads``.
        manifest: of the texts.
        spec: settings.
        output: the folder to write: the model in ``model``, its card, and its score.
        threads: CPU threads.

    Raises:
        InputError: something is not what it should be.
        PermanentFailure: the model cannot be scored.
    """
    with atomic(output) as folder:
        made = train(weights, plan, kind, base, corpus, folder / "model")
        score(made.name, folder / "model", texts, manifest, spec, folder, threads)

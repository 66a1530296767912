"""A model of the demo zoo, trained on under the mixture that was found, or under a uniform one."""

from __future__ import annotations

from pathlib import Path

from klmap import mixture_tables, zoo, zoo_runs
from klmap.errors import InputError
from klmap.log import logger
from klmap.mixture_tables import Kind


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
    shares = mixture_tables.read_weights(weights, plan, kind)
    made = zoo_runs.mixed(run, f"{plan}-{kind}", shares, base.name)
    logger.info(
        "%s on from %s: %s",
        made.name,
        made.parents[0],
        ", ".join(f"{domain} {100 * share:.1f} %" for domain, share in shares.items() if share),
    )
    zoo.train_on(made, base, corpus, output)
    return made

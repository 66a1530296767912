"""Find out what a model is, from its configuration and file list alone, and write its card."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import cards, likelihoods, log, resolve


def main() -> None:
    """Resolve one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--id", required=True, help="id of config.yaml: org/name, or any label")
    parser.add_argument("--revision", help="commit, tag or branch; the default branch without it")
    parser.add_argument("--folder", type=Path, help="local folder that is this model")
    parser.add_argument(
        "--remote-code",
        action="store_true",
        help="the scorer may run the code of the repository: it is needed too",
    )
    parser.add_argument(
        "--mirrors",
        type=Path,
        nargs="*",
        default=[],
        help="caches of the Hub to look into besides one's own where HF_HUB_OFFLINE is set",
    )
    parser.add_argument(
        "--likelihood",
        choices=likelihoods.NAMES,
        default=likelihoods.CAUSAL,
        help="what is to stand for its log-likelihoods: decides what it has to be",
    )
    parser.add_argument(
        "--on-failure",
        choices=("stop", "skip"),
        default="stop",
        help="an unusable model ends with exit status 3, or gets a card that says why",
    )
    parser.add_argument("--card", type=Path, required=True, help="card.json to write")
    arguments = parser.parse_args()
    stop = arguments.on_failure == "stop"
    card = (resolve.resolve if stop else resolve.resolve_or_explain)(
        arguments.id,
        arguments.revision,
        arguments.folder,
        remote_code=arguments.remote_code,
        mirrors=arguments.mirrors,
        likelihood=arguments.likelihood,
    )
    cards.write_card(arguments.card, card)
    if card.error:
        log.logger.warning("%s", card.error)
    else:
        log.logger.info(
            "%s: %s, %s parameters, commit %s",
            card.id,
            card.architecture or card.model_type,
            f"{card.parameters:,}",
            card.commit[:12],
        )


if __name__ == "__main__":
    log.run(main)

"""List scores and weights that no configuration asks for; called again, remove exactly those."""

import argparse
from pathlib import Path

from klmap import log
from klmap.prune import prune


def main() -> None:
    """Parse the arguments and prune."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", type=Path, nargs="+", required=True, help="index.tsv files")
    parser.add_argument("--models", type=Path, required=True, help="folder of <source>/weights")
    parser.add_argument("--list", type=Path, required=True, help="list kept between the two calls")
    arguments = parser.parse_args()
    prune(arguments.index, arguments.models, arguments.list)


if __name__ == "__main__":
    log.run(main)

"""Which mixture of domains moves one model towards another, and how near it would come."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import figure_mixture, layout, log, mixture, mixture_tables, mixture_ways
from klmap.errors import InputError
from klmap.gathered import gathered


def main() -> None:
    """Read the arguments, find the mixtures, write the tables and the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", type=Path, required=True, help="matrix.h5")
    parser.add_argument("--models", type=Path, required=True, help="models.tsv of the matrix")
    parser.add_argument("--offmap", type=Path, nargs="*", default=[], help="offmap.h5, if any")
    parser.add_argument("--offmap-models", type=Path, nargs="*", default=[], help="offmap.tsv")
    parser.add_argument(
        "--layout", type=Path, required=True, help="layout.tsv, with layout.json beside it"
    )
    parser.add_argument(
        "--plans", required=True,
        help="JSON: a name, and under it base, target, and perhaps probes (a model for each "
        "domain) and known (a share for each domain)",
    )  # fmt: skip
    parser.add_argument("--bootstrap", type=int, default=200, help="samples of the texts")
    parser.add_argument("--seed", type=int, default=42, help="of these")
    parser.add_argument("--folder", type=Path, required=True, help="folder to write to")
    args = parser.parse_args()
    if args.bootstrap < 2:
        raise InputError("--bootstrap: intervals need at least 2 samples")
    off = next(iter(args.offmap), None), next(iter(args.offmap_models), None)
    with gathered(args.matrix, args.models, *off) as scored:
        plans = mixture.read_plans(args.plans, scored)
        found = mixture.measure(scored, plans, args.bootstrap, args.seed)
        on_map = [model for model, on in zip(scored.models, scored.on_map, strict=True) if on]
        places = layout.plane_of(layout.read_layout(args.layout, on_map))
        report = layout.read_report(args.layout.with_suffix(".json"))
        ways = mixture_ways.find(scored, found, places, report)
    mixture_tables.write(args.folder, found)
    mixture_ways.write(args.folder / "ways.tsv", found, ways)
    figure_mixture.write(args.folder, found, args.matrix.resolve().parent.name)


if __name__ == "__main__":
    log.run(main)

"""What edits of the prompt do to models: how far they shift, where to, and whether they add up."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from klmap import (
    figure_additivity,
    figure_prompt_arrows,
    figure_prompts,
    layout,
    log,
    prompt_edits,
    prompt_plane,
    prompt_tables,
    prompt_ways,
    prompts,
)
from klmap import prompt_additivity as additivity
from klmap import prompt_directions as directions
from klmap.gathered import gathered
from klmap.store import open_matrix


def main() -> None:
    """Read the arguments, compare every model with itself, write the tables and the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", type=Path, required=True, help="matrix.h5")
    parser.add_argument("--models", type=Path, required=True, help="models.tsv")
    parser.add_argument("--offmap", type=Path, nargs="*", default=[], help="offmap.h5, if any")
    parser.add_argument("--offmap-models", type=Path, nargs="*", default=[], help="offmap.tsv")
    parser.add_argument("--edits", nargs="+", required=True, help="NAME=matrix.h5 of each edit")
    parser.add_argument("--composed", nargs="*", default=[], help="NAME=A,B where edits add up")
    parser.add_argument(
        "--layout", type=Path, required=True, help="layout.tsv, with layout.json beside it"
    )
    parser.add_argument("--bootstrap", type=int, default=1000, help="bootstrap samples")
    parser.add_argument("--seed", type=int, default=42, help="of these")
    parser.add_argument("--folder", type=Path, required=True, help="folder to write to")
    args = parser.parse_args()
    off = next(iter(args.offmap), None), next(iter(args.offmap_models), None)
    edits = prompt_edits.named(args.edits, "--edits")
    sums = prompt_edits.named(args.composed, "--composed")
    with ExitStack() as stack:
        found = stack.enter_context(gathered(args.matrix, args.models, *off))
        files = {name: stack.enter_context(open_matrix(Path(path))) for name, path in edits}
        some = prompt_edits.edited(found, files, {name: parts.split(",") for name, parts in sums})
        on_map = [model for model, on in zip(found.models, found.on_map, strict=True) if on]
        places = layout.plane_of(layout.read_layout(args.layout, on_map))
        shifts, added = prompts.measure(some), additivity.measure(some)
        cosines = directions.measure(some, shifts, args.bootstrap, args.seed)
        planes = prompt_plane.find(some, shifts)
        ways = prompt_ways.find(some, places, layout.read_report(args.layout.with_suffix(".json")))
    prompt_tables.write(args.folder, some, shifts, cosines, added)
    prompt_ways.write(args.folder / "ways.tsv", some, shifts, ways)
    name = args.matrix.resolve().parent.name
    figure_prompts.write(args.folder, some, shifts, cosines, name)
    figure_prompt_arrows.write(args.folder, some, planes, name)
    figure_additivity.write(args.folder, some, added, name)


if __name__ == "__main__":
    log.run(main)

"""How training runs move: step by step, how fast, and in which way."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import (
    figure_diffusion,
    figure_trajectories,
    figure_trajectory_paths,
    log,
    texts,
    trajectories,
)
from klmap import trajectory_tables as tables
from klmap.errors import InputError
from klmap.files import sha256_of
from klmap.gathered import gathered


def main() -> None:
    """Read the arguments, follow the runs, write the tables and the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", type=Path, required=True, help="matrix.h5")
    parser.add_argument("--models", type=Path, required=True, help="models.tsv")
    parser.add_argument("--offmap", type=Path, nargs="*", default=[], help="offmap.h5, if any")
    parser.add_argument("--offmap-models", type=Path, nargs="*", default=[], help="offmap.tsv")
    parser.add_argument("--index", type=Path, nargs="+", required=True, help="index.tsv")
    parser.add_argument("--scores", type=Path, required=True, help="folder of the score files")
    parser.add_argument("--layout", type=Path, required=True, help="layout.tsv")
    parser.add_argument("--texts", type=Path, required=True, help="texts.jsonl of the matrix")
    parser.add_argument(
        "--from-step", type=float, default=2000, help="checkpoints from this step on count"
    )
    parser.add_argument("--drop", type=float, default=0.03, help="share of texts to leave out")
    parser.add_argument("--ahead", type=int, default=10, help="later checkpoints of an exponent")
    parser.add_argument("--bootstrap", type=int, default=1000, help="bootstrap samples")
    parser.add_argument("--seed", type=int, default=42, help="of these")
    parser.add_argument("--folder", type=Path, required=True, help="folder to write to")
    args = parser.parse_args()
    settings = trajectories.Settings(
        args.from_step, args.drop, args.ahead, args.bootstrap, args.seed
    )
    off = (next(iter(args.offmap), None), next(iter(args.offmap_models), None))
    with gathered(args.matrix, args.models, *off) as found:
        if sha256_of(args.texts) != found.parts[0].texts_sha256:
            raise InputError(f"{args.texts}: not the texts of {args.matrix}; run again")
        models, on_map = found.models, int(found.on_map.sum())
        wanted = [models[row] for run in trajectories.find(models) for row in run.rows]
        weights = trajectories.read_weights(args.index, args.scores, wanted)
        runs = trajectories.measure(found, weights, settings)
    tables.write_runs(args.folder / "runs.tsv", runs)
    tables.write_steps(args.folder / "steps.tsv", runs, models)
    tables.write_exponents(args.folder / "exponents.tsv", runs)
    tables.write_texts(args.folder / "texts.tsv", runs, models, texts.read_texts(args.texts))
    name = args.matrix.resolve().parent.name
    figure_trajectories.write(args.folder, runs, name)
    figure_diffusion.write(args.folder, runs, settings, name)
    figure_trajectory_paths.write(args.folder, runs, models[:on_map], args.layout, name)


if __name__ == "__main__":
    log.run(main)

"""Place every model once for each domain of the texts, beside the overall map."""

from __future__ import annotations

import argparse
from pathlib import Path

from klmap import domain_maps, layout, log, models_table, store


def main() -> None:
    """Read the arguments, place the models, write the maps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", type=Path, required=True, help="matrix.h5")
    parser.add_argument("--models", type=Path, required=True, help="models.tsv")
    parser.add_argument("--layout", type=Path, required=True, help="layout.tsv, of all texts")
    parser.add_argument("--layout-report", type=Path, required=True, help="layout.json")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--domains", type=Path, required=True, help="domains.tsv to write")
    args = parser.parse_args()
    report = layout.read_report(args.layout_report)
    with store.open_matrix(args.matrix) as matrix:
        models = models_table.read_models(args.models, matrix.model)
        places = layout.read_layout(args.layout, models)
        maps = domain_maps.make(matrix, places, report, args.seed)
    domain_maps.write_domains(args.domains, models, maps)


if __name__ == "__main__":
    log.run(main)

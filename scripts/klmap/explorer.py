"""The map as one page for a browser: the figure, and a table of models to sort and search.

The page needs no network and runs no script but its own: its security policy names that script
by hash, and everything that comes from models is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from klmap import style
from klmap.collect import Model
from klmap.errors import InputError
from klmap.files import write_text
from klmap.layout import Place
from klmap.neighbors import BELOW_NOISE, BEYOND, Neighbor

_SVG = re.compile(r"<svg\b.*</svg>", re.DOTALL)
_SHOWN_NEIGHBORS = 3


def page(
    models: Sequence[Model],
    places: Sequence[Place],
    neighbors: Sequence[Neighbor],
    svg: str,
    manifest: Mapping[str, Any],
    texts: str,
) -> str:
    """The whole page as HTML.

    Args:
        models: rows of models.tsv.
        places: in the order of ``models``.
        neighbors: rows of neighbors.tsv.
        svg: the map, as klmap's figures write it.
        manifest: texts.json.
        texts: the text set's name.

    Raises:
        InputError: ``svg`` holds no figure.
    """
    figure = _SVG.search(svg)
    if figure is None:
        raise InputError("map.svg: holds no <svg> figure; remove it and run again")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (Path(__file__).parent / "explorer.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    each, _ = style.categories([model.family for model in models])
    near: dict[str, list[Neighbor]] = defaultdict(list)
    for row in sorted(neighbors, key=lambda row: row.rank):
        near[row.model].append(row)
    domains = manifest.get("domains") or {}
    return environment.get_template("explorer.html.j2").render(
        rows=[
            {
                "model": model,
                "color": category.color,
                "size": "" if model.parameters is None else style.short_number(model.parameters),
                "near": near[model.model][:_SHOWN_NEIGHBORS],
            }
            for model, category in zip(models, each, strict=True)
        ],
        texts=texts,
        n_texts=int(manifest.get("n", 0)),
        mean_bytes=float(manifest.get("mean_bytes", 0)),
        domains=list(domains),
        method=places[0].method,
        figure=Markup(figure[0]),
        script=Markup(script),
        digest=digest,
        beyond=BEYOND,
        below_noise=BELOW_NOISE,
    )


def write_page(path: Path, html: str) -> None:
    """Write map.html."""
    write_text(path, html)

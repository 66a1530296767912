"""The map as one page for a browser: assembled from the payload, the figure and the page's files.

The page needs no network. Its policy lets two scripts run, BokehJS and the page's own, named by
their hashes; everything that comes from models stands in a data block that no browser executes,
and reaches the document as text alone.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import bokeh
import jinja2
from markupsafe import Markup
from matplotlib import colormaps
from matplotlib.colors import to_hex

from klmap import explorer_data, explorer_plot, likelihoods, style
from klmap.errors import InputError
from klmap.files import write_text

SCRIPTS = (
    "core", "models", "distances", "state", "colors", "plot", "layers", "ways", "names", "details",
    "panel", "legend", "export", "search", "table", "address", "controls", "main",
)  # fmt: skip
"""The page's own files in the order in which they are joined to one script."""

_FOLDER = Path(__file__).parent / "page"
_BOKEH = Path(bokeh.__file__).parent / "server" / "static" / "js" / "bokeh.min.js"
_RAMP_COLORS = 128


def page(payload: Mapping[str, Any]) -> str:
    """The whole page as HTML; the same payload gives the same bytes.

    Args:
        payload: what :func:`klmap.explorer_data.payload` returns.

    Raises:
        InputError: a script would end its own element, so that no page can hold it.
    """
    scripts = [_BOKEH.read_text(encoding="utf-8"), own_script()]
    for script in scripts:
        if "</script" in script.lower() or "<!--" in script or "\r" in script:
            raise InputError(
                f"bokeh {bokeh.__version__}: its script cannot stand in a page; install the "
                "pinned version of envs/requirements.txt"
            )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    texts, layout, selection = payload["texts"], payload["layout"], payload["selection"]
    added = selection["added"] if selection else []
    return environment.get_template("template.html.j2").render(
        models=len(payload["models"]),
        count=f"{len(payload['models']):,}",
        texts=texts["name"],
        selection=selection,
        n_texts=f"{texts['n']:,}",
        domains=len(texts["domains"]),
        method=layout["label"],
        projected=layout.get("method") == "pca",
        tiles=tiles(layout),
        sentences=[
            *sentences(layout),
            *of_selection(payload),
            *of_likelihoods(payload),
            *of_pmi(payload),
            *payload["notes"],
        ],
        responses="responses" in texts,
        pmi="pmi" in texts,
        pseudo=is_pseudo(kinds_of(payload)),
        ways="ways" in payload,
        beyond=f"{payload['beyond']:g}",
        style=Markup((_FOLDER / "style.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        digests=[_digest(script) for script in scripts],
        data=Markup(explorer_data.to_json(payload)),
        look=Markup(
            explorer_data.to_json(look(len(payload["models"]), bool(added), "ways" in payload))
        ),
    )


def own_script() -> str:
    """The page's own files as one script, in a scope of its own."""
    parts = [(_FOLDER / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    return '(() => {\n"use strict";\n' + "\n".join(parts) + "})();"


def look(models: int, added: bool = False, ways: bool = False) -> dict[str, Any]:
    """Colours, markers and the empty figure: what the page's script needs beside the payload.

    Args:
        models: how many models the map shows.
        added: whether some of them were added through a text selection.
        ways: whether there are ways to draw.
    """
    viridis = colormaps["viridis"]
    return {
        "published": style.PUBLISHED,
        "extended": style.EXTENDED,
        "most": style.MOST_COLORS,
        "markers": explorer_plot.MARKERS,
        "ramp": [to_hex(viridis(at / (_RAMP_COLORS - 1))) for at in range(_RAMP_COLORS)],
        "document": explorer_plot.document(models, added, ways),
    }


def tiles(layout: Mapping[str, Any]) -> list[dict[str, str]]:
    """The numbers that say how far the picture can be trusted, each with its explanation.

    Args:
        layout: what layout.json holds.
    """
    found = []
    quality, stable = layout.get("quality"), layout.get("stable")
    if layout.get("reference"):
        before, shown = "that the map of all texts has", "the map of all texts does not have"
    else:
        before, shown = "that the map showed before", "the map did not show before"
    if quality and quality["neighbors"] > 0:
        k = quality["neighbors"]
        found += [
            _tile(
                f"of the {k} nearest kept" if k != 1 else "nearest kept",
                f"{100 * quality['preserved']:.0f} %",
                f"Share of each model's {k} nearest models by KL that are among its {k} nearest "
                f"on the map, of {quality['sampled']:,} models. 100 % were a map without loss.",
            ),
            _tile(
                "trustworthiness",
                f"{quality['trustworthiness']:.3f}",
                "1 where no model that is far by KL was put among the nearest on the map; each "
                "that was counts by how far it is (Venna and Kaski 2001).",
            ),
        ]
    if stable:
        found.append(
            _tile(
                "old models moved by",
                f"{100 * stable['median']:.1f} %",
                f"Median way of the {stable['kept']:,} models {before}, in shares of its width; "
                f"95 of 100 moved by less than {100 * stable['p95']:.1f} %.",
            )
        )
    if stable and (stable["new"] or stable["gone"]):
        found.append(
            _tile(
                "new on this map",
                f"{stable['new']:,}",
                f"Models that {shown}; {stable['gone']:,} that it showed are not here any more.",
            )
        )
    return found


def _tile(name: str, value: str, help_text: str) -> dict[str, str]:
    return {"name": name, "value": value, "help": help_text}


def sentences(layout: Mapping[str, Any]) -> list[str]:
    """How the models were placed, in words."""
    quality, reason = layout.get("quality"), str(layout.get("reason") or "")
    words = [f"Placed by {layout['label']}."]
    if quality and quality["neighbors"] < 1:
        words.append("There are too few models to say how faithful the map is.")
    if reason:
        words.append(f"A fresh layout: {reason}.")
    return words


def of_selection(payload: Mapping[str, Any]) -> list[str]:
    """What a text selection does to the map, in words; nothing where there is none.

    Args:
        payload: what :func:`klmap.explorer_data.payload` returns.
    """
    found = payload["selection"]
    if not found:
        return []
    known, of = len(payload["models"]) - len(found["added"]), f"{found['of']:,} texts"
    whose = f" of “{found['reference']}”" if found["reference"] else ""
    words = [
        f"These texts are {found['texts']:,} of the {of}{whose} ({found['words']}), each with a "
        "weight, so that distances estimate those on all."
    ]
    if found["added"]:
        many = f"{len(found['added']):,} models" if len(found["added"]) > 1 else "1 model"
        words.append(
            f"{many}, with a ring, {'were' if len(found['added']) > 1 else 'was'} scored on these "
            f"alone. The other {known:,} were scored on all {of}, and distances among them are "
            "those on all. Distances to the ringed have wider errors."
        )
    return words


def of_likelihoods(payload: Mapping[str, Any]) -> list[str]:
    """What a map of models with likelihoods of different kinds, or of pseudo-likelihoods, must say.

    Args:
        payload: what :func:`klmap.explorer_data.payload` returns.
    """
    kinds = kinds_of(payload)
    if is_pseudo(kinds):
        return [
            f"These are pseudo-likelihoods ({', '.join(kinds)}), no probabilities of texts. "
            "What is called KL here has the unit of a KL divergence, and is none."
        ]
    if len(kinds) < 2:
        return []
    words = f"{', '.join(kinds[:-1])} and {kinds[-1]}"
    return [
        f"Likelihoods of {len(kinds)} kinds are on this map ({words}): distances between models "
        "of different kinds are no KL divergences."
    ]


def kinds_of(payload: Mapping[str, Any]) -> list[str]:
    """The kinds of likelihood on a map, the most frequent first; none where all are causal."""
    columns = (one for one in payload["columns"] if one["name"] == "likelihood")
    return next((list(column["levels"]) for column in columns), [])


def is_pseudo(kinds: Sequence[str]) -> bool:
    """Whether no likelihood on a map is the probability of a text."""
    return bool(kinds) and not set(kinds) & set(likelihoods.OF_TEXTS)


def of_pmi(payload: Mapping[str, Any]) -> list[str]:
    """What a map of what prompts add must say; else nothing.

    Args:
        payload: what :func:`klmap.explorer_data.payload` returns.
    """
    if not payload["texts"].get("pmi"):
        return []
    return [
        "This map is of what prompts add: of each response its log-likelihood behind its prompt, "
        "less that without it (PMI). What is called KL here is the same formula of these numbers. "
        "It has the unit of a KL divergence, and is none."
    ]


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def write_page(path: Path, html: str) -> None:
    """Write map.html."""
    write_text(path, html)

"""The empty map as a Bokeh document: a figure, its tools, and one layer for each kind of mark.

The document carries no data. The page's own script fills the layers from the payload, so that
every number is in the page once and what comes from models never passes through Bokeh's JSON.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from bokeh.core.properties import value
from bokeh.embed import json_item
from bokeh.models import (
    Bezier,
    BoxSelectTool,
    ColumnDataSource,
    Ellipse,
    LassoSelectTool,
    MultiLine,
    PanTool,
    Range1d,
    Scatter,
    Segment,
    Text,
    WheelZoomTool,
)
from bokeh.models.glyph import Glyph
from bokeh.models.glyphs import Patches
from bokeh.plotting import figure

MARKERS = {
    "circle": 1.0, "square": 0.92, "triangle": 1.1, "diamond": 1.25, "inverted_triangle": 1.1,
    "plus": 1.15, "star": 1.5, "hex": 1.0, "square_pin": 1.35, "triangle_pin": 1.4,
}  # fmt: skip
"""Bokeh's filled markers in the order in which categories take them, with factors of their size
at which they look equally large."""

MANY = 3000
"""Above so many models painting all of them takes longer than a frame."""

_ABOVE = ("rings", "regions", "names")
"""Layers on a canvas of their own: what follows the pointer repaints no point."""


class _Layer(NamedTuple):
    """One glyph with the columns that it reads."""

    name: str
    glyph: Glyph
    columns: tuple[str, ...]


def _layers(edged: bool, added: bool, ways: bool) -> list[_Layer]:
    """All layers of the map, the lowest first; points with an edge or without."""
    boxed: dict[str, Any] = {"padding": 2, "border_radius": 4}
    points = ("x", "y", "size", "fill", "edge", "marker")
    return [
        _Layer(
            "ellipses",
            Ellipse(
                x="x", y="y", width="width", height="height", angle="angle",
                fill_color="fill", line_color="edge",
            ),
            ("x", "y", "width", "height", "angle", "fill", "edge"),
        ),
        _Layer(
            "runs",
            MultiLine(xs="xs", ys="ys", line_color="edge", line_width=1.6, line_join="round"),
            ("xs", "ys", "edge"),
        ),
        _Layer(
            "lineage",
            Bezier(
                x0="x0", y0="y0", x1="x1", y1="y1", cx0="cx0", cy0="cy0", cx1="cx1", cy1="cy1",
                line_color="edge", line_width=1.3,
            ),
            ("x0", "y0", "x1", "y1", "cx0", "cy0", "cx1", "cy1", "edge"),
        ),
        _Layer(
            "heads",
            Scatter(
                x="x", y="y", angle="angle", marker="triangle", size=9,
                fill_color="edge", line_color=None,
            ),
            ("x", "y", "angle", "edge"),
        ),
        _Layer(
            "links",
            Segment(
                x0="x0", y0="y0", x1="x1", y1="y1", line_color="edge", line_width="width",
                line_cap="round",
            ),
            ("x0", "y0", "x1", "y1", "edge", "width"),
        ),
        *(
            _Layer(
                name,
                Scatter(
                    x="x", y="y", marker="marker", size="size", fill_color="fill",
                    line_color="edge" if edged else None, line_width=0.7,
                ),
                points,
            )
            for name in ("points", "lit")
        ),
        *(_ways() if ways else ()),
        *(
            _Layer(
                name,
                Scatter(
                    x="x", y="y", marker="circle", size="size", fill_color=None, line_color="edge",
                    line_width="width",
                ),
                ("x", "y", "size", "edge", "width"),
            )
            for name in (("added", "rings") if added else ("rings",))
        ),
        *(
            _Layer(
                name,
                Text(
                    x="x", y="y", text="text", x_offset="dx", y_offset="dy", text_align="align",
                    text_baseline="middle", text_font_size=size, text_font_style=style,
                    text_font=value("system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"),
                    text_color="ink", background_fill_color="paper", **boxed,
                ),
                ("x", "y", "text", "dx", "dy", "align", "ink", "paper"),
            )
            for name, size, style in (("regions", "13px", "bold"), ("names", "12px", "normal"))
        ),
    ]  # fmt: skip


def _ways() -> list[_Layer]:
    """Lines, and heads in units of the map: markers of a fixed size are not slim enough for one."""
    return [
        _Layer(
            "ways",
            MultiLine(
                xs="xs", ys="ys", line_color="edge", line_width="width", line_join="round",
                line_cap="round",
            ),
            ("xs", "ys", "edge", "width"),
        ),
        _Layer(
            "ends",
            Patches(xs="xs", ys="ys", fill_color="edge", line_color=None),
            ("xs", "ys", "edge"),
        ),
    ]  # fmt: skip


def document(models: int, added: bool = False, ways: bool = False) -> dict[str, Any]:
    """The map without data, as ``Bokeh.embed.embed_item`` takes it.

    Every layer's renderer and source are found by the name of the layer; the tools by ``pan``,
    ``wheel``, ``box`` and ``lasso``. Canvas output: nothing in it needs the browser to evaluate
    text as code, which the page's policy forbids. Above :data:`MANY` models points have no edge,
    which takes half of the time of painting, and a quarter of them moves with the hand.

    Args:
        models: how many points there will be.
        added: whether there is a layer for rings around models added through a text selection.
        ways: whether there are layers for ways.

    Returns:
        A JSON object. It is the same every time: identifiers, which Bokeh counts through the
        life of a process, are numbered anew.
    """
    pan = PanTool(name="pan")
    wheel = WheelZoomTool(name="wheel", zoom_on_axis=False, speed=1 / 400)
    box = BoxSelectTool(name="box", renderers=[])
    lasso = LassoSelectTool(name="lasso", renderers=[], continuous=False)
    for overlay in (box.overlay, lasso.overlay):
        overlay.update(
            fill_color="#3b8fd0", fill_alpha=0.12, line_color="#3b8fd0", line_width=1.5,
            line_dash="solid",
        )  # fmt: skip
    plot = figure(
        name="map",
        x_range=Range1d(start=0, end=1),
        y_range=Range1d(start=0, end=1),
        tools=[pan, wheel, box, lasso],
        active_drag=pan,
        active_scroll=wheel,
        toolbar_location=None,
        sizing_mode="stretch_both",
        output_backend="canvas",
        x_axis_location=None,
        y_axis_location=None,
        min_border=0,
        outline_line_color=None,
        background_fill_color=None,
        border_fill_color=None,
        lod_threshold=MANY,
        lod_factor=4,
        lod_timeout=250,
    )
    plot.grid.visible = False
    for layer in _layers(models <= MANY, added, ways):
        source = ColumnDataSource(
            {column: [] for column in layer.columns}, name=f"{layer.name}-source"
        )
        level = "overlay" if layer.name in _ABOVE else "glyph"
        plot.add_glyph(source, layer.glyph, name=layer.name, level=level)
    return _numbered_anew(json.loads(json.dumps(json_item(plot))))


def _numbered_anew(item: dict[str, Any]) -> dict[str, Any]:
    """The document with its identifiers counted from one, in the order in which they appear."""
    names: dict[str, str] = {}

    def rename(found: Any) -> Any:
        if isinstance(found, list):
            return [rename(part) for part in found]
        if isinstance(found, dict):
            return {
                key: names.setdefault(part, f"b{len(names) + 1}")
                if key in ("id", "root_id") and isinstance(part, str)
                else rename(part)
                for key, part in found.items()
            }
        return found

    renamed: dict[str, Any] = rename(item)
    return renamed

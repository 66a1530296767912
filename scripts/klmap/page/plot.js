// The Bokeh figure: where one looks, what lies under the pointer, and the points themselves.

const KIND_SIZE = K <= 40 ? 13 : K <= 300 ? 10.5 : K <= 2500 ? 8 : 5.5;
const REACH = matchMedia("(pointer: coarse)").matches ? 22 : 11;

const map = { plot: null, view: null, size: KIND_SIZE, visible: new Uint8Array(K).fill(1) };
const extent = (() => {
  let [left, right, bottom, top] = [Infinity, -Infinity, Infinity, -Infinity];
  for (let row = 0; row < K; row += 1) {
    left = Math.min(left, place.x[row]);
    right = Math.max(right, place.x[row]);
    bottom = Math.min(bottom, place.y[row]);
    top = Math.max(top, place.y[row]);
  }
  const least = Math.max(right - left, top - bottom, 1e-9) * 0.02 || 1;
  return {
    x: (left + right) / 2, y: (bottom + top) / 2,
    width: Math.max(right - left, least), height: Math.max(top - bottom, least),
  };
})();
const LARGEST = Math.max(extent.width, extent.height);

const source = (layer) => map.plot.document.get_model_by_name(`${layer}-source`);
/** Replace a layer's data; one that was empty and stays so is left alone. */
function fill(layer, data) {
  const found = source(layer);
  if (Object.values(data)[0].length || found.get_length()) found.data = data;
}

async function openPlot() {
  Bokeh.logger.set_level("error");
  const item = { ...look.document, target_id: "plot" };
  const views = await Bokeh.embed.embed_item(item);
  map.view = views.roots ? views.roots[0] : views[0] ?? [...views][0];
  map.plot = map.view.model;
  const { plot } = map;
  for (const range of [plot.x_range, plot.y_range]) {
    range.setv({ min_interval: LARGEST / 2000, max_interval: LARGEST * 6 });
    range.change.connect(everyFrame(() => tell("view")));
  }
  // While the hand moves a map of many models Bokeh paints a part of them; in their own colours.
  for (const layer of ["points", "lit"]) {
    const { decimated_glyph: part } = map.view.views.get_one(plot.document.get_model_by_name(layer));
    part.model.setv({ fill_color: { field: "fill" }, fill_alpha: { value: 1 }, line_color: { value: null } });
  }
  // Two quick clicks on two models are no double click, and a slow one is a click.
  for (const name of ["tap", "doubletap", "pressup"]) plot.on_event(name, (event) => tapped(event));
  plot.on_event("selectiongeometry", (event) => surrounded(event));
  plot.document.event_manager.subscribed_models.add(plot);
  // The host takes the keys; a second stop for Tab inside of it would do nothing.
  Object.assign(map.view.canvas_view.events_el, { tabIndex: -1 }).style.outline = "none";
  plot.properties.inner_width.change.connect(resized);
  plot.properties.inner_height.change.connect(resized);
}

/** Pixels of the figure, and of its left that the legend covers. */
function frame() {
  const { width, height } = map.view.frame.bbox;
  const legend = find("#legend");
  const covered = width > 720 && legend.open ? legend.offsetWidth + 12 : 0;
  return { width, height, covered };
}

/** Where one looks: the middle, and how much of the plane a pixel is. */
function looking() {
  const { start, end } = map.plot.x_range;
  const vertical = map.plot.y_range;
  const { width } = frame();
  return { x: (start + end) / 2, y: (vertical.start + vertical.end) / 2, unit: (end - start) / width };
}

let kept = null;

/** Look at a place. Both axes have the same scale, or distances could not be seen. */
function lookAt({ x, y, unit }) {
  const { width, height } = frame();
  const [least, most] = [LARGEST / 2000 / Math.min(width, height), (LARGEST * 6) / Math.max(width, height)];
  const scale = Math.max(least, Math.min(unit, most));
  kept = { x, y, unit: scale };
  map.plot.x_range.setv({ start: x - (width / 2) * scale, end: x + (width / 2) * scale });
  map.plot.y_range.setv({ start: y - (height / 2) * scale, end: y + (height / 2) * scale });
}

/** The view that shows a box, beside the legend. */
function viewOf(box, margin = 44) {
  const { width, height, covered } = frame();
  const unit = Math.max(
    box.width / Math.max(60, width - covered - 2 * margin), box.height / Math.max(60, height - 2 * margin),
  );
  return { x: box.x - (covered / 2) * unit, y: box.y, unit };
}

const atHome = () => {
  const home = viewOf(whole());
  const now = looking();
  return Math.abs(now.unit / home.unit - 1) < 0.01 && Math.hypot(now.x - home.x, now.y - home.y) < 4 * home.unit;
};

let home = true;

function reset() {
  lookAt(viewOf(whole()));
  home = true;
}

/** A window of another size shows the same: all, or the same middle at the same scale. */
function resized() {
  if (!map.view || frame().width < 2) return;
  if (home || !kept) reset();
  else lookAt(kept);
  tell("view");
}

function zoom(factor) {
  const now = looking();
  lookAt({ ...now, unit: now.unit / factor });
}

function move(right, up) {
  const now = looking();
  const { width, height } = frame();
  lookAt({ ...now, x: now.x + right * 0.12 * width * now.unit, y: now.y + up * 0.12 * height * now.unit });
}

/** Bring rows into view if they are not, without zooming where that is not needed. */
function bringIntoView(rows) {
  const inside = rows.every((row) => {
    const { x, y } = onScreen(row);
    const { width, height, covered } = frame();
    return x > covered + 20 && x < width - 20 && y > 20 && y < height - 20;
  });
  if (inside) return;
  const xs = rows.map((row) => place.x[row]);
  const ys = rows.map((row) => place.y[row]);
  const box = {
    x: (Math.min(...xs) + Math.max(...xs)) / 2, y: (Math.min(...ys) + Math.max(...ys)) / 2,
    width: Math.max(...xs) - Math.min(...xs), height: Math.max(...ys) - Math.min(...ys),
  };
  const wanted = viewOf(box, 60);
  lookAt({ ...wanted, unit: Math.max(wanted.unit, looking().unit) });
}

/** Pixels from the figure's upper left corner. */
function onScreen(row) {
  const { x_scale, y_scale } = map.view.frame;
  return { x: x_scale.compute(place.x[row]), y: y_scale.compute(place.y[row]) };
}

/** Rows by cells of a grid, so that what lies under the pointer is found without a search. */
const grid = lazy(() => {
  const cells = Math.max(1, Math.ceil(Math.sqrt(K / 2)));
  const step = (LARGEST * 1.0001) / cells;
  const column = (x) => Math.floor((x - extent.x + LARGEST / 2) / step);
  const line = (y) => Math.floor((y - extent.y + LARGEST / 2) / step);
  const rows = new Map();
  for (let row = 0; row < K; row += 1) {
    const key = column(place.x[row]) * 65536 + line(place.y[row]);
    if (rows.has(key)) rows.get(key).push(row);
    else rows.set(key, [row]);
  }
  return { column, line, rows };
});

/** The row nearest to a place of the screen within reach, or -1. */
function under(sx, sy, reach = REACH) {
  const { x_scale, y_scale } = map.view.frame;
  const { unit } = looking();
  const [x, y] = [x_scale.invert(sx), y_scale.invert(sy)];
  const radius = Math.max(reach, map.size / 2 + 2) * unit;
  const { column, line, rows } = grid();
  let [best, least] = [-1, radius * radius];
  for (let c = column(x - radius); c <= column(x + radius); c += 1) {
    for (let l = line(y - radius); l <= line(y + radius); l += 1) {
      for (const row of rows.get(c * 65536 + l) ?? []) {
        const square = (place.x[row] - x) ** 2 + (place.y[row] - y) ** 2;
        if (map.visible[row] && square < least) [best, least] = [row, square];
      }
    }
  }
  return best;
}

function tapped({ sx, sy, modifiers }) {
  let row = under(sx, sy);
  if (row < 0) row = wayUnder(sx, sy)?.row ?? -1;
  const more = modifiers && (modifiers.shift || modifiers.ctrl);
  if (row >= 0 && row < K) pick(row, more);
  else if (row < 0 && !more && !state.compare) select([]);
}

// Bokeh does not say which keys were held when a lasso ended.
let adding = false;
addEventListener("pointerup", (event) => { adding = event.shiftKey || event.ctrlKey; }, true);

/** Rows inside a lasso or box; with shift they are added to those selected. */
function surrounded({ geometry, final }) {
  if (final === false) return;
  const inside = [];
  for (let row = 0; row < K; row += 1) {
    if (map.visible[row] && contains(geometry, place.x[row], place.y[row])) inside.push(row);
  }
  select(adding ? [...state.selected, ...inside] : inside);
}

function contains(geometry, x, y) {
  if (geometry.type === "rect") {
    const { x0, x1, y0, y1 } = geometry;
    return x >= Math.min(x0, x1) && x <= Math.max(x0, x1) && y >= Math.min(y0, y1) && y <= Math.max(y0, y1);
  }
  const { x: xs, y: ys } = geometry;
  let inside = false;
  for (let at = 0, last = xs.length - 1; at < xs.length; last = at, at += 1) {
    const crosses = ys[at] > y !== ys[last] > y;
    if (crosses && x < ((xs[last] - xs[at]) * (y - ys[at])) / (ys[last] - ys[at]) + xs[at]) inside = !inside;
  }
  return inside;
}

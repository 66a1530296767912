// What is painted: points, rings, neighbours, lineage, runs, ellipses.

const ink = () => (dark() ? "#dbe3ee" : "#243041");
const paper = () => (dark() ? "#10151c" : "#ffffff");
const accent = () => (dark() ? "#7cc4f5" : "#0060a8");

/** Frequent categories are painted first, so that rare ones are not buried under them. */
function order() {
  const rows = Array.from({ length: K }, (_, row) => row).filter((row) => map.visible[row]);
  if (coloring.entries) {
    const last = coloring.entries.length - 1;
    const others = coloring.entries[last].name === "others" ? last : -1;
    const depth = coloring.codes.map((code) => (code === others ? -1 : code));
    rows.sort((a, b) => depth[a] - depth[b] || a - b);
  }
  return rows;
}

const sizes = (rows) => Float64Array.from(rows, (row) => map.size * look.markers[coloring.markers[row]]);

function points(rows, alpha) {
  const edge = dark() ? "#0b0f14" : "#ffffff";
  return {
    x: Float64Array.from(rows, (row) => place.x[row]),
    y: Float64Array.from(rows, (row) => place.y[row]),
    size: sizes(rows),
    fill: rows.map((row) => withAlpha(coloring.colors[row], alpha)),
    edge: new Array(rows.length).fill(withAlpha(edge, alpha < 0.5 ? 0 : 0.85)),
    marker: rows.map((row) => coloring.markers[row]),
  };
}

function paintPoints() {
  for (let row = 0; row < K; row += 1) {
    const entry = coloring.entries?.[coloring.codes[row]];
    map.visible[row] = entry && state.hidden.has(entry.name) ? 0 : 1;
  }
  const rows = order();
  const out = standOut();
  // Where points lie on each other their faintness adds up to a colour again.
  const faint = (state.hits ? 0.13 : 0.24) * (K > 3000 ? 0.4 : 1);
  fill("points", points(rows, out ? faint : 0.92));
  fill("lit", points(out ? rows.filter((row) => out.has(row)) : [], 1));
}

/** Rings around the models that were added through a text selection; they keep clear of other rings. */
function paintAdded() {
  if (!added.size) return;
  const out = standOut();
  const rows = [...added].filter((row) => map.visible[row]);
  fill("added", {
    x: rows.map((row) => place.x[row]),
    y: rows.map((row) => place.y[row]),
    size: rows.map(() => map.size + 4),
    edge: rows.map((row) => withAlpha(hex(rgb(ink())), out && !out.has(row) ? 0.3 : 0.95)),
    width: rows.map(() => (K <= 300 ? 1.4 : 1.1)),
  });
}

function paintRings() {
  const rows = state.selected.length <= 40 ? state.selected.filter((row) => map.visible[row]) : [];
  const hovered = state.hover >= 0 && map.visible[state.hover] ? [state.hover] : [];
  const all = [...hovered, ...rows];
  const [air, stroke] = rows.length < MANY ? [9, 2.4] : [4, 1.3];
  fill("rings", {
    x: all.map((row) => place.x[row]),
    y: all.map((row) => place.y[row]),
    size: all.map((_, at) => map.size + (at < hovered.length ? 7 : air)),
    edge: all.map((_, at) => (at < hovered.length ? ink() : accent())),
    width: all.map((_, at) => (at < hovered.length ? 1.4 : stroke)),
  });
}

/** Lines from the selected model to its nearest, the nearer the stronger; one line for a pair. */
function paintLinks() {
  const [from, to] = state.selected;
  let ends = [];
  if (state.selected.length === 1) {
    const found = nearest(from);
    const far = Math.max(...found.map(({ kl }) => kl), 1e-12);
    ends = found.map(({ row, kl }) => [row, 0.25 + 0.6 * (1 - kl / far), 1 + 1.6 * (1 - kl / far)]);
  } else if (state.selected.length === 2) {
    ends = [[to, 0.9, 2.2]];
  }
  ends = ends.filter(([row]) => map.visible[row] && map.visible[from]);
  fill("links", {
    x0: ends.map(() => place.x[from]),
    y0: ends.map(() => place.y[from]),
    x1: ends.map(([row]) => place.x[row]),
    y1: ends.map(([row]) => place.y[row]),
    edge: ends.map(([, alpha]) => withAlpha(accent(), alpha)),
    width: ends.map(([, , width]) => width),
  });
}

/** Arrows bend, so that there and back do not lie on each other; heads stand past the middle. */
function paintLineage() {
  const out = standOut();
  const arrows = !state.show.lineage
    ? []
    : payload.parents.filter(([parent, child]) => map.visible[parent] && map.visible[child]);
  const strength = (arrows.length > 400 ? 0.3 : 0.5) * (state.ways ? 0.4 : 1);
  const edge = arrows.map(([parent, child]) =>
    withAlpha(ink(), out && !(out.has(parent) && out.has(child)) ? strength / 4 : strength));
  const bend = arrows.map(([parent, child]) => {
    const [x0, y0, x1, y1] = [place.x[parent], place.y[parent], place.x[child], place.y[child]];
    return [x0, y0, x1, y1, (x0 + x1) / 2 - 0.14 * (y1 - y0), (y0 + y1) / 2 + 0.14 * (x1 - x0)];
  });
  const third = (from, middle) => from + (2 / 3) * (middle - from);
  fill("lineage", {
    x0: bend.map(([x0]) => x0), y0: bend.map(([, y0]) => y0),
    x1: bend.map(([, , x1]) => x1), y1: bend.map(([, , , y1]) => y1),
    cx0: bend.map(([x0, , , , cx]) => third(x0, cx)), cy0: bend.map(([, y0, , , , cy]) => third(y0, cy)),
    cx1: bend.map(([, , x1, , cx]) => third(x1, cx)), cy1: bend.map(([, , , y1, , cy]) => third(y1, cy)),
    edge,
  });
  const share = 0.58;
  const along = (a, middle, b) => (1 - share) ** 2 * a + 2 * share * (1 - share) * middle + share ** 2 * b;
  const slope = (a, middle, b) => (1 - share) * (middle - a) + share * (b - middle);
  fill("heads", {
    x: bend.map(([x0, , x1, , cx]) => along(x0, cx, x1)),
    y: bend.map(([, y0, , y1, , cy]) => along(y0, cy, y1)),
    angle: bend.map(([x0, y0, x1, y1, cx, cy]) => Math.atan2(slope(y0, cy, y1), slope(x0, cx, x1)) - Math.PI / 2),
    edge,
  });
}

function paintRuns() {
  const out = standOut();
  const runs = state.show.runs ? payload.runs.map((rows) => rows.filter((row) => map.visible[row])) : [];
  const drawn = runs.filter((rows) => rows.length > 1);
  fill("runs", {
    xs: drawn.map((rows) => rows.map((row) => place.x[row])),
    ys: drawn.map((rows) => rows.map((row) => place.y[row])),
    edge: drawn.map((rows) => {
      const color = coloring.entries ? coloring.colors[rows.at(-1)] : hex(rgb(ink()));
      return withAlpha(color, out && !rows.some((row) => out.has(row)) ? 0.12 : state.ways ? 0.3 : 0.6);
    }),
  });
}

const ellipses = lazy(() =>
  Object.fromEntries(Object.entries(payload.ellipses).map(([name, packed]) => [name, decode(packed)])));

function paintEllipses() {
  const out = standOut();
  const rows = state.show.ellipses && payload.ellipses ? order() : [];
  const found = rows.length ? ellipses() : null;
  const drawn = rows.filter((row) => Number.isFinite(found.major[row]) && (!out || out.has(row)));
  fill("ellipses", {
    x: drawn.map((row) => found.x[row]),
    y: drawn.map((row) => found.y[row]),
    width: drawn.map((row) => 2 * found.major[row]),
    height: drawn.map((row) => 2 * found.minor[row]),
    angle: drawn.map((row) => (found.angle[row] * Math.PI) / 180),
    fill: drawn.map((row) => withAlpha(coloring.colors[row], drawn.length > 60 ? 0.03 : 0.1)),
    edge: drawn.map((row) => withAlpha(coloring.colors[row], drawn.length > 60 ? 0.35 : 0.55)),
  });
}

/** Points grow a little as one comes nearer, in steps, so that zooming does not repaint twice. */
function resizePoints() {
  const nearer = viewOf(extent).unit / looking().unit;
  const size = KIND_SIZE * Math.min(1.9, Math.max(0.8, Math.round(4 * nearer ** 0.28) / 4));
  if (size === map.size) return;
  map.size = size;
  paintPoints();
  paintAdded();
  paintRings();
}

/** Principal components keep the scale: how long a KL is in the plane. */
function drawRuler() {
  const ruler = find("#ruler");
  if (!ruler) return;
  const { unit } = looking();
  const steps = Array.from({ length: 30 }, (_, at) => [1, 2, 5][at % 3] * 10 ** (Math.floor(at / 3) - 6));
  const kl = steps.find((step) => Math.sqrt(step) / unit > 60) ?? steps.at(-1);
  ruler.firstChild.style.width = `${Math.sqrt(kl) / unit}px`;
  ruler.lastChild.textContent = `KL ${short(kl)} bits/byte`;
}

function paint() {
  paintEllipses();
  paintRuns();
  paintLineage();
  paintLinks();
  paintPoints();
  paintWays();
  paintAdded();
  paintRings();
}

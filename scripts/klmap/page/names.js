// Names on the map: of the models that stand out, of categories from afar, of all when near.

const canvas = document.createElement("canvas").getContext("2d");
const widths = new Map();

function widthOf(text, bold) {
  canvas.font = bold ? "bold 13px system-ui, sans-serif" : "12px system-ui, sans-serif";
  const key = `${bold}${text}`;
  if (!widths.has(key)) widths.set(key, canvas.measureText(text).width * 1.04 + 6);
  return widths.get(key);
}

/** Without the organisation where names stay different without it. */
const labels = lazy(() => {
  const tails = names.map((name) => name.split("--").slice(1).join("--") || name);
  const counts = new Map();
  for (const tail of tails) counts.set(tail, (counts.get(tail) ?? 0) + 1);
  return tails.map((tail, row) => {
    const text = counts.get(tail) === 1 ? tail : names[row];
    return text.length > 34 ? `${text.slice(0, 22)}…${text.slice(-11)}` : text;
  });
});

const overlap = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];

/** Boxes that are taken, by cells of a coarse grid. */
function taken() {
  const cells = new Map();
  const keys = ([left, top, right, bottom]) => {
    const found = [];
    for (let c = Math.floor(left / 80); c <= Math.floor(right / 80); c += 1) {
      for (let l = Math.floor(top / 40); l <= Math.floor(bottom / 40); l += 1) found.push(c * 4096 + l);
    }
    return found;
  };
  return {
    add: (box) => keys(box).forEach((key) => cells.set(key, [...(cells.get(key) ?? []), box])),
    hits: (box) => keys(box).some((key) => (cells.get(key) ?? []).some(
      (other) => overlap(box, other))),
  };
}

/** Where each category with many models is densest: the place for its name. */
function findCentres() {
  const { entries, codes } = coloring;
  const members = entries.map(() => []);
  codes.forEach((code, row) => members[code].push(row));
  const radius = LARGEST * 0.06;
  const apart = (a, b) => Math.hypot(place.x[a] - place.x[b], place.y[a] - place.y[b]);
  const found = [];
  entries.forEach(({ name, color }, code) => {
    const every = Math.ceil(members[code].length / 150);
    const rows = members[code].filter((_, at) => at % every === 0);
    if (name === "others" || rows.length < 3) return;
    let best = [];
    for (const row of rows) {
      const near = rows.filter((other) => apart(row, other) < radius);
      if (near.length > best.length) best = near;
    }
    const mean = (axis) => best.reduce((all, row) => all + place[axis][row], 0) / best.length;
    // The name stands above its group, where it hides nothing of it.
    const heights = best.map((row) => place.y[row]).sort((a, b) => a - b);
    found.push({ name, color, x: mean("x"), y: quantile(heights, 0.97) });
  });
  return found;
}

let regions = { column: null, list: [] };

/** Rows whose names are wanted, the most wanted first. */
function wanted(inside) {
  const out = standOut();
  const first = state.selected.length <= 40 ? [...state.selected] : [];
  if (state.selected.length === 1) first.push(...nearest(state.selected[0]).map(({ row }) => row));
  if (state.hits && state.hits.length <= 80) first.push(...state.hits);
  const rows = first.slice(0, 120);
  if (inside.length <= 160) rows.push(...inside.filter((row) => !out || out.has(row)));
  return [...new Set(rows)].filter((row) => map.visible[row]);
}

function paintNames() {
  const { width, height, covered } = frame();
  const near = viewOf(extent).unit / looking().unit;
  const inside = [];
  const at = new Map();
  for (let row = 0; row < K; row += 1) {
    if (!map.visible[row]) continue;
    const { x, y } = onScreen(row);
    if (x < -20 || x > width + 20 || y < -10 || y > height + 10) continue;
    inside.push(row);
    at.set(row, [x, y]);
  }
  const boxes = taken();
  if (covered) boxes.add([0, 0, covered, find("#legend").offsetHeight + 12]);
  if (inside.length <= 400) {
    const half = map.size / 2;
    for (const [x, y] of at.values()) boxes.add([x - half, y - half, x + half, y + half]);
  }
  const crossed = taken();
  for (const box of alongWays()) crossed.add(box);
  const regional = (near <= 4 && !state.hits && (K > 60 || inside.length > 60));
  if (!standOut()) paintRegions(boxes, regional);
  const placed = [];
  for (const row of state.show.names ? wanted(inside) : []) {
    if (!at.has(row) || placed.length >= 70) continue;
    const [x, y] = at.get(row);
    const wide = widthOf(labels()[row], false);
    const gap = map.size / 2 + (state.selected.length < MANY && state.selected.includes(row) ? 8 : 3);
    const options = [
      ["left", gap, 0, [x + gap, y - 8, x + gap + wide, y + 8]],
      ["right", -gap, 0, [x - gap - wide, y - 8, x - gap, y + 8]],
      ["center", 0, gap + 8, [x - wide / 2, y + gap, x + wide / 2, y + gap + 16]],
      ["center", 0, -gap - 8, [x - wide / 2, y - gap - 16, x + wide / 2, y - gap]],
    ];
    const fits = ([left, top, right, bottom]) => left > 2 && top > 2 && right < width - 2 && bottom < height - 2;
    const free = options.filter(([, , , box]) => fits(box) && !boxes.hits(box));
    const option = free.find(([, , , box]) => !crossed.hits(box)) ?? free[0]
      ?? (state.selected.slice(0, 2).includes(row) ? options[0] : null);
    if (!option) continue;
    boxes.add(option[3]);
    placed.push({ row, align: option[0], dx: option[1], dy: option[2] });
  }
  if (standOut()) paintRegions(boxes, regional);
  fill("names", {
    x: placed.map(({ row }) => place.x[row]),
    y: placed.map(({ row }) => place.y[row]),
    text: placed.map(({ row }) => labels()[row]),
    dx: placed.map(({ dx }) => dx),
    dy: placed.map(({ dy }) => dy),
    align: placed.map(({ align }) => align),
    ink: placed.map(({ row }) => (state.selected.length < MANY && state.selected.includes(row) ? accent() : ink())),
    paper: placed.map(() => withAlpha(paper(), state.ways ? 0.45 : 0.72)),
  });
}

/** From afar a map names its countries: categories, where each is densest. */
function paintRegions(boxes, regional) {
  if (regions.column !== coloring.column) {
    regions = { column: coloring.column, list: coloring.entries ? findCentres() : [] };
  }
  const faint = standOut() !== null;
  const lift = map.size / 2 + 10;
  const placed = [];
  for (const region of regional && state.show.names ? regions.list : []) {
    if (state.hidden.has(region.name)) continue;
    const { x_scale, y_scale } = map.view.frame;
    const [x, y] = [x_scale.compute(region.x), y_scale.compute(region.y) - lift];
    const text = region.name.length > 22 ? `${region.name.slice(0, 21)}…` : region.name;
    const half = widthOf(text, true) / 2 + 3;
    const box = [x - half, y - 11, x + half, y + 11];
    // Names of models, which come first, are kept clear; points may be covered by a few of these.
    if (faint ? boxes.hits(box) : placed.some(({ box: other }) => overlap(box, other))) continue;
    placed.push({ ...region, text, box });
    boxes.add(box);
  }
  const tint = (color) => {
    const target = dark() ? 255 : 0;
    const strong = hex(rgb(onPage(color)).map((part) => part + 0.42 * (target - part)));
    return withAlpha(strong, faint ? 0.5 : 1);
  };
  fill("regions", {
    x: placed.map(({ x }) => x),
    y: placed.map(({ y }) => y),
    text: placed.map(({ text }) => text),
    dx: placed.map(() => 0),
    dy: placed.map(() => -lift),
    align: placed.map(() => "center"),
    ink: placed.map(({ color }) => tint(color)),
    paper: placed.map(() => withAlpha(paper(), faint ? 0.3 : state.ways ? 0.45 : 0.72)),
  });
}

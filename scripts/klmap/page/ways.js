// Ways: where analyses expect models to go. One group is shown at a time, over the points.

const ways = new Map((payload.ways ?? []).map((group) => [group.key, {
  title: `${group.kind}: ${group.name}`, ...group, list: lazy(() => waysIn(group)),
}]));

/** Each way of a group: its model (K and more: off the map), its places and what is said of them. */
function waysIn(group) {
  const [rows, steps, x, y, label] = ["rows", "steps", "x", "y", "label"].map((name) => decode(group[name]));
  let end = 0;
  return Array.from(rows, (row, at) => {
    const begin = end;
    end += steps[at];
    return {
      row, name: names[row] ?? group.off[row - K], x: x.subarray(begin, end), y: y.subarray(begin, end),
      label: Array.from(label.subarray(begin, end), (code) => group.labels[code]),
    };
  });
}

const shownWays = () => ways.get(state.ways);
const drawnWays = () => shownWays()?.list().filter(({ row }) => row >= K || map.visible[row]) ?? [];
const wayOf = (row) => shownWays()?.list().find((way) => way.row === row);

/** The box of all points and of what is drawn beyond, of which the farthest may stay outside. */
function whole() {
  const drawn = shownWays()?.list() ?? [];
  if (!drawn.length) return extent;
  const bounds = (axis, middle, size) => {
    let [low, high] = [middle - size / 2, middle + size / 2];
    const most = 0.25 * LARGEST;
    const [least, largest] = [low - most, high + most];
    for (const way of drawn) {
      for (const value of way[axis]) [low, high] = [Math.min(low, value), Math.max(high, value)];
    }
    return [Math.max(low, least), Math.min(high, largest)];
  };
  const [left, right] = bounds("x", extent.x, extent.width);
  const [bottom, top] = bounds("y", extent.y, extent.height);
  return { x: (left + right) / 2, y: (bottom + top) / 2, width: right - left, height: top - bottom };
}

/** The ways that stand out: of what is selected or found, else all. */
function prominent(drawn) {
  if (!state.hits && !state.selected.length) return null;
  const rows = new Set([...(state.hits ?? []), ...state.selected]);
  const found = drawn.filter(({ row }) => rows.has(row));
  return found.length ? new Set(found) : null;
}

let closeness = 0;

function paintWays() {
  if (!ways.size) return;
  const drawn = drawnWays();
  const out = prominent(drawn);
  // Painted last, those that stand out lie above the others.
  if (out) drawn.sort((a, b) => out.has(a) - out.has(b));
  const many = drawn.length > 150;
  const { unit } = looking();
  const pieces = drawn.map((way) => {
    const bold = out ? out.has(way) : !many;
    const alpha = out && !out.has(way) ? 0.16 : bold ? 0.95 : 0.75;
    return { edge: withAlpha(wayColor(way), alpha), width: bold ? 2 : 1.1, ...arrow(way, (bold ? 12 : 8) * unit) };
  });
  fill("ways", {
    xs: pieces.map(({ x }) => x), ys: pieces.map(({ y }) => y),
    edge: pieces.map(({ edge }) => edge), width: pieces.map(({ width }) => width),
  });
  const ends = pieces.filter(({ head }) => head).map(({ head, edge }) => [head, edge]);
  drawn.forEach(({ row, x, y }, at) => {
    if (row >= K) ends.push([disc(x[0], y[0], 0.35 * map.size * unit), pieces[at].edge]);
  });
  fill("ends", {
    xs: ends.map(([outline]) => outline.map(([x]) => x)), ys: ends.map(([outline]) => outline.map(([, y]) => y)),
    edge: ends.map(([, edge]) => edge),
  });
}

/** Nearer to the ink than the points, so that a way is seen on points of its own colour. */
function wayColor({ row }) {
  const target = rgb(ink());
  if (row >= K) return hex(target);
  return hex(rgb(coloring.colors[row]).map((part, at) => part + 0.35 * (target[at] - part)));
}

/** A line that ends in the notch of its head; a way that is shorter than a head has none. */
function arrow({ x, y }, length) {
  const [endX, endY] = [x.at(-1), y.at(-1)];
  const away = (at) => Math.hypot(endX - x[at], endY - y[at]);
  let from = x.length - 2;
  while (from >= 0 && away(from) <= length) from -= 1;
  if (from < 0) return { x, y, head: null };
  const [dx, dy] = [(endX - x[from]) / away(from), (endY - y[from]) / away(from)];
  const at = (back, aside) => [endX - length * (back * dx + aside * dy), endY - length * (back * dy - aside * dx)];
  const notch = at(0.72, 0);
  return {
    x: [...x.subarray(0, from + 1), notch[0]], y: [...y.subarray(0, from + 1), notch[1]],
    head: [[endX, endY], at(1, 0.36), notch, at(1, -0.36)],
  };
}

/** A point where no model stands: the beginning of the way of one that is off the map. */
function disc(x, y, radius) {
  const angles = Array.from({ length: 24 }, (_, at) => (at * Math.PI) / 12);
  return angles.map((angle) => [x + radius * Math.cos(angle), y + radius * Math.sin(angle)]);
}

/** Heads are as large from near as from afar, in steps, so that zooming does not repaint twice. */
function resizeEnds() {
  const found = Math.round(4 * Math.log2(looking().unit));
  if (found === closeness) return;
  closeness = found;
  paintWays();
}

/** Boxes of the screen along the ways that are drawn bold, for names to keep clear of. */
function alongWays() {
  const { x_scale, y_scale } = map.view.frame;
  const drawn = drawnWays();
  const out = prominent(drawn);
  const boxes = [];
  for (const { x, y } of drawn.filter((way) => (out ? out.has(way) : drawn.length <= 150))) {
    for (let at = 1; at < x.length; at += 1) {
      const [ax, ay] = [x_scale.compute(x[at - 1]), y_scale.compute(y[at - 1])];
      const [dx, dy] = [x_scale.compute(x[at]) - ax, y_scale.compute(y[at]) - ay];
      const pieces = Math.min(200, Math.ceil(Math.hypot(dx, dy) / 8));
      for (let piece = 0; piece <= pieces; piece += 1) {
        const share = piece / (pieces || 1);
        boxes.push([ax + share * dx - 3, ay + share * dy - 3, ax + share * dx + 3, ay + share * dy + 3]);
      }
    }
  }
  return boxes;
}

/** The way under a place of the screen with its nearest step, or null. */
function wayUnder(sx, sy) {
  const { x_scale, y_scale } = map.view.frame;
  const [x, y, { unit }] = [x_scale.invert(sx), y_scale.invert(sy), looking()];
  let [best, least] = [null, ((REACH / 2 + 1) * unit) ** 2];
  for (const way of drawnWays()) {
    for (let at = 1; at < way.x.length; at += 1) {
      const [ax, ay] = [way.x[at - 1], way.y[at - 1]];
      const [dx, dy] = [way.x[at] - ax, way.y[at] - ay];
      const share = Math.max(0, Math.min(1, ((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy || 1)));
      const square = (ax + share * dx - x) ** 2 + (ay + share * dy - y) ** 2;
      if (square < least) {
        least = square;
        best = { ...way, step: share < 0.5 ? at - 1 : at };
      }
    }
  }
  return best;
}

/** The menu of the groups under what their analyses call them, and below it what an arrow means. */
function openWays() {
  const menu = find("#way");
  if (!menu) return;
  const kinds = [...new Set([...ways.values()].map(({ kind }) => kind))];
  const option = ({ key, name }) => make("option", { value: key, text: name });
  menu.append(make("option", { value: "", text: "none" }), ...kinds.map((label) =>
    make("optgroup", { label }, ...[...ways.values()].filter(({ kind }) => kind === label).map(option))));
  menu.addEventListener("change", () => chooseWays(menu.value));
}

listen("ways", () => {
  const box = find("#way-note");
  if (!box) return;
  find("#way").value = state.ways;
  const found = shownWays();
  box.replaceChildren(...(found ? [term(found.title, found.help), make("p", { class: "soft", text: found.note })] : []));
  if (home && kept) reset();
});

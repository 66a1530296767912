// Colours and markers: klmap's own for categories, a perceptually uniform scale for numbers.

const OTHERS = "#a9b0ba";
const FROM_SELECTED = "@kl";
const MARKERS = Object.keys(look.markers);
// A map: a family may be called "__proto__".
const published = new Map(Object.entries(look.published));

const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const hex = (parts) => `#${parts.map((part) => Math.round(part).toString(16).padStart(2, "0")).join("")}`;
const withAlpha = (color, alpha) => color + Math.round(255 * alpha).toString(16).padStart(2, "0");

/** Whether a colour is far from all in use, by the weighted distance known as redmean. */
function differs(color, used) {
  const [red, green, blue] = rgb(color);
  return used.every((other) => {
    const [red2, green2, blue2] = rgb(other);
    const mean = (red + red2) / 2;
    return Math.sqrt(
      (2 + mean / 256) * (red - red2) ** 2 + 4 * (green - green2) ** 2
        + (2 + (255 - mean) / 256) * (blue - blue2) ** 2,
    ) >= 90;
  });
}

/** Dark colours are lifted where the page is dark, so that no point sinks into it. */
function onPage(color) {
  if (!dark()) return color;
  const [red, green, blue] = rgb(color);
  const light = (0.3 * red + 0.59 * green + 0.11 * blue) / 255;
  const lift = Math.max(0, Math.min(0.6, (0.5 - light) * 1.3));
  return hex([red, green, blue].map((part) => part + lift * (255 - part)));
}

/** A colour and a marker for each level; rare ones beyond the most colours share a grey. */
function categoriesOf(column) {
  const counts = new Map();
  const labels = Array.from({ length: K }, (_, row) => cell(column, row) ?? "unknown");
  for (const label of labels) counts.set(label, (counts.get(label) ?? 0) + 1);
  const ranked = [...counts.keys()].sort(
    (a, b) => counts.get(b) - counts.get(a) || (a < b ? -1 : 1),
  );
  const named = ranked.length <= look.most ? ranked : ranked.slice(0, look.most - 1);
  const used = named.map((name) => published.get(name)).filter(Boolean);
  const entries = named.map((name, rank) => {
    let color = published.get(name);
    if (!color) {
      color = look.extended.find((one) => differs(one, used)) ?? look.extended[rank % look.extended.length];
      used.push(color);
    }
    return { name, label: name, color, marker: MARKERS[rank % MARKERS.length], count: counts.get(name) };
  });
  const rest = ranked.slice(named.length);
  if (rest.length) {
    const total = rest.reduce((all, name) => all + counts.get(name), 0);
    entries.push({ name: "others", label: `others (${rest.length})`, color: OTHERS, marker: "circle", count: total });
  }
  const at = new Map(named.map((name, rank) => [name, rank]));
  return { entries, codes: labels.map((label) => at.get(label) ?? entries.length - 1) };
}

const families = lazy(() => categoriesOf("family"));

/** A colour of the scale, 0 to 1; its ends that would vanish on the page are left out. */
function ramp(share) {
  const [low, high] = dark() ? [0.16, 1] : [0, 0.9];
  return look.ramp[Math.round((low + share * (high - low)) * (look.ramp.length - 1))];
}

function quantile(sorted, share) {
  const at = share * (sorted.length - 1);
  const low = Math.floor(at);
  return sorted[low] + (at - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
}

/** What the colours show now: entries of a legend, or a scale with its ends. */
const coloring = { column: null, entries: null, codes: null, scale: null, colors: [], markers: [] };

function numbersOf(name) {
  if (name !== FROM_SELECTED) return columns.get(name).values;
  return state.selected.length ? fromOne(state.selected[0]) : new Float64Array(K).fill(NaN);
}

function recolor() {
  const name = state.color;
  const column = columns.get(name);
  const markers = families();
  Object.assign(coloring, { column: name, entries: null, codes: null, scale: null });
  if (column && column.kind === "category") {
    const { entries, codes } = categoriesOf(name);
    const painted = entries.map(({ color }) => onPage(color));
    Object.assign(coloring, {
      entries, codes,
      colors: codes.map((code) => painted[code]),
      markers: codes.map((code) => entries[code].marker),
    });
    return;
  }
  coloring.markers = markers.codes.map((code) => markers.entries[code].marker);
  if (!column && name !== FROM_SELECTED) {
    coloring.colors = new Array(K).fill(onPage(look.extended[0]));
    return;
  }
  const values = numbersOf(name);
  const log = name === FROM_SELECTED || column.log === true;
  const known = Array.from(values).filter((value) => Number.isFinite(value) && (!log || value > 0));
  known.sort((a, b) => a - b);
  const cut = known.length > 100 ? 0.02 : 0;
  let [low, high] = known.length ? [quantile(known, cut), quantile(known, 1 - cut)] : [1, 2];
  if (low === high) [low, high] = log ? [low / 1.1, high * 1.1] : [low - 0.05, high + 0.05];
  const along = log
    ? (value) => Math.log(value / low) / Math.log(high / low)
    : (value) => (value - low) / (high - low);
  const kind = name === FROM_SELECTED ? "number" : column.kind;
  const unknown = K - known.length;
  coloring.scale = { low, high, log, kind, along, cut, unknown };
  coloring.colors = Array.from(values, (value) => {
    if (!Number.isFinite(value) || (log && value <= 0)) return OTHERS;
    return ramp(Math.max(0, Math.min(1, along(value))));
  });
}

// Registered before all that shows colours, so that these are new when the others are told.
listen("color theme", recolor);
listen("select", () => {
  if (state.color === FROM_SELECTED) recolor();
});

/** Round places for the ticks of the scale, with what is written there. */
function ticks({ low, high, log, kind }) {
  const places = [];
  if (kind === "date") return dateTicks(low, high);
  if (log) {
    for (const steps of [[1, 2, 5], [1, 3], [1]]) {
      places.length = 0;
      for (let decade = Math.floor(Math.log10(low)); decade <= Math.log10(high); decade += 1) {
        for (const step of steps) places.push(step * 10 ** decade);
      }
      const inside = places.filter((place) => place >= low * 0.999 && place <= high * 1.001);
      if (inside.length <= 5 && inside.length) return inside.map((place) => [place, short(place)]);
    }
    return [low, high].map((place) => [place, short(place)]);
  }
  const rough = (high - low) / 4;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((one) => one * unit >= rough) * unit;
  for (let at = Math.ceil(low / step); at * step <= high * (1 + 1e-9); at += 1) places.push(at * step);
  return places.map((place) => [place, short(place)]);
}

function dateTicks(low, high) {
  const first = new Date(low * 86400000);
  const months = (high - low) / 30.4;
  const step = [1, 3, 6, 12, 24, 60].find((one) => months / one <= 5) ?? 120;
  if (months < 2) return [[low, day(low)], [high, day(high)]];
  const found = [];
  const start = Math.ceil((first.getUTCFullYear() * 12 + first.getUTCMonth()) / step) * step;
  for (let month = start; ; month += step) {
    const at = Date.UTC(Math.floor(month / 12), month % 12) / 86400000;
    if (at > high) break;
    if (at >= low) found.push([at, step < 12 ? day(at).slice(0, 7) : day(at).slice(0, 4)]);
  }
  return found;
}

const SHAPES = {
  circle: "M0-5A5 5 0 1 1 0 5A5 5 0 1 1 0-5Z",
  square: "M-4.4-4.4H4.4V4.4H-4.4Z",
  triangle: "M0-5.4L5.2 4H-5.2Z",
  diamond: "M0-5.6L4 0L0 5.6L-4 0Z",
  inverted_triangle: "M0 5.4L5.2-4H-5.2Z",
  plus: "M-1.8-5.2H1.8V-1.8H5.2V1.8H1.8V5.2H-1.8V1.8H-5.2V-1.8H-1.8Z",
  star: "M0-5.8L1.6-1.9L5.6-1.7L2.5 .9L3.5 4.9L0 2.7L-3.5 4.9L-2.5 .9L-5.6-1.7L-1.6-1.9Z",
  hex: "M-5.2 0L-2.6-4.5H2.6L5.2 0L2.6 4.5H-2.6Z",
  square_pin: "M-5-5Q0-2 5-5Q2 0 5 5Q0 2-5 5Q-2 0-5-5Z",
  triangle_pin: "M0-5.6Q1 .8 5.4 4.4Q0 2.4-5.4 4.4Q-1 .8 0-5.6Z",
};

/** A category's marker as a small drawing. */
function marker(name, color) {
  const shape = drawing("path", { d: SHAPES[name], fill: color });
  return drawing("svg", { viewBox: "-7 -7 14 14", width: 14, height: 14, "aria-hidden": "true" }, shape);
}

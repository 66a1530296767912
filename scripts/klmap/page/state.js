// What is selected, searched, coloured and switched on, and the only functions that change it.

const MANY = 3;

const state = {
  selected: [],
  query: "",
  hits: null,
  color: "family",
  ways: "",
  hidden: new Set(),
  show: {
    lineage: payload.parents.length > 0 && payload.parents.length <= 60,
    runs: payload.runs.length > 0 && payload.runs.length <= 40,
    ellipses: false,
    names: true,
  },
  table: false,
  onlySelected: false,
  compare: false,
  hover: -1,
};
if (!columns.has("family")) state.color = [...columns.values()].find(({ kind }) => kind !== "text")?.name ?? "";
const defaults = { color: state.color, show: { ...state.show } };

/** Select rows, in the order given and each once. */
function select(rows) {
  const wanted = [...new Set(rows)];
  const same = wanted.length === state.selected.length && wanted.every((row, at) => row === state.selected[at]);
  state.compare = false;
  if (same) return;
  state.selected = wanted;
  if (wanted.length < MANY) state.onlySelected = false;
  tell("select");
  if (!wanted.length) announce("Nothing is selected.");
  else if (wanted.length === 1) announce(`${names[wanted[0]]} is selected.`);
  else announce(`${plural(wanted.length, "model")} are selected.`);
}

/** What a click does: select, or with a key held (or "compare" on) take as the second. */
function pick(row, asSecond) {
  if (!(asSecond || state.compare)) {
    select([row]);
  } else if (state.selected.includes(row)) {
    select(state.selected.filter((other) => other !== row));
  } else {
    select(state.selected.length < MANY ? [...state.selected.slice(0, 1), row] : [...state.selected, row]);
  }
}

function searchFor(query) {
  state.query = query;
  state.hits = search(query);
  tell("hits");
}

function colorBy(name) {
  if (name === state.color) return;
  state.color = name;
  state.hidden.clear();
  tell("color");
}

function chooseWays(key) {
  if (key === state.ways) return;
  state.ways = key;
  tell("ways");
}

function toggleCategory(name) {
  if (!state.hidden.delete(name)) state.hidden.add(name);
  tell("hidden");
}

function switchOn(name, on) {
  state.show[name] = on;
  tell("show");
}

function hover(row) {
  if (row === state.hover) return;
  state.hover = row;
  tell("hover");
}

/** Rows that stand out, or null where all do. */
function standOut() {
  if (state.hits) return new Set([...state.hits, ...state.selected]);
  if (!state.selected.length) return null;
  if (state.selected.length > 1) return new Set(state.selected);
  return new Set([state.selected[0], ...nearest(state.selected[0]).map(({ row }) => row)]);
}

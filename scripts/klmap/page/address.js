// The link: selection, colours, switches and where one looks, in the part behind the #.
//
// Whatever a link says is data: names are looked up, numbers parsed, and nothing else is used.

const MOST_IN_LINK = 400;
let written = location.hash;
let restoring = false;

const number = (value) => String(Number(value.toPrecision(6)));

function describe() {
  const parts = new URLSearchParams();
  state.selected.slice(0, MOST_IN_LINK).forEach((row) => parts.append("m", names[row]));
  if (state.color !== defaults.color) parts.set("color", state.color);
  state.hidden.forEach((name) => parts.append("hide", name));
  const changed = Object.keys(state.show).filter((name) => state.show[name] !== defaults.show[name]);
  if (changed.length) parts.set("show", Object.keys(state.show).filter((name) => state.show[name]).join(" "));
  if (state.ways) parts.set("ways", state.ways);
  if (state.query.trim()) parts.set("q", state.query);
  if (state.table) parts.set("table", "1");
  if (map.view && !atHome()) {
    const { x, y, unit } = looking();
    const { width, height } = frame();
    parts.set("view", [x, y, unit * Math.min(width, height)].map(number).join(" "));
  }
  const text = parts.toString();
  return text ? `#${text}` : "";
}

/** Write the link; a new selection is a step that "back" undoes, all else is not. */
function writeAddress(step) {
  if (restoring) return;
  const text = describe();
  if (text === written) return;
  written = text;
  const address = text || location.pathname + location.search;
  try {
    history[step ? "pushState" : "replaceState"](null, "", address);
  } catch {
    // Some browsers refuse this for files; the page works without.
  }
}

/** Make the page what a link says; what it names and the map lacks is reported. */
function readAddress() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const wanted = parts.getAll("m");
  const rows = wanted.map((name) => rowOf.get(name)).filter((row) => row !== undefined);
  const color = parts.get("color");
  const known = color !== null && (columns.has(color) || (color === FROM_SELECTED && knowsAll()));
  state.color = known ? color : defaults.color;
  state.hidden = new Set(parts.getAll("hide"));
  const on = parts.get("show");
  for (const name of Object.keys(state.show)) {
    state.show[name] = on === null ? defaults.show[name] : on.split(" ").includes(name);
  }
  state.ways = ways.has(parts.get("ways")) ? parts.get("ways") : "";
  state.query = parts.get("q") ?? "";
  state.hits = search(state.query);
  state.selected = [...new Set(rows)];
  find("#search").value = state.query;
  const view = (parts.get("view") ?? "").split(" ").map(Number);
  const seen = view.length === 3 && view.every(Number.isFinite) && view[2] > 0;
  const missing = wanted.filter((name) => !rowOf.has(name));
  if (missing.length) {
    const first = missing.slice(0, 3).map((name) => `“${name.slice(0, 80)}”`).join(", ");
    const more = missing.length > 3 ? ` and ${missing.length - 3} more` : "";
    notice(`This map has no model ${first}${more} that the link names.`);
  }
  return { table: parts.get("table") === "1", view: seen ? view : null };
}

function restore() {
  written = location.hash;
  restoring = true;
  const { table, view } = readAddress();
  for (const what of ["color", "hits", "select", "show", "ways"]) tell(what);
  restoring = false;
  showTable(table);
  if (view) {
    const { width, height } = frame();
    lookAt({ x: view[0], y: view[1], unit: view[2] / Math.min(width, height) });
  } else {
    reset();
  }
}

const remember = afterwards(() => writeAddress(false), 250);

function openAddress() {
  listen("select", () => writeAddress(true));
  listen("color hidden show ways hits view", remember);
  const moved = () => { if (location.hash !== written) restore(); };
  addEventListener("popstate", moved);
  addEventListener("hashchange", moved);
}

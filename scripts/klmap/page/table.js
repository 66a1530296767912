// All models as a table: sorted by any column, filtered by the search and the selection.

const PAGE = 100;
const TABLE = [
  ["model", "model"],
  ...["family", ...(selection ? ["texts"] : []), "parameters", "created_at", BITS, "mean_loglik", "mean_pmi", "dtype", "license"]
    .filter((name) => columns.has(name)).map((name) => [name, columns.get(name).label]),
  ["@nearest", "nearest model"],
  ["@kl", "its KL, bits/byte"],
];
const sorting = { by: "model", rising: true, shown: PAGE };

const isNumber = (name) => name === "@kl" || ["number", "date"].includes(columns.get(name)?.kind);

function sortKey(name, row) {
  if (name === "model") return names[row];
  const first = nearest(row)[0];
  if (name === "@kl") return first ? first.kl : null;
  if (name === "@nearest") return first ? names[first.row] : null;
  return cell(name, row);
}

/** Rows in order; what is unknown comes last either way. */
function tableRows() {
  let rows = state.hits ?? Array.from({ length: K }, (_, row) => row);
  if (state.onlySelected) {
    const chosen = new Set(state.selected);
    rows = rows.filter((row) => chosen.has(row));
  }
  rows = rows.filter((row) => map.visible[row]);
  const keys = new Map(rows.map((row) => [row, sortKey(sorting.by, row)]));
  const words = new Intl.Collator("en", { numeric: true });
  const compare = isNumber(sorting.by) ? (a, b) => a - b : (a, b) => words.compare(a, b);
  return [...rows].sort((a, b) => {
    const [first, second] = [keys.get(a), keys.get(b)];
    if (first === null || second === null) return (first === null) - (second === null) || a - b;
    return (sorting.rising ? 1 : -1) * compare(first, second) || a - b;
  });
}

function tableRow(row) {
  const first = nearest(row)[0];
  const cells = TABLE.map(([name]) => {
    if (name === "model") return make("th", { scope: "row" }, swatch(row), modelButton(row, names[row]));
    if (name === "@nearest") return make("td", {}, first ? modelButton(first.row) : "–");
    if (name === "@kl") return make("td", { class: "number" }, first ? withError(first.kl, first.se) : "–");
    return make("td", { class: isNumber(name) ? "number" : null, text: shown(name, row) || "–" });
  });
  return make("tr", {
    "aria-selected": String(state.selected.includes(row)), "data-row": row,
    onclick: (event) => { if (!event.target.closest("button")) pick(row, event.shiftKey || event.ctrlKey); },
  }, ...cells);
}

function drawTable() {
  if (!state.table) return;
  const rows = tableRows();
  const head = make("tr", {}, ...TABLE.map(([name, label]) => make("th", {
    scope: "col", class: isNumber(name) ? "number" : null,
    "aria-sort": sorting.by === name ? (sorting.rising ? "ascending" : "descending") : null,
  }, make("button", { type: "button", "data-sort": name, text: label, onclick: () => sortBy(name) }))));
  const only = find("#only");
  only.hidden = state.selected.length === 0;
  only.setAttribute("aria-pressed", String(state.onlySelected));
  const all = plural(K, "model");
  find("#shown").textContent = rows.length === K ? `All ${all}` : `${count(rows.length)} of ${all}`;
  find("#models thead").replaceChildren(head);
  find("#models tbody").replaceChildren(...rows.slice(0, sorting.shown).map(tableRow));
  const more = find("#more");
  more.hidden = rows.length <= sorting.shown;
  more.textContent = `Show ${count(Math.min(PAGE, rows.length - sorting.shown))} more`;
}

function sortBy(name) {
  sorting.rising = sorting.by === name ? !sorting.rising : true;
  sorting.by = name;
  sorting.shown = PAGE;
  drawTable();
  document.querySelectorAll("[data-sort]").forEach((button) => { if (button.dataset.sort === name) button.focus(); });
}

function showTable(on) {
  state.table = on;
  find("#table").hidden = !on;
  find("#see-map").setAttribute("aria-pressed", String(!on));
  find("#see-table").setAttribute("aria-pressed", String(on));
  tell("show");
  drawTable();
}

function openTable() {
  find("#see-map").addEventListener("click", () => showTable(false));
  find("#see-table").addEventListener("click", () => showTable(true));
  find("#more").addEventListener("click", () => { sorting.shown += PAGE; drawTable(); });
  find("#only").addEventListener("click", () => { state.onlySelected = !state.onlySelected; drawTable(); });
}

/** A row that is selected or not needs no new table. */
function markRows() {
  if (state.onlySelected) return drawTable();
  find("#only").hidden = state.selected.length === 0;
  const chosen = new Set(state.selected);
  for (const line of document.querySelectorAll("#models tbody tr")) {
    line.setAttribute("aria-selected", String(chosen.has(Number(line.dataset.row))));
  }
  return undefined;
}

listen("hits", () => { sorting.shown = PAGE; drawTable(); });
listen("hidden color theme", drawTable);
listen("select", markRows);

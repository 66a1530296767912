"use strict";
// Sorting and searching the table of models. Without this script the table is all there.
const table = document.querySelector("#models");
const body = table.tBodies[0];
const rows = Array.from(body.rows);
const search = document.querySelector("#search");
const shown = document.querySelector("#shown");

function key(row, column) {
  const cell = row.cells[column];
  const value = cell.dataset.value === undefined ? cell.textContent.trim() : cell.dataset.value;
  const number = Number(value);
  return value !== "" && Number.isFinite(number) ? number : value.toLowerCase();
}

function compare(first, second) {
  if (first === "" || second === "") return (first === "") - (second === "");
  if (typeof first === "number" && typeof second === "number") return first - second;
  return String(first).localeCompare(String(second), "en", { numeric: true });
}

for (const button of table.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const rising = head.getAttribute("aria-sort") !== "ascending";
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const column = head.cellIndex;
    const keyed = rows.map((row) => [key(row, column), row]);
    keyed.sort(([a], [b]) => (a === "" || b === "" || rising ? compare(a, b) : compare(b, a)));
    body.append(...keyed.map(([, row]) => row));
  });
}

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const row of rows) {
    const text = row.dataset.search.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    count += row.hidden ? 0 : 1;
  }
  shown.textContent = `${count} of ${rows.length}`;
}

search.addEventListener("input", filter);
filter();

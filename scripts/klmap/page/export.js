// What leaves the page: the selection as a table, and a link that opens this view again.

const EXPORT_HELP = "All columns of models.tsv, benchmark scores and the place on the map. Text that a spreadsheet would take "
  + "for a formula (it begins with =, +, - or @ and is no number) gets an apostrophe in front.";

/** A cell as klmap's tables have it: white space is a space, what holds quotes is quoted. */
function tsvCell(text) {
  const line = text.split(/\s+/).filter(Boolean).join(" ");
  const safe = /^[=+\-@]/.test(line) && !Number.isFinite(Number(line)) ? `'${line}` : line;
  return safe.includes('"') ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function selectionTable() {
  const head = ["model", ...columns.keys(), "x", "y"];
  const lines = state.selected.map((row) => [
    names[row], ...[...columns.keys()].map((name) => raw(name, row)), String(place.x[row]), String(place.y[row]),
  ]);
  return `${[head, ...lines].map((cells) => cells.map(tsvCell).join("\t")).join("\n")}\n`;
}

function exportSelection() {
  const file = new Blob([selectionTable()], { type: "text/tab-separated-values" });
  const address = URL.createObjectURL(file);
  const link = make("a", { href: address, download: "selection.tsv" });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
  announce(`${plural(state.selected.length, "model")} exported as selection.tsv.`);
}

/** Put the link on the clipboard; where the browser refuses, show it to be copied by hand. */
async function copyLink() {
  writeAddress(false);
  const link = location.href;
  try {
    await navigator.clipboard.writeText(link);
    notice("The link to this view is copied.");
  } catch {
    const field = make("input", { readonly: true, value: link, "aria-label": "Link to this view" });
    notice("Copy this link: ", field);
    field.focus();
    field.select();
  }
}

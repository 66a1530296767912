// The side panel: one model and its nearest, or two models and what sets them apart.

const HELP = {
  kl: "Kullback-Leibler divergence in bits per byte: how many more bits a byte costs when texts of one model are coded with the other. Estimated from the variance of log-likelihood differences over texts.",
  se: "Standard error over texts: how much another sample of texts of the same kind would change the number.",
  beyond: "Above 8 bits per byte the estimate is no KL any more. Read it as “far”, never as a number.",
  below: "Smaller than what the numerical errors of the two scores would give by themselves: these two models cannot be told apart.",
  estimate: "Not computed for this pair, but estimated from coordinates that the page carries.",
  domains: "Each bar is the part of the KL that comes from the texts of one domain. The mark is the domain's share of the texts: bars that pass it carry more than their share.",
  bits: "Mean code length of the texts: how well the model predicts them. Lower is better.",
};

function modelButton(row, text = labels()[row]) {
  return make("button", {
    type: "button", class: "name", text, title: names[row],
    onclick: (event) => pick(row, event.shiftKey || event.ctrlKey),
    onmouseenter: () => hover(row), onmouseleave: () => hover(-1),
    onfocus: () => hover(row), onblur: () => hover(-1),
  });
}

function flagChips(flags) {
  return [
    flags & BELOW_NOISE ? term("below noise", HELP.below, "chip") : null,
    flags & BEYOND ? term("beyond", HELP.beyond, "chip warn") : null,
  ].filter(Boolean);
}

const strongest = (parts) => {
  const all = sum(parts);
  return domains.map((domain, d) => ({ ...domain, d, part: parts[d], share: all > 0 ? parts[d] / all : 0, fair: domainShare[d] }));
};

/** A few pixels per domain: its share of the KL, and a mark at its share of the texts. */
function sparks(parts) {
  const shares = strongest(parts);
  const most = Math.max(...shares.map(({ share, fair }) => Math.max(share, fair)), 1e-9);
  const words = [...shares].sort((a, b) => b.share / b.fair - a.share / a.fair).slice(0, 2)
    .map(({ name, share, fair }) => `${name} ${percent(share)} (${percent(fair)} of the texts)`).join(", ");
  return make("span", { class: "sparks", tabindex: "0", role: "img", "aria-label": `Domains: ${words}`, "data-help": `Which texts carry this distance, most over-represented first: ${words}.` },
    ...shares.map(({ share, fair }) => {
      const bar = make("i", { class: share > fair * 1.15 ? "over" : null }, make("b"), make("u"));
      bar.firstChild.style.height = `${(100 * share) / most}%`;
      bar.lastChild.style.bottom = `${(100 * fair) / most}%`;
      return bar;
    }));
}

/** Domains as bars with numbers, the largest first. */
function domainChart(parts, { numbers }) {
  const shares = strongest(parts).sort((a, b) => b.share - a.share);
  const most = Math.max(...shares.map(({ share, fair }) => Math.max(share, fair)), 1e-9);
  const rows = shares.map(({ name, part, share, fair }) => {
    const bar = make("span", { class: share > fair * 1.15 ? "bar over" : "bar" }, make("b"), make("u"));
    bar.firstChild.style.width = `${(100 * share) / most}%`;
    bar.lastChild.style.left = `${(100 * fair) / most}%`;
    const help = `${name}: ${percent(share)} of the KL, ${percent(fair)} of the texts.`;
    return make("tr", { "data-help": help },
      make("th", { scope: "row", text: name }),
      make("td", { class: "grow" }, bar),
      numbers ? make("td", { class: "number", text: part.toPrecision(3) }) : null,
      make("td", { class: "number soft", text: percent(share) }));
  });
  return make("table", { class: "domains" },
    make("thead", {}, make("tr", {},
      make("th", { scope: "col", text: "domain" }), make("th"),
      numbers ? make("th", { scope: "col", class: "number", text: "bits/byte" }) : null,
      make("th", { scope: "col", class: "number", text: "share" }))),
    make("tbody", {}, ...rows));
}

const MAIN = ["family", "parameters", "created_at", "bits_per_byte", "dtype", "revision", "base_model"];

/** Everything that models.tsv says of the rows, side by side. */
function identity(rows, wanted) {
  const lines = wanted.filter((name) => columns.has(name) && rows.some((row) => cell(name, row) !== null));
  if (!lines.length) return make("span");
  return make("table", { class: "identity" }, make("tbody", {}, ...lines.map((name) => {
    const label = columns.get(name).label;
    const head = name === "bits_per_byte" ? term(label, HELP.bits) : make("span", { text: label });
    return make("tr", {}, make("th", { scope: "row" }, head),
      ...rows.map((row) => make("td", {}, ...(name === "base_model" ? relatives(row) : [shown(name, row) || "–"]))));
  })));
}

/** Base models: those on the map as buttons. */
function relatives(row) {
  const onMap = parentsOf.get(row) ?? [];
  if (onMap.length) return onMap.map((parent) => modelButton(parent));
  return [shown("base_model", row) || "–"];
}

const rest = () => [...columns.keys()].filter((name) => !MAIN.includes(name));

function swatch(row) {
  return marker(coloring.markers[row], coloring.colors[row]);
}

function heading(row, level = "h2") {
  return make("div", { class: "title" }, swatch(row), make(level, { text: names[row] }));
}

function onePanel(row) {
  const found = nearest(row);
  const made = children.get(row) ?? [];
  const run = payload.runs.find((rows) => rows.includes(row));
  const all = found.length ? domains.map((_, d) => sum(found.map(({ parts, kl }) => (kl > 0 ? parts[d] / kl : 0)))) : null;
  return [
    make("header", { class: "head" }, heading(row), clearButton()),
    identity([row], MAIN),
    make("details", {}, make("summary", { text: "More about it" }), identity([row], rest())),
    made.length ? make("p", { class: "line" }, "Made from it: ", ...made.slice(0, 12).map((child) => modelButton(child)), made.length > 12 ? `and ${made.length - 12} more` : "") : null,
    run ? make("p", { class: "line" }, `One of ${run.length} checkpoints of a run. `, make("button", { type: "button", class: "link", text: "Select the run", onclick: () => select(run) })) : null,
    make("div", { class: "actions" },
      make("button", { type: "button", id: "compare", "aria-pressed": String(state.compare), text: state.compare ? "Now choose the other model" : "Compare with …", onclick: () => { state.compare = !state.compare; drawPanel(); find("#compare").focus(); } }),
      columns.size && knowsAll() && K > 2 ? make("button", { type: "button", text: "Colour by distance", "data-help": "Colours all models by their KL from this one: what the plane cannot show for far models.", onclick: () => colorBy(FROM_SELECTED) }) : null),
    make("h3", {}, "Nearest models, ", term("KL", HELP.kl), " ", term("± error", HELP.se), " in bits/byte"),
    found.length ? null : make("p", { class: "soft", text: "There is no other model on this map." }),
    make("ol", { class: "near" }, ...found.map((other) => make("li", {},
      modelButton(other.row),
      make("span", { class: "kl", text: withError(other.kl, other.se) }),
      ...flagChips(other.flags),
      sparks(other.parts),
      make("button", { type: "button", class: "pairing", title: `Compare with ${names[other.row]}`, "aria-label": `Compare with ${names[other.row]}`, onclick: () => select([row, other.row]) }, "⇄")))),
    ...(all && domains.length > 1 ? [
      make("h3", {}, term("Which texts", HELP.domains), " set it apart from them"), domainChart(all, { numbers: false }),
    ] : []),
  ];
}

function howKnown(found) {
  if (found.how !== "estimate") return null;
  const { kl_error: error } = payload.components;
  const size = error ? ` For ${count(error.pairs)} pairs that were checked it is off by ${percent(error.median)} in the median, by ${percent(error.p95)} in 95 of 100.` : "";
  return term("estimate", HELP.estimate + size, "chip");
}

function partsKnown(found) {
  if (!found.rough) return null;
  const error = payload.components?.error;
  const size = error && found.how !== "exact" ? ` The parts are off by ${percent(error.median)} of the KL in the median, by ${percent(error.p95)} in 95 of 100.` : "";
  return term("estimate", `The split is estimated from coordinates that the page carries.${size}`, "chip");
}

function pairPanel(row, other) {
  const found = between(row, other);
  const head = make("header", { class: "head" },
    make("div", { class: "both" }, heading(row), heading(other)), clearButton());
  const sides = make("table", { class: "identity two" });
  sides.append(...identity([row, other], [...MAIN, "architecture", "license"]).childNodes);
  if (!found) {
    return [head, make("p", { class: "soft", text: "The page holds no distance for this pair; kl.h5 beside it may." }), sides];
  }
  return [
    head,
    make("p", { class: "big", id: "pair-kl" }, make("b", { text: withError(found.kl, found.se) }), " ", term("bits/byte", HELP.kl)),
    make("p", { class: "line" }, howKnown(found), ...flagChips(found.flags),
      Number.isFinite(found.se) ? make("span", { class: "soft", text: `± standard error over ${count(payload.texts.n)} texts` }) : null),
    sides,
    ...(found.parts && domains.length > 1 ? [
      make("h3", {}, term("Which texts", HELP.domains), " set them apart ", partsKnown(found)),
      domainChart(found.parts, { numbers: true }),
    ] : []),
    make("div", { class: "actions" },
      make("button", { type: "button", text: "Back to the first", onclick: () => select([row]) }),
      ...selectionButtons()),
  ];
}

function clearButton() {
  return make("button", { type: "button", class: "icon", "aria-label": "Clear the selection", title: "Clear the selection (Escape)", onclick: () => select([]) }, "✕");
}

function selectionButtons() {
  return [
    make("button", { type: "button", id: "export", "data-help": EXPORT_HELP, text: "Export TSV", onclick: exportSelection }),
    make("button", { type: "button", text: "Copy link", onclick: copyLink }),
  ];
}

let listed = 60;

function manyPanel(rows) {
  const groups = new Map();
  for (const row of rows) {
    const family = cell("family", row) ?? "unknown";
    groups.set(family, (groups.get(family) ?? 0) + 1);
  }
  const largest = [...groups].sort((a, b) => b[1] - a[1]).slice(0, 6);
  return [
    make("header", { class: "head" }, make("div", { class: "title" }, make("h2", { text: `${plural(rows.length, "model")} selected` })), clearButton()),
    make("p", { class: "line soft", text: largest.map(([name, number]) => `${name} ${count(number)}`).join(" · ") + (groups.size > 6 ? " · …" : "") }),
    make("div", { class: "actions" }, ...selectionButtons(),
      make("button", { type: "button", text: "Show in the table", onclick: () => { state.onlySelected = true; showTable(true); } })),
    make("ul", { class: "many" }, ...rows.slice(0, listed).map((row) => make("li", {}, swatch(row),
      modelButton(row, names[row]), make("span", { class: "soft", text: summary(row) })))),
    rows.length > listed ? make("button", { type: "button", class: "more", text: `Show ${count(Math.min(100, rows.length - listed))} more`, onclick: () => { listed += 100; drawPanel(); } }) : null,
  ];
}

function drawPanel() {
  const rows = state.selected;
  const box = find("#selection");
  find("#about").hidden = rows.length > 0;
  box.hidden = rows.length === 0;
  const parts = rows.length === 0 ? [] : rows.length === 1 ? onePanel(rows[0]) : rows.length === 2 ? pairPanel(...rows) : manyPanel(rows);
  box.replaceChildren(...parts.filter(Boolean));
}

listen("select", () => {
  listed = 60;
  drawPanel();
  find("#panel").scrollTop = 0;
});
listen("color theme", drawPanel);

// Pieces of the side panel: explanations, model names as buttons, charts of domains, identities.

const HELP = {
  kl: "Kullback-Leibler divergence in bits per byte: how many more bits a byte costs when texts of one "
    + "model are coded with the other. Estimated from the variance of log-likelihood differences over texts.",
  se: "Standard error over texts: how much another sample of texts of the same kind would change the number.",
  beyond: "Above 8 bits per byte the estimate is no KL any more. Read it as “far”, never as a number.",
  below: "Smaller than what the numerical errors of the two scores would give by themselves: "
    + "these two models cannot be told apart.",
  estimate: "Not computed for this pair, but estimated from coordinates that the page carries.",
  parts: "The split is estimated from coordinates that the page carries.",
  domains: "Each bar is the part of the KL that comes from the texts of one domain. The mark is the domain's "
    + "share of the texts: bars that pass it carry more than their share.",
  bits: "Mean code length of the texts: how well the model predicts them. Lower is better.",
  kinds: "Two models whose likelihoods are of different kinds. The variance of their differences is a "
    + "distance, but no KL divergence.",
  distance: "Colours all models by their KL from this one: what the plane cannot show for far models.",
};

if (selection) {
  HELP.se += " Where a model was scored on some of the texts alone, it holds the chance of their choice too.";
  HELP.parts = `The split by domain is estimated from the ${count(selection.texts)} chosen texts.`;
  HELP.added = "A model that was added through a text selection. Distances to it estimate those on all texts.";
}

if (responses) {
  HELP.kl = "Kullback-Leibler divergence in bits per byte of the response: how many more bits a byte costs when "
    + "responses of one model are coded with the other. Estimated from the variance of log-likelihood differences.";
  HELP.bits = "Mean code length of the responses behind their prompts, per byte of the response. Lower is better.";
}

if (payload.texts.pmi) {
  HELP.kl = "The formula of the KL divergence for what prompts add (PMI) instead of log-likelihoods: half the "
    + "variance over responses of the difference of two models, in bits per byte. It is no KL divergence.";
  HELP.bits = "Mean PMI: bits that the prompts save per byte of the response. Higher means that they help more; "
    + "below 0 they are in the way.";
}

function button(text, onclick, more = {}) {
  return make("button", { type: "button", text, onclick, ...more });
}

const note = (text) => make("span", { class: "soft", text });

function modelButton(row, text = labels()[row]) {
  return button(text, (event) => pick(row, event.shiftKey || event.ctrlKey), {
    class: "name", title: names[row],
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

const sameKind = (row, other) => cell("likelihood", row) === cell("likelihood", other);
const kindChip = (row, other) => (sameKind(row, other) ? null : term("no KL", HELP.kinds, "chip warn"));

/** How good an estimate is, as the page measured it. */
function accuracy(error, what) {
  if (!error || !error.pairs) return "";
  return ` For ${plural(error.pairs, "pair")} that were checked ${what} off by ${percent(error.median)} in the`
    + ` median, by ${percent(error.p95)} in 95 of 100.`;
}

/** Domains with their part, its share of the KL, and the domain's share of the texts. */
function sharesOf(parts) {
  const all = sum(parts);
  return domains.map(({ name }, d) => ({
    name, part: parts[d], share: all > 0 ? parts[d] / all : 0, fair: domainShare[d],
  }));
}

const largestOf = (shares) => Math.max(...shares.flatMap(({ share, fair }) => [share, fair]), 1e-9);
const isOver = ({ share, fair }) => share > fair * 1.15;

/** A few pixels per domain: its share of the KL, and a mark at its share of the texts. */
function sparks(parts) {
  const shares = sharesOf(parts);
  const most = largestOf(shares);
  const words = [...shares].sort((a, b) => b.share / b.fair - a.share / a.fair).slice(0, 2)
    .map(({ name, share, fair }) => `${name} ${percent(share)} (${percent(fair)} of the texts)`).join(", ");
  const bars = shares.map((entry) => {
    const bar = make("i", { class: isOver(entry) ? "over" : null }, make("b"), make("u"));
    bar.firstChild.style.height = `${(100 * entry.share) / most}%`;
    bar.lastChild.style.bottom = `${(100 * entry.fair) / most}%`;
    return bar;
  });
  return make("span", {
    class: "sparks", tabindex: "0", role: "img", "aria-label": `Domains: ${words}`,
    "data-help": `Which texts carry this distance, most over-represented first: ${words}.`,
  }, ...bars);
}

/** Domains as bars, the largest first; with numbers in bits per byte where the parts are such. */
function domainChart(parts, { numbers }) {
  const shares = sharesOf(parts).sort((a, b) => b.share - a.share);
  const most = largestOf(shares);
  const places = Math.max(0, Math.min(7, 3 - Math.floor(Math.log10(Math.max(shares[0].part, 1e-9)))));
  const rows = shares.map((entry) => {
    const { name, part, share, fair } = entry;
    const bar = make("span", { class: isOver(entry) ? "bar over" : "bar" }, make("b"), make("u"));
    bar.firstChild.style.width = `${(100 * share) / most}%`;
    bar.lastChild.style.left = `${(100 * fair) / most}%`;
    return make("tr", { "data-help": `${name}: ${percent(share)} of the KL, ${percent(fair)} of the texts.` },
      make("th", { scope: "row", text: name }),
      make("td", { class: "grow" }, bar),
      numbers ? make("td", { class: "number", text: part.toFixed(places) }) : null,
      make("td", { class: "number soft", text: percent(share) }));
  });
  const head = (text) => make("th", { scope: "col", class: "number", text });
  return make("table", { class: "domains" },
    make("thead", {}, make("tr", {},
      make("th", { scope: "col", text: "domain" }), make("th"), numbers ? head("bits/byte") : null, head("share"))),
    make("tbody", {}, ...rows));
}

const MAIN = ["family", "parameters", "created_at", BITS, "likelihood", "dtype", "revision", "base_model"];
const rest = () => [...columns.values()].filter(({ name, task }) => !MAIN.includes(name) && task === undefined)
  .map(({ name }) => name);

/** What models.tsv says of one model, or of two side by side. */
function identity(rows, wanted) {
  const lines = wanted.filter((name) => columns.has(name) && rows.some((row) => cell(name, row) !== null));
  const contents = (name, row) => (name === "base_model" ? relatives(row) : [shown(name, row) || "–"]);
  return make("table", { class: rows.length > 1 ? "identity two" : "identity" },
    make("tbody", {}, ...lines.map((name) => {
      const { label } = columns.get(name);
      const head = name === BITS ? term(label, HELP.bits) : make("span", { text: label });
      return make("tr", {}, make("th", { scope: "row" }, head),
        ...rows.map((row) => make("td", {}, ...contents(name, row))));
    })));
}

/** Benchmark scores of one model, measured and predicted; null where there are none. */
function scores(row) {
  const found = new Map();
  for (const { name, task, predicted } of columns.values()) {
    if (task === undefined || cell(name, row) === null) continue;
    found.set(task, { ...found.get(task), [predicted ? "predicted" : "measured"]: shown(name, row) });
  }
  if (!found.size) return null;
  const all = [...found].map(([task, own]) => ({ task, ...own }));
  const kinds = ["measured", "predicted"].filter((kind) => all.some((own) => own[kind]));
  return make("table", { class: "domains scores" },
    make("thead", {}, make("tr", {}, make("th", { scope: "col", text: "benchmark" }),
      ...kinds.map((kind) => make("th", { scope: "col", class: "number", text: kind })))),
    make("tbody", {}, ...all.map((own) => make("tr", {}, make("th", { scope: "row", text: own.task }),
      ...kinds.map((kind) => make("td", { class: "number", text: own[kind] ?? "–" }))))));
}

/** Base models: those on the map as buttons. */
function relatives(row) {
  const onMap = parentsOf.get(row) ?? [];
  if (onMap.length) return onMap.map((parent) => modelButton(parent));
  return [shown("base_model", row) || "–"];
}

function swatch(row) {
  return marker(coloring.markers[row], coloring.colors[row]);
}

function heading(row) {
  return make("div", { class: "title" }, swatch(row), make("h2", { tabindex: "-1", text: names[row] }));
}

// The side panel: one model and its nearest, two models and what sets them apart, or many.

function clearButton() {
  return button("✕", () => select([]), {
    class: "icon", "aria-label": "Clear the selection", title: "Clear the selection (Escape)",
  });
}

function selectionButtons() {
  return [
    button("Export TSV", exportSelection, { id: "export", "data-help": EXPORT_HELP }),
    button("Copy link", copyLink),
  ];
}

function compareButton() {
  const toggle = () => {
    state.compare = !state.compare;
    drawPanel();
    find("#compare").focus();
  };
  return button(state.compare ? "Now choose the other model" : "Compare with …", toggle, {
    id: "compare", "aria-pressed": String(state.compare),
  });
}

/** What was made from a model, and the run that it belongs to. */
function relations(row) {
  const made = children.get(row) ?? [];
  const run = payload.runs.find((rows) => rows.includes(row));
  return [
    made.length && make("p", { class: "line" }, "Made from it: ",
      ...made.slice(0, 12).map((child) => modelButton(child)),
      made.length > 12 ? `and ${made.length - 12} more` : ""),
    run && make("p", { class: "line" },
      /\+layer\d+$/.test(names[run[0]]) ? `One of ${run.length} layers of a model. ` : `One of ${run.length} checkpoints of a run. `,
      button("Select them", () => select(run), { class: "link" })),
  ];
}

/** What the way that is shown says of a model. */
function expected(row) {
  const way = wayOf(row);
  return way ? make("p", { class: "way" }, make("b", { text: shownWays().title }), ` ${way.label.at(-1)}`) : null;
}

function neighbour(row, other) {
  const label = `Compare with ${names[other.row]}`;
  return make("li", {},
    modelButton(other.row),
    make("span", { class: "kl", text: withError(other.kl, other.se) }),
    ...flagChips(other.flags), kindChip(row, other.row),
    domains.length > 1 ? sparks(other.parts) : null,
    button("⇄", () => select([row, other.row]), { class: "pairing", title: label, "aria-label": label }));
}

function onePanel(row) {
  const found = nearest(row);
  const apart = found.filter(({ kl }) => kl > 0);
  const mean = domains.map((_, d) => sum(apart.map(({ parts, kl }) => parts[d] / kl)));
  return [
    make("header", { class: "head" }, heading(row), clearButton()),
    added.has(row) ? make("p", { class: "soft" }, term(`Scored on ${scoredOn(row)}`, HELP.added),
      ` (selection ${selection.method}, n=${count(selection.draws)}): its distances have wider errors.`) : null,
    identity([row], MAIN),
    make("details", {}, make("summary", { text: "More about it" }), identity([row], rest()), scores(row)),
    ...relations(row),
    expected(row),
    make("div", { class: "actions" }, K > 1 ? compareButton() : null, knowsAll() && K > 2
      ? button("Colour by distance", () => colorBy(FROM_SELECTED), { "data-help": HELP.distance }) : null),
    make("h3", {}, "Nearest models, ", term("KL", HELP.kl), " ", term("± error", HELP.se), ` in ${UNIT}`),
    found.length ? null : make("p", { class: "soft", text: "There is no other model on this map." }),
    make("ol", { class: "near" }, ...found.map((other) => neighbour(row, other))),
    ...(apart.length && domains.length > 1 ? [
      make("h3", {}, term("Which texts", HELP.domains), " set it apart from them"),
      domainChart(mean, { numbers: false }),
    ] : []),
  ];
}

function pairPanel(row, other) {
  const found = between(row, other);
  const head = make("header", { class: "head" },
    make("div", { class: "both" }, heading(row), heading(other)), clearButton());
  const sides = identity([row, other], [...MAIN, "architecture", "license"]);
  const actions = make("div", { class: "actions" },
    button("Back to the first", () => select([row])), ...selectionButtons());
  if (!found) {
    const text = "The page holds no distance for this pair; kl.h5 beside it may.";
    return [head, make("p", { class: "soft", text }), sides, actions];
  }
  const { kl, se, flags, how, parts, rough } = found;
  const guessed = how === "estimate"
    ? term("estimate", HELP.estimate + accuracy(payload.components.kl_error, "it is"), "chip") : null;
  const coordinates = how === "exact" || payload.components?.exact ? null : payload.components?.error;
  const split = rough || selection
    ? term("estimate", HELP.parts + accuracy(coordinates, "parts are"), "chip") : null;
  return [
    head,
    make("p", { class: "big", id: "pair-kl" },
      make("b", { text: withError(kl, se) }), " ", term(UNIT, HELP.kl)),
    make("p", { class: "line" }, guessed, ...flagChips(flags), kindChip(row, other),
      Number.isFinite(se)
        ? note(`± standard error over ${scoredOn(added.has(row) ? row : other)}`) : null),
    sides,
    ...(parts && domains.length > 1 ? [
      make("h3", {}, term("Which texts", HELP.domains), " set them apart ", split),
      domainChart(parts, { numbers: true }),
    ] : []),
    actions,
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
  const words = largest.map(([name, number]) => `${name} ${count(number)}`);
  const inTable = () => {
    state.onlySelected = true;
    showTable(true);
  };
  const more = () => {
    listed += 100;
    drawPanel();
  };
  return [
    make("header", { class: "head" },
      make("h2", { tabindex: "-1", text: `${plural(rows.length, "model")} selected` }), clearButton()),
    make("p", { class: "line soft", text: [...words, ...(groups.size > 6 ? ["…"] : [])].join(" · ") }),
    make("div", { class: "actions" }, ...selectionButtons(), button("Show in the table", inTable)),
    make("ul", { class: "many" }, ...rows.slice(0, listed).map((row) =>
      make("li", {}, swatch(row), modelButton(row, names[row]), note(summary(row))))),
    rows.length > listed
      ? button(`Show ${count(Math.min(100, rows.length - listed))} more`, more, { class: "more" }) : null,
  ];
}

function panelOf(rows) {
  if (!rows.length) return [];
  if (rows.length === 1) return onePanel(rows[0]);
  return rows.length === 2 ? pairPanel(...rows) : manyPanel(rows);
}

function drawPanel() {
  const rows = state.selected;
  const box = find("#selection");
  const inside = box.contains(document.activeElement);
  find("#about").hidden = rows.length > 0;
  box.hidden = rows.length === 0;
  box.replaceChildren(...panelOf(rows).filter(Boolean));
  // What had the focus is gone; those who use the keyboard go on where the new content begins.
  if (inside) (rows.length ? box.querySelector("h2") : find("#plot")).focus({ preventScroll: true });
}

listen("select", () => {
  listed = 60;
  drawPanel();
  find("#panel").scrollTop = 0;
});
listen("color theme ways", drawPanel);

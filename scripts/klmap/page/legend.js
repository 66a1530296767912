// What the colours mean, and what else is shown: categories that toggle, a scale, switches.

const GROUPS = [
  ["Categories", ({ kind, name, levels }) => kind === "category" && (name !== "likelihood" || levels.length > 1)],
  ["Numbers", ({ kind, task }) => kind === "number" && task === undefined],
  ["Dates", ({ kind }) => kind === "date"],
  ["Benchmark scores", ({ task, predicted }) => task !== undefined && !predicted],
  ["Predicted scores", ({ task, predicted }) => task !== undefined && predicted],
];

function fillColorMenu() {
  const menu = find("#color");
  const groups = GROUPS.map(([label, belongs]) => {
    const own = [...columns.values()].filter(belongs);
    return make("optgroup", { label }, ...own.map(({ name, label: text }) => make("option", { value: name, text })));
  });
  if (knowsAll() && K > 2) {
    groups.push(make("optgroup", { label: "Distance" },
      make("option", { value: FROM_SELECTED, text: "KL from the selected model" })));
  }
  menu.replaceChildren(...groups.filter((group) => group.children.length));
  menu.addEventListener("change", () => colorBy(menu.value));
}

function entryButton({ name, label, color, marker: shape, count: number }) {
  const on = !state.hidden.has(name);
  return make("li", {}, make("button", {
    type: "button", class: "entry", "aria-pressed": String(on), "data-name": name,
    title: `${on ? "Hide" : "Show"} ${label}`, onclick: () => toggleCategory(name),
  }, marker(shape, onPage(color)), make("span", { class: "label", text: label }),
  make("span", { class: "count", text: count(number) })));
}

function colorBar() {
  const { scale } = coloring;
  const stops = Array.from({ length: 13 }, (_, at) => ramp(at / 12));
  const bar = make("div", { class: "ramp" });
  bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  const marks = ticks(scale).map(([place, text]) => {
    const mark = make("span", { text });
    const share = Math.max(0, Math.min(1, scale.along(place)));
    mark.style.left = `${100 * share}%`;
    mark.style.transform = `translateX(${-100 * (share < 0.12 ? 0 : share > 0.88 ? 1 : 0.5)}%)`;
    return mark;
  });
  const notes = [
    state.color === FROM_SELECTED ? "bits/byte" : "",
    scale.log ? "log scale" : "",
    scale.unknown ? `${count(scale.unknown)} unknown (grey)` : "",
  ].filter(Boolean);
  const help = scale.cut ? "The outermost 2 % on either side share the colours of the ends." : null;
  return make("div", { class: "scale", "data-help": help }, bar, make("div", { class: "ticks" }, ...marks),
    notes.length ? make("p", { class: "soft", text: notes.join(" · ") }) : null);
}

/** What a ring on a point means; a click selects these models. */
function ringButton() {
  const ring = drawing("circle", { r: 5, fill: "none", stroke: ink(), "stroke-width": 1.4 });
  return make("button", {
    type: "button", class: "entry", id: "added", "data-name": "@added", onclick: () => select([...added]),
    "data-help": `${HELP.added} A click selects all of them.`,
  }, drawing("svg", { viewBox: "-7 -7 14 14", width: 14, height: 14, "aria-hidden": "true" }, ring),
  make("span", { class: "label", text: `on ${scoredOn([...added][0])}` }),
  make("span", { class: "count", text: count(added.size) }));
}

function showAll() {
  state.hidden.clear();
  tell("hidden");
}

function drawLegend() {
  const box = find("#entries");
  const focused = document.activeElement?.dataset?.name;
  find("#color").value = state.color;
  const label = columns.get(state.color)?.label ?? "KL from the selected model";
  find("#color-name").textContent = label;
  if (coloring.entries) {
    const all = button("Show all", showAll, { class: "link" });
    box.replaceChildren(make("ul", {}, ...coloring.entries.map(entryButton)), state.hidden.size ? all : "");
  } else if (coloring.scale) {
    const needs = state.color === FROM_SELECTED && !state.selected.length;
    const text = "Select a model to see how far all others are from it.";
    box.replaceChildren(needs ? make("p", { class: "soft", text }) : colorBar());
  } else {
    box.replaceChildren();
  }
  if (added.size) box.append(ringButton());
  if (focused === undefined) return;
  for (const entry of box.querySelectorAll(".entry")) if (entry.dataset.name === focused) entry.focus();
}

const SWITCHES = [
  ["lineage", "Lineage", () => payload.parents.length > 0,
    "Arrows lead from a base model to what was made from it, as model cards say."],
  ["runs", "Runs, layers", () => payload.runs.length > 0,
    "Lines join checkpoints of one training run, and layers of one model, in their order."],
  ["ellipses", "95 % ellipses", () => Boolean(payload.ellipses),
    `Where 95 of 100 samples of texts of the same kind would put the model.${
      added.size ? ` Those of ringed models hold the choice of their texts too${
        payload.layout.reference && payload.layout.method.endsWith("tsne") ? ", on top of what the models around them have" : ""}.` : ""}`],
  ["names", "Names", () => true, "Names of categories from afar, of models when near."],
];

function drawSwitches() {
  find("#switches").replaceChildren(...SWITCHES.filter(([, , there]) => there()).map(([name, label, , help]) => {
    const box = make("input", {
      type: "checkbox", role: "switch", "data-switch": name, onchange: () => switchOn(name, box.checked),
    });
    box.checked = state.show[name];
    return make("label", { class: "switch", "data-help": help }, box, make("span", { text: label }));
  }));
}

listen("color hidden theme", drawLegend);
listen("select", () => {
  if (state.color === FROM_SELECTED) drawLegend();
});
listen("show", () => {
  for (const box of document.querySelectorAll("[data-switch]")) box.checked = state.show[box.dataset.switch];
});

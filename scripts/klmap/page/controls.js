// Pointer, keys, buttons and the small window that explains what lies under the pointer.

const tip = find("#tip");

function placeTip(x, y, below = 18) {
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = Math.max(8, Math.min(x + 14, innerWidth - width - 8));
  const top = y + below + height > innerHeight - 8 ? y - height - 12 : y + below;
  tip.style.transform = `translate(${Math.round(left)}px, ${Math.round(Math.max(8, top))}px)`;
}

const hideTip = () => { tip.hidden = true; };

function modelTip(row, x, y) {
  const lines = [
    summary(row),
    cell(BITS, row) === null ? "" : `${cell(BITS, row).toFixed(3)} ${BITS_UNIT}`,
    [shown("dtype", row), shown("revision", row), shown("variant", row)].filter(Boolean).join(" · "),
    added.has(row) ? `scored on ${scoredOn(row)}` : "",
    shown("base_model", row) ? `from ${shown("base_model", row)}` : "",
  ];
  if (state.selected.length === 1 && state.selected[0] !== row) {
    const found = between(state.selected[0], row);
    if (found) lines.push(`KL ${withError(found.kl, found.se)} bits/byte from the selected`);
  }
  const extra = columns.get(state.color);
  if (extra && !["family", "parameters", "created_at", BITS, "dtype", "base_model"].includes(extra.name)) {
    lines.push(`${extra.label}: ${shown(extra.name, row) || "unknown"}`);
  }
  const way = wayOf(row);
  if (way) lines.push(`${shownWays().title}: ${way.label.at(-1)}`);
  const texts = lines.filter(Boolean).map((text) => make("span", { text }));
  tip.replaceChildren(make("b", { text: names[row] }), ...texts);
  placeTip(x, y);
}

/** What a way says of the step that is nearest to the pointer. */
function wayTip({ name, row, label, step }, x, y) {
  tip.replaceChildren(make("b", { text: row < K ? name : `${name} (off the map)` }),
    make("span", { text: shownWays().title }), make("span", { text: label[step] }));
  placeTip(x, y);
}

function openPointer() {
  const host = find("#plot");
  let last = null;
  let dismissed = -1;
  const look = everyFrame(() => {
    if (!last) return;
    const box = host.getBoundingClientRect();
    const at = [last.clientX - box.left, last.clientY - box.top];
    const row = under(...at);
    const way = row < 0 ? wayUnder(...at) : null;
    hover(way ? way.row : row);
    host.classList.toggle("pointing", row >= 0 || way !== null);
    if (row !== dismissed) dismissed = -1;
    if (way) wayTip(way, last.clientX, last.clientY);
    else if (row >= 0 && row !== dismissed) modelTip(row, last.clientX, last.clientY);
    else hideTip();
  });
  // The panel says more of a model that was just chosen than the tip, which would hide its neighbours.
  listen("select", () => { dismissed = state.selected.at(-1) ?? -1; hideTip(); });
  host.addEventListener("pointermove", (event) => {
    if (event.pointerType === "touch") return;
    last = event.buttons ? null : event;
    if (last) look();
    else hideTip();
  });
  host.addEventListener("pointerleave", () => { last = null; hover(-1); hideTip(); });
  const helped = (event) => {
    const owner = event.target.closest?.("[data-help]");
    if (!owner) return;
    tip.replaceChildren(make("span", { text: owner.dataset.help }));
    const box = owner.getBoundingClientRect();
    placeTip(box.left - 14, box.bottom, 8);
  };
  for (const name of ["mouseover", "focusin"]) document.addEventListener(name, helped);
  for (const name of ["mouseout", "focusout"]) {
    document.addEventListener(name, (event) => { if (event.target.closest?.("[data-help]")) hideTip(); });
  }
}

const TOOLS = ["pan", "box", "lasso"];

function useTool(name) {
  const { document: doc } = map.plot;
  map.plot.toolbar.active_drag = doc.get_model_by_name(name);
  for (const tool of TOOLS) {
    doc.get_model_by_name(tool).active = tool === name;
    find(`#tool-${tool}`).setAttribute("aria-pressed", String(tool === name));
  }
  find("#plot").dataset.tool = name;
}

function openButtons() {
  for (const tool of TOOLS) find(`#tool-${tool}`).addEventListener("click", () => useTool(tool));
  find("#zoom-in").addEventListener("click", () => zoom(1.5));
  find("#zoom-out").addEventListener("click", () => zoom(1 / 1.5));
  find("#zoom-all").addEventListener("click", reset);
  find("#link").addEventListener("click", copyLink);
  find("#theme").addEventListener("click", () => chooseTheme(dark() ? "light" : "dark"));
  find("#keys").addEventListener("click", toggleKeys);
  find("#legend").addEventListener("toggle", () => { if (home) reset(); });
}

function chooseTheme(name) {
  document.documentElement.dataset.theme = name;
  try {
    localStorage.setItem("klmap-theme", name);
  } catch {
    // Without storage the choice lasts as long as the page.
  }
  tell("theme");
}

function rememberedTheme() {
  try {
    const name = localStorage.getItem("klmap-theme");
    if (name === "light" || name === "dark") document.documentElement.dataset.theme = name;
  } catch {
    // As above.
  }
}

function toggleKeys() {
  const box = find("#help");
  if (box.open) box.close();
  else box.showModal();
}

function escape() {
  if (find("#help").open) return;
  if (state.compare) { state.compare = false; drawPanel(); }
  else if (state.query) leaveSearch();
  else if (state.selected.length) select([]);
  hideTip();
}

function openKeys() {
  const inMap = {
    ArrowLeft: () => move(-1, 0), ArrowRight: () => move(1, 0),
    ArrowUp: () => move(0, 1), ArrowDown: () => move(0, -1),
  };
  const anywhere = {
    "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: reset, "?": toggleKeys,
  };
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.metaKey || event.ctrlKey) return;
    if (event.key === "Escape") return escape();
    if (event.target.closest("input:not([type=checkbox]), select, textarea, dialog")) return undefined;
    if (event.key === "/") {
      event.preventDefault();
      find("#search").focus();
      find("#search").select();
      return undefined;
    }
    const act = (event.target.closest("#plot") ? inMap[event.key] : null) ?? anywhere[event.key];
    if (!act) return undefined;
    event.preventDefault();
    return act();
  });
  find("#plot").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    const { width, height } = frame();
    const row = under(width / 2, height / 2, Math.max(width, height));
    if (row >= 0) pick(row, event.shiftKey);
  });
}

// The search field and its list of hits: arrow keys walk, Enter selects, Escape leaves.

const MOST_HITS = 40;
let active = -1;

function hitButtons() {
  return [...document.querySelectorAll("#hits [role=option]")];
}

function hitsInWords() {
  const { length } = state.hits;
  if (!length) return "No model has all these words in its name, id, family, architecture or licence.";
  return length > MOST_HITS ? `and ${count(length - MOST_HITS)} more` : "";
}

function drawHits() {
  const list = find("#hits");
  const field = find("#search");
  const open = state.hits !== null && document.activeElement === field;
  active = -1;
  field.removeAttribute("aria-activedescendant");
  field.setAttribute("aria-expanded", String(open));
  list.hidden = !open;
  find("#clear").hidden = state.query === "";
  if (!open) return;
  const rows = state.hits.slice(0, MOST_HITS);
  list.replaceChildren(...rows.map((row, at) => make("div", {
    role: "option", id: `hit-${at}`, "aria-selected": "false", "data-row": row,
    onmousedown: (event) => { event.preventDefault(); choose(row, event.shiftKey || event.ctrlKey); },
    onmouseenter: () => hover(row), onmouseleave: () => hover(-1),
  }, swatch(row), make("span", { class: "label", text: names[row] }), note(summary(row)))),
  make("p", { class: "soft", text: hitsInWords() }));
}

function walk(step) {
  const options = hitButtons();
  if (!options.length) return;
  active = (active + step + options.length) % options.length;
  options.forEach((option, at) => option.setAttribute("aria-selected", String(at === active)));
  options[active].scrollIntoView({ block: "nearest" });
  find("#search").setAttribute("aria-activedescendant", `hit-${active}`);
  hover(Number(options[active].dataset.row));
}

function choose(row, more = false) {
  find("#hits").hidden = true;
  find("#search").setAttribute("aria-expanded", "false");
  hover(-1);
  pick(row, more);
  bringIntoView(state.selected.slice(0, 2));
}

function leaveSearch() {
  find("#search").value = "";
  hover(-1);
  searchFor("");
}

function openSearch() {
  const field = find("#search");
  field.addEventListener("input", () => {
    searchFor(field.value);
    announce(state.hits ? `${plural(state.hits.length, "hit")}.` : "");
  });
  field.addEventListener("focus", drawHits);
  field.addEventListener("blur", () => { hover(-1); drawHits(); });
  field.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      walk(event.key === "ArrowDown" ? 1 : -1);
    } else if (event.key === "Enter" && state.hits?.length) {
      event.preventDefault();
      choose(state.hits[Math.max(0, active)], event.shiftKey || event.ctrlKey);
    } else if (event.key === "Escape") {
      event.stopPropagation();
      if (state.query) leaveSearch();
      else field.blur();
    }
  });
  find("#clear").addEventListener("click", () => { leaveSearch(); field.focus(); });
}

listen("hits", drawHits);

// Puts the page together, and says when it can be used.

async function start() {
  rememberedTheme();
  fillColorMenu();
  drawSwitches();
  openWays();
  openSearch();
  openTable();
  await openPlot();
  reset();
  openButtons();
  openPointer();
  openKeys();

  const paintSoon = everyFrame(paint);
  const nameSoon = afterwards(paintNames, 60);
  listen("select hits color hidden show ways theme", () => { paintSoon(); nameSoon(); });
  listen("hover", everyFrame(paintRings));
  listen("view", () => {
    home = atHome();
    kept = looking();
    resizePoints();
    resizeEnds();
    drawRuler();
    nameSoon();
  });

  if (!matchMedia("(max-width: 720px)").matches) find("#legend").open = true;
  restore();
  drawPanel();
  paint();
  paintNames();
  drawRuler();
  useTool("pan");
  openAddress();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => tell("theme"));
  document.documentElement.dataset.ready = "yes";
  window.klmap = Object.freeze({
    ready: performance.now(),
    models: K,
    where: (name) => {
      const box = find("#plot").getBoundingClientRect();
      const { x, y } = onScreen(rowOf.get(name));
      return { x: box.left + x, y: box.top + y };
    },
    color: (name) => coloring.colors[rowOf.get(name)],
    shown: (layer) => source(layer).get_length() ?? 0,
    selected: () => state.selected.map((row) => names[row]),
    scales: () => {
      const { width, height } = map.view.frame.bbox;
      const { x_range, y_range } = map.plot;
      return { x: (x_range.end - x_range.start) / width, y: (y_range.end - y_range.start) / height };
    },
  });
}

start().catch((error) => {
  find("#plot").textContent = "The map cannot be drawn in this browser. Its tables lie beside this page.";
  throw error;
});

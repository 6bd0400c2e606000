"use strict";
// The bar of controls, the first drawing, and the reload of a page that is watched.
function longest() {
  return Math.max(0, ...page.charts.flatMap((chart) => chart.series.map((one) => one.x.length)));
}

function drawBar() {
  const bar = document.getElementById("bar");
  const slider = element("input", ""),
    shown = element("output", "");
  slider.id = "smoothing";
  Object.assign(slider, { type: "range", min: 0, max: 0.99, step: 0.01, value: settings.smoothing });
  const tell = () => {
    shown.textContent = settings.smoothing ? settings.smoothing.toFixed(2) : "none";
  };
  slider.addEventListener("input", () => {
    settings.smoothing = Number(slider.value);
    tell();
    redraw();
  });
  tell();
  bar.append(element("label", "", "Smoothing ", slider, " ", shown));
  page.runs.forEach((run, at) => {
    const box = element("input", "");
    Object.assign(box, { type: "checkbox", checked: !isHidden(at) });
    box.addEventListener("change", () => {
      settings.hidden = settings.hidden.filter((name) => name !== run.name).concat(box.checked ? [] : [run.name]);
      redraw();
    });
    bar.append(element("label", "", box, " ", swatch(at), run.name));
  });
  bar.append(element("small", "", "drag in a chart to zoom, double-click to see all"));
}

function reloadAgain() {
  setInterval(() => {
    if (document.hidden) return;
    settings.scroll = window.scrollY;
    keep();
    location.reload();
  }, 1000 * page.refresh);
}

if (settings.smoothing === null) settings.smoothing = longest() > 200 ? 0.9 : 0;
for (const place of document.querySelectorAll(".swatch[data-run]"))
  place.style.background = colour(Number(place.dataset.run));
if (page.runs.length) drawBar();
drawCharts();
drawHeatmaps();
if (page.refresh) {
  window.scrollTo(0, settings.scroll);
  reloadAgain();
}
document.body.dataset.drawn = "true";

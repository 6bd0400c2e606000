"use strict";
// What all parts of the page share: its data, what the reader has set, and how numbers and elements are made.
const page = JSON.parse(document.getElementById("data").textContent);
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933"];
const settings = Object.assign({ smoothing: null, hidden: [], quantity: 0, pair: 0, scroll: 0 }, history.state);

function keep() {
  // In the history entry, which a reload keeps: storage is not there for pages of the file system in every browser.
  history.replaceState(settings, "");
}

function colour(run) {
  return COLOURS[run % COLOURS.length];
}

function number(value) {
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (size >= 1e7 || size < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e");
  return size >= 1e4 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
}

function percent(value) {
  return `${value < 1e-9 ? 0 : Number((100 * value).toPrecision(value < 0.01 ? 2 : 3))} %`;
}

/** A new element; whatever runs hold becomes text, never markup. */
function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function swatch(run) {
  const made = element("span", "swatch");
  made.style.background = colour(run);
  return made;
}

const redraws = [];

function redraw() {
  keep();
  for (const one of redraws) one();
}

function isHidden(run) {
  return settings.hidden.includes(page.runs[run].name);
}

"use strict";
// Metrics over the steps: a chart each, all runs on its axes, one cursor for all charts.
const HEIGHT = 250;
const DASHES = [[], [7, 4], [2, 3]];
const MARKS = ["line", "line dashed", "line dotted"]; // as the dashes
const MOST_DOTS = 60; // more would be a thick line
const plots = [];

/** Exponential moving average, without the pull of its start (as TensorBoard's). */
function smoothed(values, weight) {
  let sum = 0,
    whole = 0;
  return values.map((value) => {
    sum = weight * sum + (1 - weight) * value;
    whole = weight * whole + (1 - weight);
    return sum / whole;
  });
}

function xAxis() {
  return {
    stroke: "#444",
    grid: { show: false },
    ticks: { stroke: "#ccc" },
    size: 34,
    values: (_, all) => all.map((value) => (Number.isInteger(value) ? stepName(value) : "")),
  };
}

/** Means of long runs lie between steps. */
function stepName(value) {
  return Math.round(value).toLocaleString("en");
}

function cursor(dataIdx) {
  return {
    sync: { key: "step", setSeries: false, scales: ["x", null] },
    focus: { prox: -1 },
    ...(dataIdx && { dataIdx }),
  };
}

/** The same steps in every chart, unless the reader has zoomed. */
function allSteps(plot, low, high) {
  const steps = plot.data[0];
  const zoomed = low > steps[0] || high < steps[steps.length - 1];
  return zoomed ? [low, high] : [page.steps[0], Math.max(page.steps[1], page.steps[0] + 1)];
}

/** From 0: all of it, or as much as small shares need. */
function shareRange(_, low, high) {
  const top = high > 0.4 ? 1.03 : Math.max(0.01, 1.2 * high);
  return [-0.03 * top, top];
}

/** The nearest point that a series has of its own: runs and evaluations have other steps. */
function nearest(plot, series, index, x) {
  const steps = plot.data[0],
    values = plot.data[series];
  let before = index,
    after = index;
  while (before >= 0 && values[before] == null) before--;
  while (after < values.length && values[after] == null) after++;
  if (before < 0) return after < values.length ? after : index;
  if (after >= values.length) return before;
  return x - steps[before] <= steps[after] - x ? before : after;
}

class Chart {
  constructor(chart, place) {
    this.chart = chart;
    this.show = chart.percent ? percent : number;
    this.step = element("small", "");
    const figure = element(
      "figure",
      "",
      element("figcaption", "", element("span", "", chart.title, element("small", "", ` ${chart.unit}`)), this.step),
    );
    place.append(figure);
    this.figure = figure;
    this.plot = new uPlot(this.options(), this.data(), figure);
    this.table();
    plots.push(this.plot);
    this.visible();
    this.values();
    redraws.push(() => this.redraw());
  }

  options() {
    const series = [{}];
    for (const one of this.chart.series) {
      const stroke = colour(one.run);
      series.push({
        stroke,
        width: one.heldout ? 2 : 1.6,
        dash: DASHES[one.line % DASHES.length],
        spanGaps: true,
        points: { show: (one.heldout && one.x.length <= MOST_DOTS) || one.x.length === 1, size: 7, fill: stroke },
      });
      series.push({
        stroke,
        alpha: 0.25,
        width: 1,
        dash: DASHES[one.line % DASHES.length],
        spanGaps: true,
        points: { show: false },
      });
    }
    return {
      width: this.figure.clientWidth,
      height: HEIGHT,
      series,
      legend: { show: false },
      cursor: { ...cursor(nearest), points: { size: (_, at) => (at % 2 ? 7 : 0) } },
      scales: { x: { time: false, range: allSteps }, y: this.chart.percent ? { range: shareRange } : {} },
      axes: [
        xAxis(),
        {
          stroke: "#444",
          grid: { stroke: "#e4e4e4", width: 1 },
          ticks: { show: false },
          size: 62,
          values: (_, all) => all.map((value) => (value == null ? "" : this.show(value))),
        },
      ],
      hooks: { setCursor: [() => this.values()], draw: [(plot) => this.intervals(plot)] },
    };
  }

  /** Of each series what is drawn in full, and what faintly behind it. */
  data() {
    const tables = [];
    for (const one of this.chart.series) {
      const means = one.means || one;
      const weight = one.heldout ? 0 : settings.smoothing;
      const smooth = weight > 0 || Boolean(one.means);
      tables.push([means.x, weight > 0 ? smoothed(means.y, weight) : means.y]);
      tables.push(smooth ? [one.x, one.y] : [[], []]);
    }
    return uPlot.join(tables);
  }

  redraw() {
    const { min, max } = this.plot.scales.x;
    this.plot.setData(this.data(), false);
    this.plot.setScale("x", { min, max });
    this.visible();
    this.values();
  }

  visible() {
    this.chart.series.forEach((one, place) => {
      for (const index of [2 * place + 1, 2 * place + 2])
        this.plot.setSeries(index, { show: !isHidden(one.run) }, false);
    });
    for (const row of this.figure.querySelectorAll("tr")) {
      this.columns.forEach((run, at) => {
        row.children[at + 1].hidden = isHidden(run);
      });
    }
  }

  /** Under the axes: a column for each run, a row for each kind of line. */
  table() {
    this.columns = [...new Set(this.chart.series.map((one) => one.run))];
    const head = element("tr", "", element("th", ""));
    for (const run of this.columns) {
      head.append(element("th", "", swatch(run), page.runs[run].name));
    }
    const table = element("table", "values", head);
    table.style.minWidth = `${11.5 + 5 * this.columns.length}rem`;
    const kinds = [...new Set(this.chart.series.map((one) => `${one.line} ${one.heldout}`))].sort();
    for (const kind of kinds) {
      const [line, heldout] = kind.split(" ");
      const mark = element("span", MARKS[line % MARKS.length]);
      if (heldout === "true") mark.append(element("span", "dot"));
      const row = element("tr", "", element("th", "", mark, this.label(line, heldout === "true")));
      for (const run of this.columns) {
        const cell = element("td", "");
        const place = this.chart.series.findIndex((one) => one.run === run && `${one.line} ${one.heldout}` === kind);
        if (place >= 0) cell.dataset.series = place;
        row.append(cell);
      }
      table.append(row);
    }
    this.figure.append(element("div", "wide", table));
  }

  label(line, heldout) {
    if (this.chart.lines.length === 1) return heldout ? "held out" : "training";
    return this.chart.lines[line] + (heldout ? ", held out" : "");
  }

  /** The numbers under the cursor, or the last ones. */
  values() {
    if (!this.columns) return; // uPlot sets its cursor before there is a table
    const { plot } = this;
    const hovered = plot.cursor.idx != null && plot.cursor.left >= 0;
    this.step.textContent = hovered ? `step ${stepName(plot.data[0][plot.cursor.idx])}` : "";
    for (const cell of this.figure.querySelectorAll("td[data-series]")) {
      const place = Number(cell.dataset.series),
        index = 2 * place + 1;
      const values = plot.data[index];
      const at = hovered
        ? nearest(plot, index, plot.cursor.idx, plot.data[0][plot.cursor.idx])
        : values.findLastIndex((value) => value != null);
      const other = hovered && at !== plot.cursor.idx ? ` @${stepName(plot.data[0][at])}` : "";
      cell.textContent =
        at >= 0 && values[at] != null ? this.words(this.chart.series[place], plot.data[0][at], values[at]) + other : "";
    }
  }

  words(series, step, value) {
    const text = this.show(value);
    const place = series.pairs ? series.x.indexOf(step) : -1;
    if (place < 0 || !series.pairs[place]) return text;
    return `${text} of ${series.pairs[place]} pairs (${percent(series.low[place])} to ${percent(series.high[place])})`;
  }

  /** 95 % intervals of held-out accuracies, as bars. */
  intervals(plot) {
    const { ctx } = plot;
    this.chart.series.forEach((one) => {
      if (!one.low || isHidden(one.run)) return;
      ctx.save();
      ctx.strokeStyle = colour(one.run);
      ctx.globalAlpha = 0.7;
      ctx.lineWidth = 1.5 * uPlot.pxRatio;
      ctx.setLineDash([]);
      ctx.beginPath();
      one.x.forEach((step, place) => {
        if (step < plot.scales.x.min || step > plot.scales.x.max || one.low[place] == null) return;
        // Runs that are evaluated at the same steps would hide each other's bars.
        const x = plot.valToPos(step, "x", true) + 3 * one.run * uPlot.pxRatio;
        ctx.moveTo(x, plot.valToPos(one.low[place], "y", true));
        ctx.lineTo(x, plot.valToPos(one.high[place], "y", true));
      });
      ctx.stroke();
      ctx.restore();
    });
  }
}

function drawCharts() {
  for (const chart of page.charts) new Chart(chart, document.getElementById(chart.place));
  for (const one of page.histograms) new Histogram(one, document.getElementById(one.place));
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth !== width) fit();
    width = window.innerWidth;
  });
  const rest = document.getElementById("other-metrics");
  if (rest) rest.addEventListener("toggle", fit); // what is folded up has no width
}

function fit() {
  for (const plot of plots) plot.setSize({ width: plot.root.parentElement.clientWidth, height: plot.height });
}

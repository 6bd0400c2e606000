"use strict";
// Mask histograms over the steps, on the charts' axes and with their cursor.

/** One mask of one run: the share of tokens in each bin, over the steps. */
class Histogram {
  constructor(one, place) {
    this.one = one;
    this.totals = one.counts.map((column) =>
      Math.max(
        1,
        column.reduce((sum, count) => sum + count, 0),
      ),
    );
    this.most = Math.max(1e-9, ...one.counts.map((column, at) => Math.max(...column) / this.totals[at]));
    this.said = element("p", "note");
    const scale = element("small", "", "0", element("span", "scale"), percent(this.most));
    this.figure = element(
      "figure",
      "",
      element("figcaption", "", element("span", "", swatch(one.run), page.runs[one.run].name), scale),
    );
    place.append(this.figure);
    const [low, high] = one.bins;
    this.plot = new uPlot(
      {
        width: this.figure.clientWidth,
        height: HEIGHT + 30,
        legend: { show: false },
        cursor: { ...cursor(), points: { show: false } },
        series: [{}, { show: true, stroke: "transparent", points: { show: false } }],
        scales: {
          x: { time: false, range: (plot, min, max) => this.range(plot, min, max) },
          y: { range: [low - 0.5, high - 0.5] },
        },
        axes: [
          xAxis(),
          {
            stroke: "#444",
            grid: { show: false },
            ticks: { show: false },
            size: 62,
            gap: 4,
            font: "11px system-ui",
            splits: () => Array.from({ length: high - low }, (_, at) => low + at),
            values: (_, all) => all.map((bin) => page.bins[bin]),
          },
        ],
        hooks: { drawClear: [(plot) => this.paint(plot)], setCursor: [() => this.say()] },
      },
      [one.steps, one.steps.map(() => low)],
      this.figure,
    );
    this.figure.append(this.said);
    plots.push(this.plot);
    this.say();
    redraws.push(() => {
      this.figure.hidden = isHidden(one.run);
    });
    this.figure.hidden = isHidden(one.run);
  }

  range(plot, low, high) {
    const { steps } = this.one;
    const [from, to] = allSteps(plot, low, high);
    const zoomed = low > steps[0] || high < steps[steps.length - 1];
    return zoomed ? [low, high] : [Math.min(from, this.edge(0)), Math.max(to, this.edge(steps.length))];
  }

  /** Where a column begins: columns stand around their steps, so that the nearest step is the one pointed at. */
  edge(at) {
    const { steps } = this.one,
      { length } = steps;
    if (at > 0 && at < length) return (steps[at - 1] + steps[at]) / 2;
    const half = length > 1 ? (at ? steps[length - 1] - steps[length - 2] : steps[1] - steps[0]) / 2 : 0.5;
    return at ? steps[length - 1] + half : steps[0] - half;
  }

  paint(plot) {
    const { ctx, bbox } = plot;
    const [low, high] = this.one.bins;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    this.one.counts.forEach((column, at) => {
      const left = plot.valToPos(this.edge(at), "x", true);
      const right = plot.valToPos(this.edge(at + 1), "x", true);
      for (let bin = low; bin < high; bin++) {
        const share = column[bin] / this.totals[at] / this.most;
        if (!share) continue;
        ctx.fillStyle = `rgba(0,109,44,${share.toFixed(3)})`;
        const top = plot.valToPos(bin + 0.5, "y", true);
        ctx.fillRect(left, top, right - left + 0.5, plot.valToPos(bin - 0.5, "y", true) - top);
      }
    });
    ctx.restore();
  }

  say() {
    if (!this.plot) return;
    const { cursor: at } = this.plot;
    const hovered = at.idx != null && at.left >= 0;
    const column = hovered ? at.idx : this.one.steps.length - 1;
    const bin = hovered && at.top >= 0 ? Math.round(this.plot.posToVal(at.top, "y")) : 1;
    const count = this.one.counts[column][bin] || 0;
    const of = this.one.counts[column].reduce((sum, one) => sum + one, 0);
    const share = `${percent(count / this.totals[column])} of ${of.toLocaleString("en")} tokens`;
    this.said.textContent = `step ${stepName(this.one.steps[column])}, ${page.bins[bin]}: ${share}`;
  }
}

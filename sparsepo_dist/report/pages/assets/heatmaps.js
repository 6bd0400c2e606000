"use strict";
// Tokens of the same response under several runs, beside each other: coloured by one quantity, all numbers on hover.
const WHITE = [255, 255, 255],
  BLUE = [0, 114, 178],
  ORANGE = [213, 94, 0],
  GREEN = [0, 128, 96];

function tokenColour(value, scale, signed) {
  const strength = scale && Number.isFinite(value) ? Math.min(1, Math.abs(value) / scale) : 0;
  const end = signed ? (value > 0 ? BLUE : ORANGE) : GREEN;
  return WHITE.map((from, at) => Math.round(from + (end[at] - from) * strength));
}

function isDark(rgb) {
  const [red, green, blue] = rgb.map((part) =>
    part <= 10 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4,
  );
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.4;
}

function visibleText(token) {
  const turning = (mark) => `\u27e8U+${mark.charCodeAt(0).toString(16).toUpperCase()}\u27e9`;
  return token.replace(/[\u202a-\u202e\u2066-\u2069]/g, turning).replace(/\n/g, "\u21b5\n")
    .replace(/\t/g, "\u21e5") || "\u2205";
}

/** The greatest number of a quantity in a pair, over both responses and all runs: colours can be compared. */
function scaleOf(pair, name) {
  let most = 0;
  for (const response of pair.responses) {
    for (const under of response.runs) {
      for (const value of under.values[name] || []) if (Number.isFinite(value)) most = Math.max(most, Math.abs(value));
    }
  }
  return most;
}

function tokenSpan(response, under, at, quantity, scale) {
  const value = under.values[quantity.name][at];
  const rgb = tokenColour(value, scale, quantity.signed);
  const span = element("span", value === 0 ? "zero" : "", visibleText(response.tokens[at]));
  span.style.background = `rgb(${rgb})`;
  span.style.color = isDark(rgb) ? "#fff" : "#000";
  span.dataset.at = at;
  span.title = page.quantities
    .filter((one) => under.values[one.name])
    .map((one) => `${one.title}: ${under.values[one.name][at] == null ? "none" : number(under.values[one.name][at])}`)
    .join("\n");
  return span;
}

function tokensUnder(response, under, quantity, scale) {
  const box = element("div", "", element("div", "", swatch(under.run), page.runs[under.run].name));
  const values = under.values[quantity.name];
  if (!values) {
    box.append(element("p", "note", "not measured"));
    return box;
  }
  const zeros = values.filter((value) => value === 0).length;
  box.firstChild.append(element("small", "", ` ${zeros} of ${values.length} tokens exactly 0`));
  const tokens = element("p", "tokens", ...values.map((_, at) => tokenSpan(response, under, at, quantity, scale)));
  tokens.dataset.run = under.run;
  box.append(tokens);
  return box;
}

/** Point at the same token under the other runs. */
function pointAtSame(side) {
  const mark = (event, on) => {
    const { at } = event.target.dataset;
    if (at === undefined) return;
    for (const span of side.querySelectorAll(`[data-at="${at}"]`)) span.classList.toggle("same", on);
  };
  side.addEventListener("mouseover", (event) => mark(event, true));
  side.addEventListener("mouseout", (event) => mark(event, false));
}

function drawPair(place) {
  const pair = page.pairs[settings.pair],
    quantity = page.quantities[settings.quantity];
  const scale = scaleOf(pair, quantity.name);
  place.replaceChildren(element("p", "prompt", pair.prompt));
  const low = quantity.signed ? -scale : 0;
  place.append(
    element(
      "p",
      "note",
      `${quantity.title}: white is 0; ${number(low)} to ${number(scale)} ${quantity.unit} in this pair`,
    ),
  );
  for (const response of pair.responses) {
    place.append(element("h3", "", response.branch));
    const side = element(
      "div",
      "side",
      ...response.runs
        .filter((under) => !isHidden(under.run))
        .map((under) => tokensUnder(response, under, quantity, scale)),
    );
    pointAtSame(side);
    place.append(side);
  }
}

function choice(label, names, key) {
  const select = element("select", "", ...names.map((name) => element("option", "", name)));
  settings[key] = Math.min(settings[key], names.length - 1);
  select.selectedIndex = settings[key];
  select.id = key;
  select.addEventListener("change", () => {
    settings[key] = select.selectedIndex;
    redraw();
  });
  return element("label", "", `${label} `, select, " ");
}

function drawHeatmaps() {
  const place = document.getElementById("heatmaps");
  if (!place) return;
  const shown = element("div", "");
  place.append(
    choice(
      "Pair",
      page.pairs.map((_, at) => `${at + 1} of ${page.pairs.length}`),
      "pair",
    ),
  );
  place.append(
    choice(
      "Coloured by",
      page.quantities.map((one) => one.title),
      "quantity",
    ),
    shown,
  );
  redraws.push(() => drawPair(shown));
  drawPair(shown);
}

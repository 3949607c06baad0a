// A line chart in SVG: bands, smoothing with the raw trace behind it, a readout under the pointer or the arrow keys.

import { download, csv, lineRows, png } from "./export.js";
import { h, number, svg } from "./dom.js";
import { explore } from "./explore.js";

const WIDTH = 460, HEIGHT = 220, LEFT = 46, RIGHT = 10, TOP = 8, BOTTOM = 22;

/** Exponential moving average of [x, y] points, its start corrected for the missing past; weight 0: as they are. */
export function smooth(points, weight) {
  let total = 0, norm = 0;
  return points.map(([x, y]) => {
    total = weight * total + y;
    norm = weight * norm + 1;
    return [x, total / norm];
  });
}

/** Round numbers from `low` to `high`, about `count` of them. */
export function ticks(low, high, count = 4) {
  const span = high - low || 1;
  const power = 10 ** Math.floor(Math.log10(span / count));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => span / size <= count) || span;
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(Math.abs(value) < step * 1e-9 ? 0 : value);
  return found;
}

/** Powers of ten from `low` to `high` (logarithms); where there are too few of them, round numbers in between. */
function logTicks(low, high) {
  const found = [];
  for (let power = Math.ceil(low); power <= Math.floor(high); power += 1) found.push(power);
  return found.length > 1 ? found : ticks(10 ** low, 10 ** high).filter((value) => value > 0).map(Math.log10);
}

function bounds(lines) {
  let left = Infinity, right = -Infinity, low = Infinity, high = -Infinity;
  const reach = (x, bottom, top) => {
    left = Math.min(left, x);
    right = Math.max(right, x);
    low = Math.min(low, bottom);
    high = Math.max(high, top);
  };
  for (const line of lines) {
    for (const [x, y] of line.shown) reach(x, y, y);
    for (const [x, bottom, top] of line.band || []) reach(x, bottom, top);
  }
  const isFlat = high - low <= 1e-9 * Math.abs(high);
  const margin = (isFlat ? 0 : (high - low) * 0.06) || Math.max(Math.abs(high) * 0.1, 0.05);
  return { left, right: right > left ? right : left + 1, low: low >= 0 ? Math.max(0, low - margin) : low - margin, high: high + margin };
}

/** On a logarithmic axis there is nothing at or below 0. */
function logarithms(line) {
  const kept = line.shown.map(([, y], index) => (y > 0 ? index : -1)).filter((index) => index >= 0);
  const of = (points) => (points.length ? kept.map((index) => [points[index][0], Math.log10(points[index][1]), points[index][2]]) : []);
  const band = (line.band || []).filter(([, low]) => low > 0).map(([x, low, high]) => [x, Math.log10(low), Math.log10(high)]);
  return { ...line, shown: of(line.shown), raw: of(line.raw), band, points: kept.map((index) => line.points[index]) };
}

/**
 * A chart of `lines`: {name, colour, dash, points: [[x, y, step], …], band: [[x, low, high], …]}.
 * `note` says what was done to the points before. `clicked(step, name)` is told the step and the line nearest to a click; `xText` writes a value of the x axis.
 */
export function chart({ title, description, unit, lines, weight, xText, clicked, isLog = false, note = "" }) {
  const smoothed = lines.filter((line) => line.points.length)
    .map((line) => ({ ...line, shown: smooth(line.points, weight), raw: weight > 0 ? line.points : [] }));
  const drawn = isLog ? smoothed.map(logarithms).filter((line) => line.shown.length) : smoothed;
  const caption = h("figcaption", { title: description }, title, unit && unit !== "1" ? h("small", {}, ` ${unit.replace(/[{}]/g, "")}`) : null,
    drawn.length && (note || weight > 0) ? h("small", {}, `, ${note || `smoothed ${weight}`}`) : null);
  const facts = { class: "chart", "data-series": title, "data-points": drawn.reduce((sum, line) => sum + line.points.length, 0) };
  if (!drawn.length) return h("figure", { ...facts, class: "chart empty" }, caption, h("p", {}, isLog && smoothed.length ? "nothing above 0" : "nothing yet"));
  const box = isLog ? { ...bounds(drawn), low: Math.min(...drawn.flatMap((line) => line.shown.map(([, y]) => y))) - 0.05 } : bounds(drawn);
  const x = (value) => LEFT + ((value - box.left) / (box.right - box.left)) * (WIDTH - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - ((value - box.low) / (box.high - box.low)) * (HEIGHT - TOP - BOTTOM);
  const yText = (value) => number(isLog ? 10 ** value : value);
  const canvas = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "application", "aria-roledescription": "chart", tabindex: 0,
    "aria-label": `${title}: arrow keys walk along the steps, up and down choose a line${clicked ? ", Enter opens its groups" : ""}` },
    axes(box, x, y, xText, yText, isLog), drawn.map((line) => [area(line, x, y), path(line.raw, line, x, (value) => Math.max(TOP, Math.min(HEIGHT - BOTTOM, y(value))), "raw"), path(line.shown, line, x, y, "line")]));
  const readout = h("output", { class: "readout", hidden: true });
  const valueAt = (px) => box.left + ((px - LEFT) / (WIDTH - LEFT - RIGHT)) * (box.right - box.left);
  explore(canvas, readout, drawn, { frame: { width: WIDTH, height: HEIGHT, top: TOP, bottom: HEIGHT - BOTTOM }, valueAt, x, y, xText, yText, clicked });
  const file = title.replaceAll("/", "-");
  const exports = h("span", { class: "exports" }, h("button", { class: "small", "aria-label": `${title} as CSV`, "data-export": "csv", onclick: () => download(`${file}.csv`, csv(lineRows(lines)), "text/csv") }, "CSV"),
    h("button", { class: "small", "aria-label": `${title} as PNG`, "data-export": "png", onclick: async () => download(`${file}.png`, await png(canvas)) }, "PNG"));
  caption.append(exports);
  return h("figure", facts, caption, h("div", { class: "plot" }, canvas, readout));
}

function axes(box, x, y, xText, yText, isLog) {
  return svg("g", { class: "axes", "aria-hidden": "true" },
    (isLog ? logTicks(box.low, box.high) : ticks(box.low, box.high)).map((value) => [
      svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }),
      svg("text", { x: LEFT - 5, y: y(value) + 4, "text-anchor": "end" }, yText(value)),
    ]),
    ticks(box.left, box.right, 5).map((value) => svg("text", { x: x(value), y: HEIGHT - 6, "text-anchor": "middle" }, xText(value))));
}

const through = (points, x, y) => points.map(([px, py], index) => `${index ? "L" : "M"}${x(px).toFixed(1)} ${y(py).toFixed(1)}`).join("");

function path(all, line, x, y, kind) {
  const points = all.filter(([, py]) => Number.isFinite(py));
  if (!points.length) return null;
  if (points.length === 1) return kind === "line" ? svg("circle", { cx: x(points[0][0]), cy: y(points[0][1]), r: 3, fill: line.colour, "data-name": line.name }) : null;
  return svg("path", { class: kind, stroke: line.colour, "stroke-dasharray": line.dash || null, "data-name": line.name, d: through(points, x, y) });
}

function area(line, x, y) {
  if (!line.band?.length) return null;
  const under = line.band.map(([px, low]) => [px, low]).reverse();
  return svg("path", { class: "band", fill: line.colour, "data-name": line.name, d: `${through(line.band.map(([px, , high]) => [px, high]), x, y)}${through(under, x, y).replace("M", "L")}Z` });
}

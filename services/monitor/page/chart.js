// A line chart in SVG: smoothing, steps or time, a readout under the pointer, a click on a step.

import { h, number, svg } from "./dom.js";

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
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(value);
  return found;
}

function bounds(lines) {
  let left = Infinity, right = -Infinity, low = Infinity, high = -Infinity;
  for (const line of lines) {
    for (const [x, y] of line.points) {
      left = Math.min(left, x);
      right = Math.max(right, x);
      low = Math.min(low, y);
      high = Math.max(high, y);
    }
  }
  const isFlat = high - low <= 1e-9 * Math.abs(high);
  const margin = (isFlat ? 0 : (high - low) * 0.06) || Math.max(Math.abs(high) * 0.1, 0.05);
  return { left, right: right > left ? right : left + 1, low: low >= 0 ? Math.max(0, low - margin) : low - margin, high: high + margin };
}

/**
 * A chart of `lines`: {name, colour, dash, points: [[x, y, step], …]}.
 * `clicked(step, name)` is told the step and the line nearest to a click; `xText` writes a value of the x axis.
 */
export function chart({ title, description, unit, lines, weight, xText, clicked }) {
  const drawn = lines.filter((line) => line.points.length).map((line) => ({ ...line, shown: smooth(line.points, weight) }));
  const figure = h("figure", { class: "chart", "data-series": title, "data-points": drawn.reduce((sum, l) => sum + l.points.length, 0) },
    h("figcaption", { title: description }, title, unit && unit !== "1" ? h("small", {}, ` ${unit.replace(/[{}]/g, "")}`) : null));
  if (!drawn.length) return h("figure", { class: "chart empty", "data-series": title, "data-points": 0 }, h("figcaption", {}, title), h("p", {}, "nothing yet"));
  const box = bounds(drawn.map((line) => ({ points: line.shown })));
  const x = (value) => LEFT + ((value - box.left) / (box.right - box.left)) * (WIDTH - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - ((value - box.low) / (box.high - box.low)) * (HEIGHT - TOP - BOTTOM);
  const canvas = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title} over time` }, axes(box, x, y, xText), drawn.map((line) => path(line, x, y)));
  const marker = svg("line", { class: "marker", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  const readout = h("output", { class: "readout", hidden: true });
  canvas.append(marker);
  watch(canvas, marker, readout, drawn, { box, x, y, xText, clicked });
  figure.append(h("div", { class: "plot" }, canvas, readout));
  return figure;
}

function axes(box, x, y, xText) {
  return svg("g", { class: "axes" },
    ticks(box.low, box.high).map((value) => [
      svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }),
      svg("text", { x: LEFT - 5, y: y(value) + 4, "text-anchor": "end" }, number(value)),
    ]),
    ticks(box.left, box.right, 5).map((value) => svg("text", { x: x(value), y: HEIGHT - 6, "text-anchor": "middle" }, xText(value))));
}

function path(line, x, y) {
  const d = line.shown.map(([px, py], index) => `${index ? "L" : "M"}${x(px).toFixed(1)} ${y(py).toFixed(1)}`).join("");
  const attributes = { class: "line", stroke: line.colour, "stroke-dasharray": line.dash || null, "data-name": line.name };
  if (line.shown.length === 1) return svg("circle", { cx: x(line.shown[0][0]), cy: y(line.shown[0][1]), r: 3, fill: line.colour, "data-name": line.name });
  return svg("path", { ...attributes, d });
}

function nearest(points, value) {
  let low = 0, high = points.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle][0] <= value) low = middle;
    else high = middle;
  }
  return value - points[low][0] <= points[high][0] - value ? low : high;
}

/** Follow the pointer: a line at the nearest point, the values there, and a click on it. */
function watch(canvas, marker, readout, drawn, { box, x, y, xText, clicked }) {
  const look = (event) => {
    const area = canvas.getBoundingClientRect();
    const px = ((event.clientX - area.left) / area.width) * WIDTH, py = ((event.clientY - area.top) / area.height) * HEIGHT;
    const value = box.left + ((px - LEFT) / (WIDTH - LEFT - RIGHT)) * (box.right - box.left);
    const found = drawn.map((line) => ({ line, index: nearest(line.shown, value) }));
    const closest = found.reduce((best, one) => {
      const distance = Math.abs(y(one.line.shown[one.index][1]) - py) + Math.abs(x(one.line.shown[one.index][0]) - px);
      return distance < best.distance ? { ...one, distance } : best;
    }, { distance: Infinity });
    return { found, closest };
  };
  canvas.addEventListener("pointermove", (event) => {
    const { found, closest } = look(event);
    const at = closest.line.shown[closest.index][0];
    marker.setAttribute("x1", x(at));
    marker.setAttribute("x2", x(at));
    marker.setAttribute("visibility", "visible");
    readout.hidden = false;
    readout.replaceChildren(h("b", {}, xText(at)), ...found.map(({ line, index }) =>
      h("span", { class: line === closest.line ? "nearest" : "" }, swatch(line.colour), `${line.name} ${number(line.shown[index][1])}`)));
  });
  canvas.addEventListener("pointerleave", () => {
    marker.setAttribute("visibility", "hidden");
    readout.hidden = true;
  });
  canvas.addEventListener("click", (event) => {
    const { closest } = look(event);
    clicked(closest.line.points[closest.index][2], closest.line.name);
  });
}

/** A spot of a line's colour. */
export function swatch(colour) {
  const spot = h("i", { class: "swatch" });
  spot.style.background = colour;
  return spot;
}

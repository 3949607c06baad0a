// Looking along a chart by pointer or keys: a marker, the values there, and a way from a point to its groups.

import { h, number, svg, swatch } from "./dom.js";

function nearest(points, value) {
  let low = 0, high = points.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle][0] <= value) low = middle;
    else high = middle;
  }
  return value - points[low][0] <= points[high][0] - value ? low : high;
}

/** Follow the pointer and the arrow keys over `canvas`; a click, or Enter, tells `clicked` the step and the line's name. */
export function explore(canvas, readout, drawn, { frame, valueAt, x, y, xText, yText, clicked }) {
  const marker = svg("line", { class: "marker", y1: frame.top, y2: frame.bottom, visibility: "hidden" });
  const spot = svg("circle", { class: "spot", r: 4, visibility: "hidden" });
  canvas.append(marker, spot);
  let chosen = { line: drawn[0], index: drawn[0].shown.length - 1 };

  const show = () => {
    const [at, value] = chosen.line.shown[chosen.index];
    for (const [name, place] of [["x1", x(at)], ["x2", x(at)]]) marker.setAttribute(name, place);
    spot.setAttribute("cx", x(at));
    spot.setAttribute("cy", y(value));
    spot.setAttribute("fill", chosen.line.colour);
    for (const one of [marker, spot]) one.setAttribute("visibility", "visible");
    readout.hidden = false;
    readout.classList.toggle("left", x(at) > frame.width / 2);
    readout.replaceChildren(h("b", {}, xText(at) || number(at)), ...drawn.map((line) => entry(line, at)));
  };
  const entry = (line, at) => {
    const index = nearest(line.shown, at);
    const raw = line.raw.length ? ` (raw ${number(line.points[index][1])})` : "";
    const around = line.band?.find(([px]) => px === line.shown[index][0]);
    const band = around ? ` ± ${number((around[2] - around[1]) / 2)}` : "";
    return h("span", { class: line === chosen.line ? "nearest" : "" }, swatch(line.colour, line.dash), `${line.name} ${yText(line.shown[index][1])}${raw}${band}`);
  };
  const hide = () => {
    for (const one of [marker, spot]) one.setAttribute("visibility", "hidden");
    readout.hidden = true;
  };
  const look = (event) => {
    const area = canvas.getBoundingClientRect();
    const px = ((event.clientX - area.left) / area.width) * frame.width, py = ((event.clientY - area.top) / area.height) * frame.height;
    const value = valueAt(px);
    const distance = ({ line, index }) => Math.abs(y(line.shown[index][1]) - py) + Math.abs(x(line.shown[index][0]) - px);
    chosen = drawn.map((line) => ({ line, index: nearest(line.shown, value) })).reduce((best, one) => (distance(one) < distance(best) ? one : best));
  };
  const open = () => clicked?.(chosen.line.points[chosen.index][2], chosen.line.name);
  const step = (by) => { chosen.index = Math.max(0, Math.min(chosen.line.shown.length - 1, chosen.index + by)); };
  const change = (by) => {
    const line = drawn[(drawn.indexOf(chosen.line) + by + drawn.length) % drawn.length];
    chosen = { line, index: nearest(line.shown, chosen.line.shown[chosen.index][0]) };
  };
  const keys = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), PageUp: () => step(-10), PageDown: () => step(10),
    Home: () => step(-Infinity), End: () => step(Infinity), ArrowUp: () => change(-1), ArrowDown: () => change(1), Enter: open };

  canvas.addEventListener("pointermove", (event) => { look(event); show(); });
  canvas.addEventListener("pointerleave", hide);
  canvas.addEventListener("click", (event) => { look(event); open(); });
  canvas.addEventListener("focus", () => { if (canvas.matches(":focus-visible")) show(); });
  canvas.addEventListener("blur", hide);
  canvas.addEventListener("keydown", (event) => {
    const act = keys[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
    if (event.key !== "Enter") show();
  });
}

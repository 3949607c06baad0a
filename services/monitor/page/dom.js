// Elements from plain data. Text always goes in as text: answers of a model are hostile.

/** An HTML element; `attributes` may hold listeners (`onclick`), booleans, and `data-…`. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Replace what `parent` holds. */
export function show(parent, ...children) {
  parent.replaceChildren(...children.flat(Infinity).filter(Boolean));
}

/** A number for people: three significant digits, a dash for nothing. */
export function number(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : Number(value.toPrecision(digits)).toString();
}

/** A piece of a line in its colour and dashes. */
export const swatch = (colour, dash = "") => svg("svg", { class: "swatch", viewBox: "0 0 16 10", "aria-hidden": "true" },
  svg("line", { x1: 0, x2: 16, y1: 5, y2: 5, stroke: colour, "stroke-width": 3, "stroke-dasharray": dash || null }));

/** Seconds for people. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 120) return `${seconds.toFixed(1)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

/** Bytes for people. */
export function bytes(count) {
  const power = count < 1000 ? 0 : Math.min(4, Math.floor(Math.log10(count) / 3));
  return `${number(count / 1000 ** power)} ${["B", "kB", "MB", "GB", "TB"][power]}`;
}

/** A drop-down; `options` are values or [value, text] pairs. */
export function select(label, options, value, onchange) {
  const box = h("select", { "aria-label": label, onchange: (event) => onchange(event.target.value) },
    options.map((option) => {
      const [key, text] = Array.isArray(option) ? option : [option, option];
      return h("option", { value: key, selected: String(key) === String(value ?? "") }, text);
    }));
  return h("label", { class: "field" }, h("span", {}, label), box);
}

/** What a view says in place of its content: nothing yet, loading, or why it failed. */
export const hint = (...text) => h("p", { class: "hint" }, text);
export const loading = () => h("p", { class: "hint", role: "status" }, "loading …");
export const failed = (error) => h("p", { class: "hint void", role: "alert" }, `this cannot be shown: ${error.mistakes?.join(" · ") || error.message}`);

/** A table that scrolls sideways where it has to; `numeric` columns are the cells of class `n`. */
export const table = (names, rows, caption = null) => h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption || names.filter(Boolean).join(", ") },
  h("table", {}, caption ? h("caption", {}, caption) : null, h("thead", {}, h("tr", {}, names.map((name, index) => h("th", { scope: "col", class: rows[0]?.children[index]?.classList.contains("n") ? "n" : null }, name)))), h("tbody", {}, rows)));

/** A cell with a number. */
export const cell = (value) => h("td", { class: "n" }, typeof value === "number" || value === null || value === undefined ? number(value) : value);

// What is on the page as a file: a chart as PNG or CSV, a table as CSV or Markdown.

import { h } from "./dom.js";

/** A table of texts as CSV (RFC 4180). */
export const csv = (rows) => rows.map((row) => row.map(quoted).join(",")).join("\r\n") + "\r\n";

function quoted(value) {
  const text = value === null || value === undefined ? "" : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** A table of texts as Markdown; the first row is its head. */
export function markdown(rows) {
  const line = (row) => `| ${row.map((value) => String(value ?? "–").replaceAll("|", "\\|").replaceAll("\n", " ")).join(" | ")} |`;
  return [line(rows[0]), `|${rows[0].map(() => "---").join("|")}|`, ...rows.slice(1).map(line)].join("\n") + "\n";
}

/** Lines of a chart as rows of a table: one a point. */
export function lineRows(lines) {
  return [["line", "x", "value", "low", "high"], ...lines.flatMap((line) => {
    const band = new Map((line.band || []).map(([x, low, high]) => [x, [low, high]]));
    return line.points.map(([x, value]) => [line.name, x, value, ...(band.get(x) || ["", ""])]);
  })];
}

/** Hand a file to the reader's browser. */
export function download(name, content, type = "text/plain") {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = h("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

/** A drawn SVG as PNG, twice as large as it is shown, with the colours that it has on the page. */
export async function png(canvas) {
  const { width, height } = canvas.getBoundingClientRect();
  const picture = new Image();
  picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(withStyles(canvas, width, height)))}`;
  await picture.decode();
  const sheet = h("canvas", { width: 2 * width, height: 2 * height });
  const pen = sheet.getContext("2d");
  pen.fillStyle = getComputedStyle(canvas.closest("figure") || document.body).backgroundColor;
  pen.fillRect(0, 0, sheet.width, sheet.height);
  pen.drawImage(picture, 0, 0, sheet.width, sheet.height);
  return new Promise((done) => { sheet.toBlob(done, "image/png"); });
}

const STYLES = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size", "font-family", "visibility"];

/** A copy of an SVG whose looks need no style sheet. */
function withStyles(canvas, width, height) {
  const copy = canvas.cloneNode(true);
  const originals = [canvas, ...canvas.querySelectorAll("*")], copies = [copy, ...copy.querySelectorAll("*")];
  originals.forEach((original, index) => {
    const computed = getComputedStyle(original);
    for (const name of STYLES) copies[index].setAttribute(name, computed.getPropertyValue(name));
  });
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  return copy;
}

/** Buttons that hand out a table: `rows()` are its cells, the head first. */
export function tableExports(name, rows) {
  return h("span", { class: "exports" }, h("button", { class: "small", "data-export": "csv", onclick: () => download(`${name}.csv`, csv(rows()), "text/csv") }, "CSV"),
    h("button", { class: "small", "data-export": "markdown", onclick: () => download(`${name}.md`, markdown(rows()), "text/markdown") }, "Markdown"));
}

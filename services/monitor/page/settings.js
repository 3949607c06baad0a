// What the job was asked for: its file, table by table, and what was changed while it ran.

import { h, hint, show, table } from "./dom.js";

/** `another()` begins a new job from this one's file. */
export function drawSettings(root, details, another) {
  const tables = Object.entries(details.spec).filter(([, value]) => isTable(value) && Object.keys(value).length);
  const own = Object.entries(details.spec).filter(([, value]) => !isTable(value));
  const changes = details.changes.map((change) => h("tr", {}, h("td", {}, new Date(1000 * change.requested_at).toLocaleString()), h("td", {}, h("code", {}, change.key)), h("td", { class: "n" }, text(change.value)),
    h("td", {}, change.since === null ? `the next ${change.since_unit}` : `${change.since_unit} ${change.since}`)));
  show(root, h("div", { class: "view-head" }, h("h2", {}, "Changed while it ran"), h("span", { class: "exports" }, h("button", { id: "another", onclick: another }, "new job like this"))),
    changes.length ? table(["asked for", "key", "value", "holds from"], changes) : hint("Nothing. η, the number of steps and the sources' weights can be changed while a job runs."),
    h("h2", {}, "Job file"), h("div", { class: "settings" }, section("", own), tables.map(([name, value]) => section(name, Object.entries(flat(value))))));
}

const isTable = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/** `{a: {b: 1}}` as `{"a.b": 1}`. */
const flat = (value) => Object.fromEntries(Object.entries(value).flatMap(([key, inner]) => (isTable(inner) && Object.keys(inner).length ? Object.entries(flat(inner)).map(([rest, leaf]) => [`${key}.${rest}`, leaf]) : [[key, inner]])));

const section = (name, rows) => h("table", { "data-table": name }, h("caption", {}, name ? `[${name}]` : "the job"),
  h("tbody", {}, rows.map(([key, value]) => h("tr", {}, h("th", { scope: "row" }, key), h("td", {}, text(value))))));

function text(value) {
  if (value === null || value === undefined || value === "" || (Array.isArray(value) && !value.length) || (isTable(value) && !Object.keys(value).length)) return "–";
  if (Array.isArray(value)) return value.map((one) => (isTable(one) ? JSON.stringify(one) : String(one))).join("\n");
  return isTable(value) ? JSON.stringify(value) : String(value);
}

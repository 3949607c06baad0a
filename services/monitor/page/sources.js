// Held-out reward by source, before and after, what became of the groups, and each source's weight in the mixture.

import { cell, h, hint, number, show, table } from "./dom.js";
import { tableExports } from "./export.js";

const NAMES = ["source", "task", "weight", "reward of the last step", "held-out before", "after", "change", "n", "published", "trained", "void", "duplicates", "why void"];

/** `open(filter)` shows samples; `change(changes)` patches the job (absent: it is over). */
export function drawSources(root, details, { open, change }) {
  if (root.contains(document.activeElement) && document.activeElement.tagName === "INPUT") return; // somebody types
  const sources = Object.entries(details.report.sources);
  if (!sources.length) {
    show(root, hint("No group of any source has been seen yet."));
    return;
  }
  const rows = sources.map(([name, source]) => row(details, name, source, { open, change }));
  show(root, h("div", { class: "view-head" }, h("h2", {}, "Sources"), tableExports(`${details.job_id}-sources`, () => [NAMES, ...sources.map(([name, source]) => texts(details, name, source))])), table(NAMES, rows));
}

const changeOf = (source) => (source.before === null || source.after === null ? null : source.after - source.before);
const reasonsOf = (source) => Object.entries(source.void_reasons).map(([reason, count]) => `${reason} ${count}`).join(", ");

/** The weight as it was asked for last. */
export function weightOf(details, name) {
  const asked = details.changes.filter((change) => change.key === `sources.${name}.weight`).at(-1);
  return asked ? asked.value : details.spec.sources?.[name]?.weight ?? 1;
}

function row(details, name, source, { open, change }) {
  const difference = changeOf(source), weight = weightOf(details, name);
  const field = change ? h("input", { type: "number", min: 0, step: 0.1, value: weight, "aria-label": `weight of ${name}`, onchange: (event) => change({ [`sources.${name}.weight`]: Number(event.target.value) }) }) : number(weight);
  return h("tr", { "data-source": name }, h("td", {}, h("button", { class: "link", onclick: () => open({ source: name }) }, name)), h("td", {}, source.task), h("td", { class: "n" }, field), cell(details.report.latest[name]),
    cell(source.before), cell(source.after), h("td", { class: `n ${difference > 0 ? "up" : difference < 0 ? "down" : ""}` }, difference === null ? "–" : (difference > 0 ? "+" : "") + number(difference)), cell(source.n),
    cell(source.groups.published), cell(source.groups.trained), cell(source.groups.void), cell(source.groups.duplicates), h("td", { class: "faint" }, reasonsOf(source)));
}

const texts = (details, name, source) => [name, source.task, weightOf(details, name), details.report.latest[name] ?? null, source.before, source.after, changeOf(source), source.n,
  source.groups.published, source.groups.trained, source.groups.void, source.groups.duplicates, reasonsOf(source)];

// What the curves say: a line a rule, its sources behind it, what helps, and a button that does it.

import { h, number, show } from "./dom.js";

const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

/** `open(finding)` shows its samples, `change(changes)` patches the job (absent: it is over). */
export function drawFindings(root, lines, { open, change }) {
  const kept = new Map([...root.querySelectorAll("details")].map((one) => [one.dataset.rule, one.open]));
  const isOpen = (rule, otherwise) => kept.get(rule) ?? otherwise;
  const one = (line) => h("details", { class: `finding ${line.level}`, "data-rule": line.rule, open: isOpen(line.rule, false) },
    h("summary", {}, line.sentence),
    h("p", {}, `What helps: ${line.helps}.`, " ", change && Object.keys(line.changes).length ? h("button", { class: "apply", onclick: () => change(line.changes) },
      `set ${Object.entries(line.changes).map(([key, value]) => `${key} = ${number(value)}`).join(", ")}`) : null),
    h("ul", {}, line.findings.map((finding) => h("li", {}, h("button", { class: "link", onclick: () => open(finding) }, finding.sentence)))));
  const warnings = change ? lines.filter((line) => line.level === "warning") : [];
  const notes = lines.filter((line) => !warnings.includes(line));
  const isWide = window.matchMedia("(min-width: 801px)").matches; // on a phone the view comes first
  show(root,
    warnings.length ? h("details", { class: "warnings", "data-rule": "warnings", open: isOpen("warnings", isWide) }, h("summary", {}, plural(warnings.length, "warning")), warnings.map(one)) : null,
    notes.length ? h("details", { class: "notes", "data-rule": "notes", open: isOpen("notes", false) }, h("summary", { class: "faint" }, change ? plural(notes.length, "note") : `${plural(notes.length, "finding")} of this run`), notes.map(one)) : null);
}

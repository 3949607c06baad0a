// Groups that were given up: how many and why, each with its reason, page by page; and the dead letters.

import * as api from "./api.js";
import { cell, h, hint, loading, select, show, table } from "./dom.js";

const PAGE = 100;

export class Voids {
  constructor(root, open) {
    this.open = open; // told a filter of samples
    this.head = h("div", { class: "view-head" });
    this.body = h("div", {}, loading());
    this.letters = h("div", {});
    this.filter = { source: "", reason: "" };
    show(root, this.head, this.body, this.letters);
  }

  async load(job) {
    if (job !== this.job) {
      this.filter = { source: "", reason: "" };
      this.before = null;
      show(this.body, loading());
    }
    this.job = job;
    const wanted = Object.fromEntries(Object.entries(this.filter).filter(([, value]) => value));
    const [voids, dead] = await Promise.all([api.voids(job, { ...wanted, before: this.before, limit: PAGE }), api.deadLetters(job).catch(absent)]);
    if (job !== this.job) return;
    this.draw(voids);
    this.drawLetters(dead.letters);
  }

  draw({ counts, held_out_counts: heldOut, voids, next }) {
    const reasonsIn = (...all) => [...new Set(all.flatMap(Object.values).flatMap(Object.keys))].sort();
    const sources = Object.keys(counts), reasons = reasonsIn(counts), allSources = [...new Set([counts, heldOut].flatMap(Object.keys))];
    const turn = (before) => { this.before = before; this.load(this.job); };
    const set = (name) => (value) => { this.filter[name] = value; turn(null); };
    const sum = (of) => Object.values(of).flatMap(Object.values).reduce((sum, count) => sum + count, 0), total = sum(counts) + sum(heldOut);
    if (!this.head.contains(document.activeElement)) show(this.head, h("h2", {}, `Void groups: ${sum(counts)} of training, ${sum(heldOut)} of evaluations`),
      select("source", [["", "any"], ...allSources], this.filter.source, set("source")), select("reason", [["", "any"], ...reasonsIn(counts, heldOut)], this.filter.reason, set("reason")));
    if (!voids.length) {
      show(this.body, hint(total || this.before ? "No further group was given up for that." : "No group was given up."));
      return;
    }
    const summary = sources.map((name) => h("tr", {}, h("td", {}, name), reasons.map((reason) => cell(counts[name][reason] || 0))));
    show(this.body, reasons.length ? table(["source", ...reasons], summary, "how many of each source, by reason") : null,
      table(["group", "where", "reason", "given up by", "why", "sample"], voids.map((group) => this.row(group)), "the newest first"),
      h("div", { class: "row pager" }, this.before ? h("button", { onclick: () => turn(null) }, "the newest") : null, next ? h("button", { onclick: () => turn(next) }, "older ones") : null));
  }

  row(group) {
    return h("tr", {}, h("td", {}, h("button", { class: "link", onclick: () => this.open({ kind: group.kind, ordinal: group.ordinal, ...(group.kind === "eval" ? { version: group.version } : {}) }) }, `${group.source} #${group.ordinal}`)),
      h("td", {}, group.kind === "eval" ? `held-out v${group.version}` : group.step === null ? "" : `step ${group.step}`), h("td", {}, h("b", {}, group.reason || "unknown")), h("td", {}, group.stage), h("td", {}, group.detail), h("td", { class: "faint" }, group.sample_id));
  }

  drawLetters(letters) {
    if (!letters) return show(this.letters, h("h2", {}, "Dead letters"), hint("The bus does not answer; dead letters are known to it alone."));
    const rows = letters.map((letter) => h("tr", {}, cell(letter.ordinal), h("td", {}, letter.service), cell(letter.deliveries), h("td", {}, letter.reason), h("td", { class: "faint" }, letter.subject)));
    show(this.letters, h("h2", {}, "Dead letters"), rows.length ? table(["ordinal", "given up by", "deliveries", "reason", "subject"], rows)
      : hint("None: nobody who worked on a message of this job died too often."));
  }
}

/** The bus may be away (503): the rest of the view does not need it. */
function absent(error) {
  if (error.status !== 503) throw error;
  return { letters: null };
}

// The sample browser: groups as rows of dots, and of the chosen one its image, its completions and what became of them.
// Arrow keys: up and down choose a group, left and right go to the step before and after.

import * as api from "./api.js";
import { groupCard } from "./card.js";
import { h, hint, loading, select, show } from "./dom.js";
import { dotsKey, keyOf, places } from "./dots.js";
import { drawFilm } from "./film.js";

export class Samples {
  constructor(root, changed) {
    this.changed = changed; // told the new filter, for the address
    this.raw = false;
    this.controls = h("div", { class: "controls" });
    this.film = h("div", { id: "film", hidden: true });
    this.list = h("div", { id: "groups", role: "listbox", "aria-label": "groups", tabindex: 0 });
    this.pager = h("div", { class: "pager" });
    this.detail = h("div", { id: "samples" }, loading());
    this.browser = h("div", { class: "browser" }, h("div", { class: "side" }, this.list, this.pager, dotsKey()), this.detail);
    show(root, this.controls, this.film, this.browser);
    root.addEventListener("keydown", (event) => this.key(event));
  }

  /** Whether one held-out sample is looked at, at every version. */
  get isFilm() {
    return this.filter.kind === "eval" && String(this.filter.ordinal ?? "") !== "" && !String(this.filter.version ?? "");
  }

  async load(job, filter, sources) {
    if (job !== this.job) show(this.detail, loading());
    this.job = job;
    const { at, ...wished } = filter;
    this.filter = { limit: 30, ...wished };
    this.at = at ?? this.at;
    this.sources = sources;
    this.drawControls();
    const wanted = Object.fromEntries(Object.entries(this.filter).filter(([, value]) => value !== ""));
    const turn = this.turn = (this.turn || 0) + 1;
    this.wanted = this.isFilm ? { ...wanted, limit: 500 } : wanted;
    const { samples, next } = await api.samples(job, this.wanted);
    if (this.turn !== turn) return; // something else was asked for meanwhile
    this.samples = samples;
    this.next = next;
    this.draw();
  }

  /** The page behind those that are shown. */
  async older() {
    const turn = this.turn;
    const { samples, next } = await api.samples(this.job, { ...this.wanted, before: this.next });
    if (this.turn !== turn) return;
    this.samples = [...this.samples, ...samples];
    this.next = next;
    this.at = samples.length ? keyOf(samples[0]) : this.at;
    this.draw();
  }

  draw() {
    const isFilm = this.isFilm && this.samples.length > 0;
    this.film.hidden = !isFilm;
    this.browser.classList.toggle("with-film", isFilm);
    show(this.pager, this.next !== null ? h("button", { class: "wide", id: "older-groups", onclick: () => this.older() }, `older groups (${this.samples.length} are shown)`) : null);
    if (!this.samples.length) {
      show(this.list);
      const isFiltered = Object.entries(this.filter).some(([name, value]) => name !== "limit" && value !== "");
      show(this.detail, hint(isFiltered ? "No group is like that (yet). " : "No group has been scored yet; the first ones come with the first step. ",
        isFiltered ? h("button", { onclick: () => this.changed({}) }, "show all groups") : null));
      return;
    }
    if (isFilm) drawFilm(this.film, this.job, this.samples, (sample) => this.choose(sample));
    show(this.list, places(this.samples, (sample) => this.choose(sample), this.next !== null));
    this.choose(this.samples.find((sample) => keyOf(sample) === this.at) || this.samples[0]);
  }

  /** Show one group; the address names it, so that it can be sent to somebody. */
  choose(sample) {
    this.at = keyOf(sample);
    const given = Object.entries({ ...this.filter, at: this.at }).filter(([, value]) => value !== "" && value !== undefined);
    history.replaceState(null, "", `${location.hash.split("?")[0]}?${new URLSearchParams(given)}`);
    const chosen = this.list.querySelector(`[data-key="${this.at}"]`);
    for (const row of [...this.list.querySelectorAll("[data-key]"), ...this.film.querySelectorAll("[data-key]")]) row.setAttribute("aria-selected", String(row.dataset.key === this.at));
    this.list.setAttribute("aria-activedescendant", chosen.id);
    for (const row of [chosen, this.film.querySelector("[aria-selected=true]")]) row?.scrollIntoView({ block: "nearest", inline: "nearest" });
    show(this.detail, groupCard(this.job, sample, { raw: this.raw, wanted: this.changed }));
  }

  key(event) {
    if (["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey || !this.samples?.length) return;
    const place = this.samples.findIndex((sample) => keyOf(sample) === this.at);
    const moves = this.isFilm ? { ArrowLeft: place + 1, ArrowRight: place - 1 } : {}; // the newest version comes first
    const moved = { ArrowUp: place - 1, ArrowDown: place + 1, Home: 0, End: this.samples.length - 1, ...moves }[event.key];
    const step = this.isFilm ? undefined : { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (moved !== undefined && this.samples[moved]) this.choose(this.samples[moved]);
    else if (step !== undefined) this.toStep(step);
    else return;
    event.preventDefault();
  }

  /** The step before or after: of the filter, or else of the chosen group. */
  toStep(by) {
    const chosen = this.samples.find((sample) => keyOf(sample) === this.at);
    const name = (chosen?.kind || this.filter.kind) === "eval" ? "version" : "step";
    const from = Number(this.filter[name] || chosen?.[name] || 0);
    if (from + by >= 0) this.changed({ ...this.filter, [name]: from + by });
  }

  set(name, value) {
    this.changed({ ...this.filter, [name]: value });
  }

  drawControls() {
    const filter = this.filter;
    const box = (name, label, attributes = {}) => h("label", { class: "field" }, h("span", {}, label),
      h("input", { type: "number", value: filter[name] ?? "", "aria-label": label, onchange: (event) => this.set(name, event.target.value), ...attributes }));
    const rewards = { min: 0, max: 1, step: 0.05 };
    const isOpen = this.controls.querySelector("details")?.open ?? window.matchMedia("(min-width: 801px)").matches; // on a phone the groups come first
    const fields = [
      select("source", [["", "any"], ...this.sources.map((name) => [name, name])], filter.source, (value) => this.set("source", value)),
      select("kind", [["", "any"], ["train", "training"], ["eval", "held-out"]], filter.kind, (value) => this.set("kind", value)),
      select("state", [["", "any"], "trained", "scored", "void"], filter.state, (value) => this.set("state", value)),
      box("step", "step", { min: 0 }), box("version", "evaluated version", { min: 0 }), box("ordinal", "ordinal", { min: 0 }),
      box("min_reward", "reward from", rewards), box("max_reward", "to", rewards),
      select("errors", [["", "any"], ["true", "with errors"], ["false", "without"]], filter.errors, (value) => this.set("errors", value)),
      select("number", ["30", "100", "300"], filter.limit, (value) => this.set("limit", value)),
    ];
    show(this.controls,
      h("details", { class: "filters", open: isOpen }, h("summary", {}, "shown: ", h("b", {}, this.described())), h("div", { class: "controls" }, fields)),
      h("div", { class: "row" },
        h("button", { title: "the step before (←)", "aria-label": "the step before", onclick: () => this.toStep(-1) }, "◀"),
        h("button", { title: "the step after (→)", "aria-label": "the step after", onclick: () => this.toStep(1) }, "▶"),
        h("button", { title: "groups that have come since", onclick: () => this.changed(this.filter) }, "refresh"), h("button", { onclick: () => this.changed({}) }, "clear"),
        h("label", { class: "field check" }, h("input", { type: "checkbox", checked: this.raw, onchange: (event) => { this.raw = event.target.checked; this.draw(); } }), "raw text")));
  }

  /** The filter as people say it. */
  described() {
    const names = { version: "evaluated version", min_reward: "reward from", max_reward: "reward to" }, kinds = { train: "training", eval: "held-out" };
    const said = Object.entries(this.filter).filter(([name, value]) => name !== "limit" && value !== "" && value !== undefined)
      .map(([name, value]) => (name === "kind" ? kinds[value] : name === "errors" ? (value === "true" ? "with errors" : "without errors") : `${names[name] || name} ${value}`));
    return said.join(", ") || "the newest groups";
  }
}

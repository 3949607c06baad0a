// The sample browser: groups as rows of dots, and of the chosen one its image, its completions and what became of them.
// Arrow keys: up and down choose a group, left and right go to the step before and after.

import * as api from "./api.js";
import { boxedImage } from "./boxes.js";
import { duration, h, number, select, show } from "./dom.js";
import { dots, whereOf } from "./dots.js";
import { answerText, prose } from "./text.js";

export class Samples {
  constructor(root, changed) {
    this.changed = changed; // told the new filter, for the address
    this.raw = false;
    this.controls = h("div", { class: "controls" });
    this.list = h("div", { id: "groups", role: "listbox", "aria-label": "groups", tabindex: 0 });
    this.detail = h("div", { id: "samples" });
    show(root, this.controls, h("div", { class: "browser" }, this.list, this.detail));
    root.addEventListener("keydown", (event) => this.key(event));
  }

  async load(job, filter, sources) {
    this.job = job;
    const { at, ...wished } = filter;
    this.filter = { limit: 30, ...wished };
    this.at = at ?? this.at;
    this.sources = sources;
    this.drawControls();
    const wanted = Object.fromEntries(Object.entries(this.filter).filter(([, value]) => value !== ""));
    const turn = this.turn = (this.turn || 0) + 1;
    const { samples } = await api.samples(job, wanted);
    if (this.turn !== turn) return; // something else was asked for meanwhile
    this.samples = samples;
    this.draw();
  }

  draw() {
    if (!this.samples.length) {
      show(this.list);
      show(this.detail, h("p", { class: "faint" }, "no group is like that (yet)"));
      return;
    }
    show(this.list, this.samples.map((sample) => dots(sample, () => this.choose(sample))));
    this.choose(this.samples.find((sample) => keyOf(sample) === this.at) || this.samples[0]);
  }

  /** Show one group; the address names it, so that it can be sent to somebody. */
  choose(sample) {
    this.at = keyOf(sample);
    const given = Object.entries({ ...this.filter, at: this.at }).filter(([, value]) => value !== "" && value !== undefined);
    history.replaceState(null, "", `${location.hash.split("?")[0]}?${new URLSearchParams(given)}`);
    const place = this.samples.indexOf(sample);
    [...this.list.children].forEach((row, index) => row.setAttribute("aria-selected", String(index === place)));
    this.list.children[place].scrollIntoView({ block: "nearest" });
    show(this.detail, this.card(sample));
  }

  key(event) {
    if (["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
    const place = this.samples.findIndex((sample) => keyOf(sample) === this.at);
    const moved = { ArrowUp: place - 1, ArrowDown: place + 1 }[event.key];
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
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
    show(this.controls,
      select("source", [["", "any"], ...this.sources.map((name) => [name, name])], filter.source, (value) => this.set("source", value)),
      select("kind", [["", "any"], ["train", "training"], ["eval", "held-out"]], filter.kind, (value) => this.set("kind", value)),
      select("state", [["", "any"], "trained", "scored", "void"], filter.state, (value) => this.set("state", value)),
      box("step", "step", { min: 0 }), box("version", "evaluated version", { min: 0 }), box("ordinal", "ordinal", { min: 0 }),
      box("min_reward", "reward from", rewards), box("max_reward", "to", rewards),
      select("errors", [["", "any"], ["true", "with errors"], ["false", "without"]], filter.errors, (value) => this.set("errors", value)),
      select("number", ["30", "100", "300"], filter.limit, (value) => this.set("limit", value)),
      h("label", { class: "field check" }, h("input", { type: "checkbox", checked: this.raw, onchange: (event) => { this.raw = event.target.checked; this.draw(); } }), "raw text"),
      h("button", { title: "the step before (←)", "aria-label": "the step before", onclick: () => this.toStep(-1) }, "◀"),
      h("button", { title: "the step after (→)", "aria-label": "the step after", onclick: () => this.toStep(1) }, "▶"),
      h("button", { onclick: () => this.changed(this.filter) }, "look again"), h("button", { onclick: () => this.changed({}) }, "clear"));
  }

  card(sample) {
    const pictures = (sample.images || []).map((_, index) => boxedImage(this.job, sample, index));
    const choose = (completion, element) => {
      pictures.forEach((picture) => picture.setBoxes(completion?.boxes || []));
      element?.parentElement?.querySelectorAll(".completion").forEach((other) => other.classList.toggle("chosen", other === element));
    };
    const marks = extremes(sample.completions);
    const completions = sample.completions.map((completion, index) => this.completion(completion, index, choose, marks[index]));
    const card = h("article", { class: `sample ${sample.state}`, "data-ordinal": sample.ordinal, "data-source": sample.source }, this.head(sample),
      sample.state === "void" ? h("p", { class: "void" }, `void: ${sample.reason || "no reason"}. ${sample.detail || ""}`) : null,
      h("div", { class: "question" }, pictures.map((picture) => picture.element),
        h("div", {}, (sample.prompt || []).map((turn) => h("div", { class: "turn" }, h("small", {}, turn.role), prose(turn.content))),
          sample.ground_truth ? h("div", { class: "turn" }, h("small", {}, `ground truth, judged by ${sample.verifier}`), h("code", {}, sample.ground_truth)) : null)),
      h("div", { class: "completions" }, completions), timeline(sample));
    const best = sample.completions.findIndex((completion) => completion.boxes?.length);
    if (best >= 0) choose(sample.completions[best], completions[best]);
    return card;
  }

  head(sample) {
    return h("header", {}, h("b", {}, `${sample.source} #${sample.ordinal}`), h("span", {}, sample.task), h("span", {}, whereOf(sample)), h("span", { class: `pill ${sample.state}` }, sample.state),
      sample.staleness !== null && sample.staleness !== undefined ? h("span", {}, `staleness ${sample.staleness}`) : null, h("small", { class: "faint" }, sample.sample_id),
      sample.kind === "eval" ? h("button", { class: "link", onclick: () => this.changed({ kind: "eval", ordinal: sample.ordinal }) }, "at every version") : null);
  }

  completion(completion, index, choose, mark) {
    const parts = Object.entries(completion.parts || {});
    const failed = completion.status !== "ok";
    const element = h("section", { class: `completion ${failed ? "failed" : completion.correct ? "correct" : "wrong"}`, tabindex: 0,
      onclick: () => choose(completion, element), onfocus: () => choose(completion, element) },
      h("div", { class: "verdict" }, h("b", {}, failed ? "error" : number(completion.reward)), mark ? h("span", { class: `mark ${mark}` }, mark) : null,
        failed ? null : h("span", {}, `accuracy ${number(completion.accuracy)}`), failed ? null : h("span", {}, `format ${number(completion.format)}`),
        completion.advantage !== null && completion.advantage !== undefined ? h("span", { class: completion.advantage > 0 ? "up" : completion.advantage < 0 ? "down" : "faint" }, `advantage ${number(completion.advantage)}`) : null),
      failed ? h("p", { class: "void" }, completion.error) : null,
      h("div", { class: "text" }, answerText(completion.text, this.raw)),
      versionBar(completion),
      h("small", { class: "faint" }, `${completion.tokens} tokens, ${completion.finish === "length" ? "cut at the limit" : "ended by itself"}`),
      parts.length ? h("details", {}, h("summary", {}, `${parts.length} reward parts`), h("table", {}, parts.map(([name, value]) => h("tr", {}, h("td", {}, name), h("td", { class: "n" }, number(value)))))) : null);
    element.dataset.index = index;
    return element;
  }
}

const keyOf = (sample) => `${sample.kind}-${sample.version ?? ""}-${sample.ordinal}`;

/** For each completion "best", "worst" or "": the first of the highest and of the lowest reward, where they differ. */
function extremes(completions) {
  const rewards = completions.map((completion) => (completion.status === "ok" ? completion.reward : null));
  const known = rewards.filter((reward) => reward !== null);
  const [low, high] = [Math.min(...known), Math.max(...known)];
  return rewards.map((reward, index) => {
    if (reward === null || low === high) return "";
    if (reward === high && rewards.indexOf(high) === index) return "best";
    return reward === low && rewards.indexOf(low) === index ? "worst" : "";
  });
}

/** Which weights sampled which tokens: one stretch a run of one version. */
function versionBar(completion) {
  const runs = completion.versions || [];
  const bar = h("div", { class: "versions", title: "version of the weights, by token" }, runs.map((run, index) => {
    const piece = h("span", { class: index % 2 ? "odd" : "even" }, `v${run.version}`, h("small", {}, ` ×${run.tokens}`));
    piece.style.flexGrow = run.tokens;
    return piece;
  }));
  return bar;
}

/** From published to scored, as stretches of time. */
function timeline(sample) {
  if (!sample.started_at) return null;
  const published = sample.published_at || sample.started_at;
  const spans = [["in queue", sample.started_at - published], ["generated", sample.finished_at - sample.started_at],
    ["on its way", sample.score_started_at - sample.finished_at], ["scored", sample.score_finished_at - sample.score_started_at]];
  return h("footer", { class: "faint" }, spans.map(([name, seconds]) => h("span", {}, `${name} ${duration(Math.max(0, seconds))}`)),
    h("span", {}, `by ${sample.replica}, ${sample.scorer}`));
}

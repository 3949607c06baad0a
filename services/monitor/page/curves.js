// Live curves per source or task, and other runs beside them.

import * as api from "./api.js";
import { chart } from "./chart.js";
import { duration, h, loading, select, show, swatch } from "./dom.js";

const SECTIONS = {
  main: ["reward", "eval/reward", "accuracy", "format", "response_length", "staleness", "zero_variance", "error_rate", "void"],
  "reward parts": ["correct", "part/*"],
  spread: ["zero_variance", "format_only", "reward_std"],
  length: ["response_length", "response_length_correct", "response_length_wrong", "truncation", "truncation_correct", "truncation_wrong", "prompt_length"],
  reflection: ["reflection", "reflection_correct", "reflection_wrong", "correct_with_reflection", "correct_without_reflection", "reflection_words/*"],
  "held-out": ["eval/reward", "eval/accuracy", "eval/format", "eval/correct", "eval/response_length", "eval/truncation", "eval/part/*"],
  groups: ["groups", "void", "void/*", "error_rate"],
  staleness: ["staleness", "staleness_max", "staleness_in_queue", "staleness_in_flight", "in_flight", "queue/*"],
  learner: ["learner/*"],
  speed: ["throughput/*", "timing/*", "wait/*", "queue/*", "in_flight", "weights/bytes"],
};
const OVERALL = /^(learner|timing|throughput|queue|weights)\/|^in_flight$|^staleness_in_/;
const COLOURS = 12;
const DASHES = ["", "6 3", "2 3", "8 3 2 3"];
const MAX_POINTS = 600;
const LOOKING_MS = 5000; // while somebody looks at a chart, it is not drawn anew more often

export const settings = { section: "main", by: "source", axis: "step", weight: 0.8, isLog: false, hidden: new Set() };

/** The view of curves: `jobs` are ids, the first one is the selected job, the others are compared with it. */
export class Curves {
  constructor(root, catalog, openSamples) {
    this.openSamples = openSamples;
    this.catalog = new Map(catalog.map((info) => [info.name, info]));
    this.controls = h("div", { class: "controls" });
    this.legend = h("div", { class: "legend", role: "group", "aria-label": "lines" });
    this.grid = h("div", { class: "charts", id: "charts" }, loading());
    this.jobs = [];
    this.names = new Map();
    this.series = [];
    this.drawnAt = 0;
    this.later = null;
    this.turn = 0;
    show(root, this.controls, this.legend, this.grid);
    this.drawControls();
  }

  /** `names` are what people call the jobs. */
  async load(jobs, names = this.names) {
    this.jobs = jobs;
    this.names = names;
    const turn = ++this.turn;
    const wanted = SECTIONS[settings.section];
    const answers = await Promise.all(jobs.flatMap((job) => wanted.map((name) => this.fetch(job, name))));
    if (this.turn !== turn) return; // something else was asked for meanwhile
    this.series = answers.flat();
    const isLookedAt = this.grid.matches(":hover") || this.grid.contains(document.activeElement);
    const wait = isLookedAt ? LOOKING_MS - (Date.now() - this.drawnAt) : 0;
    clearTimeout(this.later);
    if (wait > 0) this.later = setTimeout(() => this.draw(), wait);
    else this.draw();
  }

  /** A series of one job in all its sets, or all members of a family. */
  async fetch(job, name) {
    const sets = OVERALL.test(name) ? { source: "", task: "" } : {};
    const answer = await api.metrics(job, { name, max_points: MAX_POINTS, ...sets });
    return answer.series.map((series) => ({ ...series, job }));
  }

  drawControls() {
    const again = (change) => (value) => {
      change(value);
      this.drawnAt = 0;
      this.load(this.jobs);
    };
    const weight = h("output", {}, String(settings.weight));
    show(this.controls,
      select("show", Object.keys(SECTIONS), settings.section, again((value) => { settings.section = value; })),
      select("by", [["source", "source"], ["task", "task"], ["all", "all together"]], settings.by, (value) => { settings.by = value; this.draw(); }),
      select("axis", [["step", "step"], ["time", "time"]], settings.axis, (value) => { settings.axis = value; this.draw(); }),
      select("scale", [["", "linear"], ["log", "logarithmic"]], settings.isLog ? "log" : "", (value) => { settings.isLog = value === "log"; this.draw(); }),
      h("label", { class: "field" }, h("span", {}, "smoothing ", weight),
        h("input", { type: "range", min: 0, max: 0.98, step: 0.02, value: settings.weight, "aria-label": "smoothing",
          oninput: (event) => { settings.weight = Number(event.target.value); weight.value = event.target.value; this.draw(); } })));
  }

  draw() {
    this.drawnAt = Date.now();
    const focused = document.activeElement?.closest?.("figure")?.dataset.series;
    const names = [...new Set(this.series.map((series) => series.name))];
    this.looks = looksOf([...new Set(this.series.filter((series) => this.isWanted(series)).map(setOf))].sort(), this.jobs.length > 1);
    show(this.legend, [...this.looks.keys()].filter(Boolean).map((name) => this.legendEntry(name)),
      this.jobs.length > 1 ? this.jobs.map((job, index) => h("span", { class: "run" }, swatch("var(--ink)", DASHES[index % DASHES.length]), this.names.get(job) || job)) : null);
    const start = Math.min(...this.series.flatMap((series) => series.points.slice(0, 1).map((point) => point.time)));
    show(this.grid, this.order(names).map((name) => this.chart(name, start)));
    if (focused) this.grid.querySelector(`figure[data-series="${CSS.escape(focused)}"] svg[tabindex]`)?.focus({ preventScroll: true });
  }

  order(names) {
    const wanted = SECTIONS[settings.section].filter((name) => !name.endsWith("/*"));
    return [...new Set([...wanted, ...names.sort()])];
  }

  legendEntry(name) {
    const toggle = () => {
      if (!settings.hidden.delete(name)) settings.hidden.add(name);
      this.draw();
    };
    const { colour, dash } = this.looks.get(name);
    return h("button", { class: "key", "aria-pressed": String(!settings.hidden.has(name)), onclick: toggle }, swatch(colour, dash), name);
  }

  isWanted(series) {
    if (OVERALL.test(series.name)) return true;
    if (settings.by === "all") return !series.source && !series.task;
    return settings.by === "source" ? series.source !== "" : series.task !== "";
  }

  chart(name, start) {
    const byTime = settings.axis === "time";
    const lines = this.series
      .filter((series) => series.name === name && this.isWanted(series) && !settings.hidden.has(setOf(series)))
      .map((series) => {
        const first = series.job === this.jobs[0] ? start : series.points[0]?.time;
        const looks = this.looks.get(setOf(series));
        return {
          name: this.jobs.length > 1 ? `${setOf(series) || "all"} · ${this.names.get(series.job) || series.job}` : setOf(series) || "all",
          colour: setOf(series) ? looks.colour : "var(--ink)",
          dash: this.jobs.length > 1 ? DASHES[this.jobs.indexOf(series.job) % DASHES.length] : looks.dash,
          points: series.points.map((point) => [byTime ? point.time - first : point.step, point.value, point.step]),
        };
      });
    const info = this.catalog.get(name) || this.family(name);
    return chart({
      title: name,
      description: info?.description || "",
      unit: info?.unit,
      lines,
      weight: name.startsWith("eval/") ? 0 : settings.weight,
      isLog: settings.isLog,
      xText: byTime ? duration : (value) => (Number.isInteger(value) ? String(value) : ""),
      clicked: (step, line) => this.openSamples(name, step, settings.by === "source" && !OVERALL.test(name) ? line.split(" · ")[0] : ""),
    });
  }

  family(name) {
    return [...this.catalog.values()].filter((info) => info.name.endsWith("/*") && name.startsWith(info.name.slice(0, -1)))
      .sort((a, b) => b.name.length - a.name.length)[0];
  }
}

const setOf = (series) => series.source || series.task;

/** A colour for each name; past the last colour they begin again, dashed. Dashes that tell runs apart are not used twice. */
function looksOf(names, dashesAreTaken) {
  return new Map(names.map((name, index) => [name, { colour: `var(--line-${index % COLOURS})`, dash: dashesAreTaken ? "" : DASHES[Math.floor(index / COLOURS) % DASHES.length] }]));
}

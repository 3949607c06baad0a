// Runs beside each other: curves with confidence bands over repetitions, held-out rewards with errors, settings that differ.

import * as api from "./api.js";
import { meanLine } from "./bands.js";
import { chart, smooth } from "./chart.js";
import { cell, duration, h, hint, loading, number, select, show, swatch, table } from "./dom.js";
import { csv, download, markdown } from "./export.js";

const MAX_POINTS = 600, COLOURS = 12;
const SERIES = ["reward", "eval/reward", "accuracy", "response_length", "learner/entropy", "learner/grad_norm", "staleness", "zero_variance", "throughput/tokens"];
const settings = { series: ["reward", "eval/reward"], source: "", axis: "step", weight: 0.8, bands: true };

export class Compare {
  constructor(root, catalog) {
    this.units = new Map(catalog.map((info) => [info.name, info]));
    this.controls = h("div", { class: "controls" });
    this.legend = h("div", { class: "legend" });
    this.grid = h("div", { class: "charts", id: "overlay" });
    this.tables = h("div", { id: "comparison" }, loading());
    show(root, this.controls, this.legend, this.grid, this.tables);
  }

  /** `names` are what people call the jobs. */
  async load(jobs, names) {
    this.names = names;
    const turn = this.turn = (this.turn || 0) + 1;
    if (jobs.length < 2) {
      show(this.controls);
      show(this.legend);
      show(this.grid);
      show(this.tables, hint("Tick “compare” at one or more other runs in the list of jobs: their curves, held-out rewards and settings then stand here beside this one's. Runs that differ in their seeds alone become one line with its 95 % confidence band."));
      return;
    }
    const found = await api.comparison(jobs);
    const wanted = jobs.flatMap((job) => settings.series.map((name) => this.fetch(job, name)));
    const series = (await Promise.all(wanted)).flat();
    if (this.turn !== turn) return;
    [this.found, this.series] = [found, series];
    if (!this.controls.contains(document.activeElement)) this.drawControls();
    this.drawCurves();
    this.drawTables();
  }

  async fetch(job, name) {
    const answer = await api.metrics(job, { name, source: settings.source, task: "", max_points: MAX_POINTS });
    return answer.series.map((series) => ({ ...series, job }));
  }

  name(job) {
    return this.names.get(job) || job;
  }

  drawControls() {
    const reload = () => this.load(this.found.jobs, this.names);
    const sources = this.found.sources.map((row) => [row.source, row.source]);
    show(this.controls,
      select("curve", SERIES, settings.series.at(-1) === "eval/reward" ? settings.series[0] : settings.series.at(-1), (value) => { settings.series = [...new Set([value, "eval/reward"])]; reload(); }),
      select("source", [["", "all together"], ...sources], settings.source, (value) => { settings.source = value; reload(); }),
      select("axis", ["step", "time"], settings.axis, (value) => { settings.axis = value; this.drawCurves(); }),
      select("smoothing", ["0", "0.5", "0.8", "0.9", "0.96"], settings.weight, (value) => { settings.weight = Number(value); this.drawCurves(); }),
      h("label", { class: "field check" }, h("input", { type: "checkbox", checked: settings.bands, onchange: (event) => { settings.bands = event.target.checked; this.drawCurves(); } }), "repetitions as one line with its band"),
      h("button", { id: "export-csv", onclick: () => download("comparison.csv", csv(this.rows()), "text/csv") }, "table as CSV"),
      h("button", { id: "export-markdown", onclick: () => download("comparison.md", this.document(), "text/markdown") }, "all as Markdown"));
  }

  /** The runs as lines: repetitions together, if they are wanted so. */
  groups() {
    const lists = settings.bands ? this.found.repetitions : this.found.jobs.map((job) => [job]);
    return lists.map((jobs, index) => ({
      jobs, colour: `var(--line-${index % COLOURS})`,
      name: jobs.length > 1 ? `${this.name(jobs[0])} and ${jobs.length - 1} more seed${jobs.length > 2 ? "s" : ""}` : this.name(jobs[0]),
    }));
  }

  drawCurves() {
    const groups = this.groups();
    show(this.legend, groups.map(({ colour, name, jobs }) => h("span", { class: "key", title: jobs.join(", ") }, swatch(colour), name)));
    show(this.grid, settings.series.map((name) => chart({
      title: name, description: this.units.get(name)?.description || "", unit: this.units.get(name)?.unit, weight: 0, note: settings.weight && !name.startsWith("eval/") ? `smoothed ${settings.weight}` : "",
      lines: groups.map((group) => this.line(name, group)), xText: settings.axis === "time" ? duration : (value) => (Number.isInteger(value) ? String(value) : ""),
    })));
  }

  /** Each run is smoothed by itself; the mean and its band are of the smoothed runs. */
  line(name, { jobs, colour, name: title }) {
    const weight = name.startsWith("eval/") ? 0 : settings.weight;
    const runs = jobs.map((job) => this.series.find((series) => series.job === job && series.name === name)?.points || []).filter((points) => points.length)
      .map((points) => smooth(points.map((point) => [settings.axis === "time" ? point.time - points[0].time : point.step, point.value]), weight));
    const { points, band } = meanLine(runs);
    return { name: title, colour, points, band: runs.length > 1 ? band : [] };
  }

  drawTables() {
    const { jobs, settings: keys, sources } = this.found;
    const head = jobs.flatMap((job) => [`${this.name(job)}: before`, "after", "change"]);
    const body = sources.map((row) => h("tr", { "data-source": row.source }, h("td", {}, row.source), h("td", {}, row.task), jobs.flatMap((job) => {
      const { before = null, after = null, change = null } = row.runs[job] || {};
      return [cell(withError(before)), cell(withError(after)), h("td", { class: `n ${isClear(change) ? (change.value > 0 ? "up" : "down") : ""}` }, withError(change, true))];
    })));
    const differing = keys.map((row) => h("tr", {}, h("td", {}, row.key), jobs.map((job) => h("td", {}, text(row.values[job])))));
    show(this.tables, h("h2", {}, "Held-out reward by source"), body.length ? table(["source", "task", ...head], body) : hint("No held-out evaluation is finished yet."),
      h("p", { class: "faint" }, "± is one standard error over the held-out samples; that of a change is over the pairs before and after. A change of more than two of them is coloured."),
      h("h2", {}, "Settings that differ"), differing.length ? table(["key", ...jobs.map((job) => this.name(job))], differing) : hint("The job files are the same."));
  }

  rows() {
    const { jobs, sources } = this.found;
    const part = (mean) => [mean?.value ?? null, mean?.error ?? null, mean?.n ?? null];
    return [["source", "task", "run", "before", "before_error", "before_n", "after", "after_error", "after_n", "change", "change_error", "change_n"],
      ...sources.flatMap((row) => jobs.filter((job) => row.runs[job]).map((job) => [row.source, row.task, job, ...part(row.runs[job].before), ...part(row.runs[job].after), ...part(row.runs[job].change)]))];
  }

  document() {
    const { jobs, settings: keys, sources } = this.found;
    const rewards = [["source", ...jobs.flatMap((job) => [`${this.name(job)}: before`, "after", "change"])],
      ...sources.map((row) => [row.source, ...jobs.flatMap((job) => [withError(row.runs[job]?.before), withError(row.runs[job]?.after), withError(row.runs[job]?.change, true)])])];
    const differing = [["key", ...jobs], ...keys.map((row) => [row.key, ...jobs.map((job) => text(row.values[job]))])];
    return `# ${jobs.map((job) => this.name(job)).join(" · ")}\n\n## Held-out reward\n\n± one standard error.\n\n${markdown(rewards)}\n## Settings that differ\n\n${markdown(differing)}`;
  }
}

const isClear = (mean) => Boolean(mean?.error) && Math.abs(mean.value) > 2 * mean.error;
const text = (value) => (value === null || value === undefined ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value));

function withError(mean, isSigned = false) {
  if (!mean) return "–";
  const sign = isSigned && mean.value > 0 ? "+" : "";
  return `${sign}${number(mean.value)}${mean.error === null ? "" : ` ± ${number(mean.error, 2)}`}`;
}

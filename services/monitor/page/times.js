// Where the time goes: what every replica did lately, what the shares of the whole run are, and what each step cost.

import * as api from "./api.js";
import { cell, duration, h, hint, loading, number, select, show, svg, table } from "./dom.js";
import { tableExports } from "./export.js";

const STRETCHES = [["30", "30 s"], ["120", "2 min"], ["600", "10 min"], ["3600", "1 h"]];
const WIDTH = 1000, ROW = 14;
const STEPS = 50;

export class Times {
  constructor(root) {
    this.seconds = "120";
    this.head = h("div", { class: "view-head" });
    this.lanes = h("div", { id: "lanes" }, loading());
    this.shares = h("div", { id: "shares" });
    this.engines = h("div", { id: "engines" });
    this.costs = h("div", { id: "costs" });
    show(root, this.head, this.lanes, this.shares, this.engines, this.costs);
  }

  async load(details, services) {
    if (details.job_id !== this.job) show(this.lanes, loading());
    this.job = details.job_id;
    const again = (value) => { this.seconds = value; this.load(details, services); };
    if (!this.head.contains(document.activeElement)) show(this.head, h("h2", {}, "What every replica did"), select("the last", STRETCHES, this.seconds, again));
    const [line, costs] = await Promise.all([api.timeline(this.job, { seconds: this.seconds }), api.costs(this.job, STEPS)]);
    if (details.job_id !== this.job) return;
    this.drawLanes(line, services);
    this.drawShares(details.report);
    this.drawEngines(details.report);
    this.drawCosts(costs);
  }

  drawLanes(line, services) {
    if (!line.lanes.length) {
      show(this.lanes, hint("Nothing was generated, scored or trained yet."));
      return;
    }
    const now = services ? Object.fromEntries(services.replicas.map((replica) => [replica.replica, replica.alive ? replica.state : "silent"])) : {};
    const rows = line.lanes.map((lane) => h("tr", { "data-work": lane.work }, h("th", { scope: "row" }, lane.work), h("td", {}, lane.replica), h("td", {}, now[lane.replica] || ""), cell(`${Math.round(100 * lane.busy)} %`), h("td", { class: "lane" }, drawLane(lane, line))));
    const queues = services?.queues.filter((queue) => queue.waiting || queue.in_hand).map((queue) => `${queue.stream} (${queue.kind}): ${queue.waiting} waiting, ${queue.in_hand} in hand`) || [];
    show(this.lanes, line.sentence ? h("p", { class: "sentence" }, line.sentence) : null,
      table(["work", "replica", "now", "busy", `${duration(line.end - line.start)} until ${new Date(1000 * line.end).toLocaleTimeString()}`], rows),
      services ? h("p", { class: "faint" }, queues.length ? `in the queues: ${queues.join("; ")}` : "the queues are empty") : null);
  }

  /** The shares of the run's wall time as parts that add up to all of it. */
  drawShares({ shares, timing, wall_s, engines = [] }) {
    const sums = h("p", { class: "row faint" }, Object.entries({ ...timing, wall_s }).map(([name, value]) => h("span", {}, `${name.replace(/_s$/, "").replaceAll("_", " ")} ${duration(value)}`)));
    if (shares?.work === undefined) {
      show(this.shares, sums);
      return;
    }
    const both = Math.max(0, shares.generation + shares.update - shares.work);
    const parts = [["generation alone", shares.generation - both, 0], ["generation and update at once", both, 4], ["update alone", shares.update - both, 1], ["scoring alone", shares.scoring, 2], ["none of these", shares.other, 9]];
    const percent = (share) => `${(100 * Math.max(0, share)).toFixed(1)} %`;
    const piece = ([name, share, colour]) => {
      const element = h("span", { title: `${name}: ${percent(share)}` });
      element.style.flexGrow = Math.max(0, share);
      element.style.background = `var(--line-${colour})`;
      return element;
    };
    const key = ([name, share, colour]) => {
      const spot = h("i", { class: "spot-key", "aria-hidden": "true" });
      spot.style.background = `var(--line-${colour})`;
      return h("span", {}, spot, `${name} ${percent(share)}`);
    };
    show(this.shares, h("h2", {}, "The training's wall time"), h("div", { class: "share-bar", role: "img", "aria-label": parts.map(([name, share]) => `${name} ${percent(share)}`).join(", ") }, parts.map(piece)), h("p", { class: "row" }, parts.map(key)), sums);
  }

  /** What each replica computes with, and how far its log-probs were from the model's own forward pass when it loaded it. */
  drawEngines({ engines = [] }) {
    const rows = engines.map((engine) => h("tr", { "data-engine": engine.service }, h("th", { scope: "row" }, engine.service), h("td", {}, engine.replica),
      h("td", {}, [engine.engine, engine.device, engine.dtype, engine.attention].filter(Boolean).join(", ")),
      h("td", { class: "n" }, engine.self_check === undefined ? "–" : `${engine.self_check.toExponential(1)} nat`)));
    show(this.engines, h("h2", {}, "What computes"), rows.length ? table(["service", "replica", "with", "|Δ log π| at load"], rows)
      : hint("No replica has loaded the job's model yet."));
  }

  drawCosts({ steps, gpus, gpu_hour_price: price }) {
    if (!steps.length) {
      show(this.costs, h("h2", {}, "Cost of a step"), hint("No step is done yet."));
      return;
    }
    const isPriced = gpus > 0;
    const names = ["step", "groups", "tokens", "wall", "generation", "scoring", "update", "publish", "learner waits", ...(isPriced ? ["GPU-hours"] : []), ...(isPriced && price > 0 ? ["money"] : [])];
    const values = (step) => [step.step, step.groups, step.tokens, step.wall_s, step.generation_s, step.scoring_s, step.update_s, step.publish_s, step.wait_s, ...(isPriced ? [step.gpu_hours] : []), ...(isPriced && price > 0 ? [step.money] : [])];
    const shown = (value, index) => cell(index > 2 && index < 9 ? duration(value) : value);
    const sum = (name) => steps.reduce((total, step) => total + (step[name] ?? 0), 0);
    const total = isPriced ? `${number(sum("gpu_hours"))} GPU-hours${price > 0 ? `, ${number(sum("money"))} in money` : ""} in these ${steps.length} steps` : "with monitor.gpus and monitor.gpu_hour_price in the job file: GPU-hours and money as well";
    show(this.costs, h("div", { class: "view-head" }, h("h2", {}, "Cost of a step"), tableExports(`${this.job}-costs`, () => [names, ...steps.map(values)])),
      h("p", { class: "faint" }, `Seconds of generation and scoring are summed over replicas; ${total}.`), table(names, steps.map((step) => h("tr", {}, values(step).map(shown)))));
  }
}

function drawLane(lane, line) {
  const x = (time) => (WIDTH * (time - line.start)) / (line.end - line.start);
  return svg("svg", { class: `work ${lane.work}`, viewBox: `0 0 ${WIDTH} ${ROW}`, preserveAspectRatio: "none", role: "img", "aria-label": `${lane.replica}: ${lane.work}, busy ${Math.round(100 * lane.busy)} %` },
    lane.spans.map(([start, end]) => svg("rect", { x: x(start).toFixed(1), width: Math.max(3, x(end) - x(start)).toFixed(1), y: 0, height: ROW })));
}

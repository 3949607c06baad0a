// The head of the page: the selected job's state, step and staleness, with what can be changed and done.

import { duration, h, number, show } from "./dom.js";

const MOVES = { queued: ["stop"], running: ["pause", "checkpoint", "stop"], paused: ["resume", "checkpoint", "stop"], failed: ["resume"] };
const SURE = { stop: "Stop this job? What is open becomes void; it cannot go on afterwards." };

/** `act(verb)` moves the job, `change(changes)` patches it. */
export function drawHead(root, details, { act, change }) {
  if (!details) {
    show(root, h("h1", {}, "Triune"));
    return;
  }
  const report = details.report, live = ["queued", "running", "paused"].includes(details.state);
  const eta = h("input", { id: "eta", type: "number", min: 0, value: details.max_staleness, "aria-label": "η, the largest staleness",
    onchange: (event) => change({ max_staleness: Number(event.target.value) }) });
  const total = h("input", { id: "total-steps", type: "number", min: Math.max(1, details.step), value: details.total_steps, "aria-label": "total steps",
    onchange: (event) => change({ total_steps: Number(event.target.value) }) });
  show(root, h("h1", { title: details.job_id }, details.title || details.job_id), h("span", { id: "state", class: `pill ${details.state}` }, details.state),
    fact("step", h("span", { id: "step" }, String(details.step)), " of ", live ? total : String(details.total_steps)),
    speed(details),
    fact("η", live ? eta : String(details.max_staleness)), fact("staleness", `mean ${number(report.staleness.mean)}, max ${report.staleness.max}${report.staleness.bound > details.max_staleness ? `, bound once ${report.staleness.bound}` : ""}`),
    fact("groups", `${number(report.groups.trained)} trained, ${number(report.groups.void)} void of ${number(report.groups.published)}`),
    h("span", { class: "moves" }, (MOVES[details.state] || []).map((verb) => h("button", { id: `move-${verb}`, class: verb, onclick: () => (!SURE[verb] || window.confirm(SURE[verb])) && act(verb) }, verb))),
    details.error ? h("p", { class: "void" }, details.error) : null, details.reading_error ? h("p", { class: "void" }, details.reading_error) : null);
}

/** How fast it goes and how long it will take; of a run that is over, how long it took. */
function speed({ state, step, total_steps: total, report }) {
  if (["done", "stopped", "failed"].includes(state)) return report.wall_s ? fact("took", duration(report.wall_s)) : null;
  if (!report.pace_s) return null;
  const left = state === "running" && total > step ? `, ${duration(report.pace_s * (total - step))} left` : "";
  return fact("pace", `${duration(report.pace_s)} a step${left}`);
}

const fact = (name, ...values) => h("span", { class: "fact" }, h("small", {}, name), " ", values);

// The list of jobs, the head of the selected one with its controls, and the form for a new one.

import * as api from "./api.js";
import { h, number, show } from "./dom.js";

const MOVES = { queued: ["stop"], running: ["pause", "checkpoint", "stop"], paused: ["resume", "checkpoint", "stop"], failed: ["resume"] };
const SURE = { stop: "Stop this job? What is open becomes void; it cannot go on afterwards." };

/** The list on the left; `select(job)` and `compare(job, wanted)` are told clicks. */
export function drawJobs(root, { jobs, selected, compared, selectJob, compare, submit }) {
  show(root, h("div", { class: "nav-head" }, h("h2", {}, "Jobs"), h("button", { id: "new-job", onclick: () => submitDialog(submit) }, "new job")),
    jobs.length ? h("ul", {}, jobs.slice().reverse().map((job) => h("li", { class: job.job_id === selected ? "selected" : "", "data-job": job.job_id },
      h("button", { class: "job", onclick: () => selectJob(job.job_id) }, h("span", { class: "name" }, job.job_id), h("span", { class: `pill ${job.state}` }, job.state)),
      h("progress", { max: job.total_steps, value: job.step, "aria-label": "steps" }),
      h("div", { class: "row faint" }, h("small", {}, `${job.step} / ${job.total_steps} steps`),
        job.job_id === selected ? null : h("label", {}, h("input", { type: "checkbox", checked: compared.has(job.job_id), onchange: (event) => compare(job.job_id, event.target.checked) }), "compare")))))
      : h("p", { class: "faint" }, "No jobs yet. Submit one here, or with `triune job submit FILE`."));
}

/** The head: state, step, staleness and the legal moves. `act(verb)` moves the job, `change(changes)` patches it. */
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
  show(root, h("h1", {}, details.job_id), h("span", { id: "state", class: `pill ${details.state}` }, details.state),
    fact("step", h("span", { id: "step" }, String(details.step)), " of ", live ? total : String(details.total_steps)),
    fact("η", live ? eta : String(details.max_staleness)), fact("staleness", `mean ${number(report.staleness.mean)}, max ${report.staleness.max}, bound ${report.staleness.bound}`),
    fact("groups", `${number(report.groups.trained)} trained, ${number(report.groups.void)} void, ${number(report.groups.published)} published`),
    h("span", { class: "moves" }, (MOVES[details.state] || []).map((verb) => h("button", { id: `move-${verb}`, class: verb, onclick: () => (!SURE[verb] || window.confirm(SURE[verb])) && act(verb) }, verb))),
    details.error ? h("p", { class: "void" }, details.error) : null, details.reading_error ? h("p", { class: "void" }, details.reading_error) : null);
}

const fact = (name, ...values) => h("span", { class: "fact" }, h("small", {}, name), " ", values);

const EXAMPLE = `name = "run"
model = "/path/to/model"
total_steps = 100

[data]
train = ["/path/to/train_*.parquet"]
held_out = ["/path/to/test_*.parquet"]

[algorithm]
prompts_per_step = 32
samples_per_prompt = 8
max_staleness = 0
`;

/** A dialog with a job file; every mistake is shown at once. */
function submitDialog(submit) {
  const text = h("textarea", { rows: 20, cols: 76, spellcheck: "false", "aria-label": "job file (TOML)", value: EXAMPLE });
  const mistakes = h("ul", { class: "mistakes" });
  const send = async (event) => {
    event.preventDefault();
    try {
      const { job_id } = await api.submitJob(text.value);
      dialog.close();
      submit(job_id);
    } catch (error) {
      const found = error.mistakes?.length ? error.mistakes : [error.message];
      show(mistakes, found.map((mistake) => h("li", {}, mistake)));
    }
  };
  const dialog = h("dialog", { id: "submit", onclose: () => dialog.remove() }, h("form", { onsubmit: send }, h("h2", {}, "New job"), text, mistakes,
    h("div", { class: "row" }, h("button", { type: "submit", class: "primary" }, "submit"), h("button", { type: "button", onclick: () => dialog.close() }, "cancel"))));
  document.body.append(dialog);
  dialog.showModal();
}

// The list of jobs: which is looked at, which are compared, and what people call them.

import { h, hint, show } from "./dom.js";
import { submitDialog } from "./submit.js";

const LIVE = ["queued", "running", "paused", "stopping"];
const seen = { text: "", hidden: false };

/** Whether a job is listed: as the filter says, and not hidden unless hidden ones are wanted, too. */
const isListed = (job, selected) => (seen.hidden || !job.hidden || job.job_id === selected) && `${job.job_id} ${job.title} ${job.tags.join(" ")} ${job.state}`.includes(seen.text);

/** `selectJob(job)`, `compare(job, wanted)`, `label(job, change)` and `submit(job)` are told what is done. */
export function drawJobs(root, state) {
  if (root.contains(document.activeElement) && ["text", "search"].includes(document.activeElement.type)) return; // somebody types
  const { jobs, selected } = state, hidden = jobs.filter((job) => job.hidden).length;
  const again = () => drawList(list, state);
  const list = h("ul", {});
  show(root, h("div", { class: "nav-head" }, h("h2", {}, "Jobs"), h("button", { id: "new-job", onclick: () => submitDialog(state.submit) }, "new job")),
    jobs.length > 5 || seen.text ? h("input", { type: "search", class: "wide", placeholder: "filter by name, tag, state", "aria-label": "filter jobs", value: seen.text, oninput: (event) => { seen.text = event.target.value; again(); } }) : null,
    hidden ? h("label", { class: "faint" }, h("input", { type: "checkbox", checked: seen.hidden, onchange: (event) => { seen.hidden = event.target.checked; again(); } }), ` ${hidden} hidden`) : null, list,
    state.older ? h("button", { class: "wide", id: "older-jobs", onclick: state.older }, `older jobs (${jobs.length} are shown)`) : null);
  drawList(list, state);
  if (!jobs.length) root.append(hint("No jobs yet. Submit one here, or with ", h("code", {}, "triune job submit FILE"), "."));
  else if (selected && state.isWhole && !jobs.some((job) => job.job_id === selected)) root.append(hint(`There is no job ${selected}.`));
}

function drawList(list, state) {
  show(list, state.jobs.slice().reverse().filter((job) => isListed(job, state.selected)).map((job) => entry(job, state)));
}

function entry(job, { jobs, selected, compared, selectJob, compare, label }) {
  const isSelected = job.job_id === selected;
  const ahead = jobs.slice(0, jobs.indexOf(job)).filter((other) => LIVE.includes(other.state)).length;
  return h("li", { class: `${isSelected ? "selected" : ""} ${job.hidden ? "is-hidden" : ""}`, "data-job": job.job_id },
    h("button", { class: "job", "aria-current": isSelected ? "true" : null, onclick: () => selectJob(job.job_id) },
      h("span", { class: "name" }, job.title || job.job_id, job.title ? h("small", { class: "faint" }, ` ${job.job_id}`) : null), h("span", { class: `pill ${job.state}` }, job.state)),
    h("progress", { max: job.total_steps, value: job.step, "aria-label": `steps of ${job.job_id}` }),
    h("div", { class: "row faint" }, h("small", {}, job.state === "queued" && ahead ? `waits for ${ahead} job${ahead === 1 ? "" : "s"} before it` : `${job.step} / ${job.total_steps} steps`), job.tags.map((tag) => h("small", { class: "tag" }, tag)),
      isSelected ? null : h("label", {}, h("input", { type: "checkbox", checked: compared.has(job.job_id), onchange: (event) => compare(job.job_id, event.target.checked) }), "compare"),
      h("button", { class: "link small edit", "aria-label": `name and tags of ${job.job_id}`, onclick: () => labelDialog(job, label) }, "edit")));
}

/** A dialog for a run's title, tags and whether it is hidden. */
function labelDialog(job, label) {
  const title = h("input", { type: "text", class: "wide", value: job.title, maxlength: 100, placeholder: job.job_id });
  const tags = h("input", { type: "text", class: "wide", value: job.tags.join(" "), placeholder: "baseline sweep-1", pattern: "[a-z0-9._ \\-]*" });
  const hidden = h("input", { type: "checkbox", checked: job.hidden });
  const send = async (event) => {
    event.preventDefault();
    dialog.close();
    await label(job.job_id, { title: title.value.trim(), tags: tags.value.split(/\s+/).filter(Boolean), hidden: hidden.checked });
  };
  const dialog = h("dialog", { id: "label", "aria-label": "name and tags", onclose: () => dialog.remove() }, h("form", { onsubmit: send }, h("h2", {}, job.job_id),
    h("label", { class: "field" }, h("span", {}, "title"), title), h("label", { class: "field" }, h("span", {}, "tags (small letters, digits, . _ -)"), tags),
    h("label", { class: "field check" }, hidden, "hide it from lists"),
    h("div", { class: "row" }, h("button", { type: "submit", class: "primary" }, "save"), h("button", { type: "button", onclick: () => dialog.close() }, "cancel"))));
  document.body.append(dialog);
  dialog.showModal();
}

// The dialog for a new job: a file or typed text, checked or submitted; every mistake is shown at once.

import * as api from "./api.js";
import { h, number, show } from "./dom.js";

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

/** `submitted(job)` is told the id of a new job; `file` is what to begin with. */
export function submitDialog(submitted, file = EXAMPLE) {
  const text = h("textarea", { rows: 18, cols: 76, spellcheck: "false", "aria-label": "job file (TOML)", value: file });
  const answer = h("div", { role: "status" });
  const mistakes = (error) => show(answer, h("ul", { class: "mistakes" }, (error.mistakes?.length ? error.mistakes : [error.message]).map((mistake) => h("li", {}, mistake))));
  const guarded = (work) => async (event) => {
    event.preventDefault();
    try {
      await work();
    } catch (error) {
      mistakes(error);
    }
  };
  const send = guarded(async () => {
    const { job_id } = await api.submitJob(text.value);
    dialog.close();
    submitted(job_id);
  });
  const check = guarded(async () => {
    const { derived } = await api.validateJob(text.value);
    show(answer, h("p", { class: "up" }, "It could be submitted: "), h("p", { class: "row" }, Object.entries(derived).map(([key, value]) => h("span", {}, `${key.replaceAll("_", " ")} ${number(value)}`))));
  });
  const upload = h("input", { type: "file", accept: ".toml", "aria-label": "a job file of this computer", onchange: async () => { text.value = await upload.files[0].text(); } });
  const dialog = h("dialog", { id: "submit", "aria-label": "new job", onclose: () => dialog.remove() }, h("form", { onsubmit: send }, h("h2", {}, "New job"), upload, text, answer,
    h("div", { class: "row" }, h("button", { type: "submit", class: "primary" }, "submit"), h("button", { type: "button", id: "check-job", onclick: check }, "check only"), h("button", { type: "button", onclick: () => dialog.close() }, "cancel"))));
  document.body.append(dialog);
  dialog.showModal();
}

// The same held-out sample at every version, as a strip of frames: what it was answered then, and what that was worth.

import * as api from "./api.js";
import { h, number, show, svg } from "./dom.js";
import { keyOf } from "./dots.js";
import { rectangle } from "./boxes.js";

const LETTERS = 120;

/** `samples` are one ordinal's groups, the newest version first; `choose(sample)` shows one of them. */
export function drawFilm(root, job, samples, choose) {
  const frames = samples.slice().reverse().map((sample) => frame(job, sample, choose));
  show(root, h("h2", {}, `${samples[0].source} #${samples[0].ordinal} at every version`), h("div", { class: "film", role: "listbox", "aria-label": "versions", tabindex: 0 }, frames));
}

function frame(job, sample, choose) {
  const completion = sample.completions[0];
  const isFailed = !completion || completion.status !== "ok";
  const reward = isFailed ? (sample.reason || completion?.error || "error") : number(completion.reward);
  const dot = h("span", { class: `dot ${isFailed ? "failed" : ""}`, "aria-hidden": "true" }, isFailed ? "×" : "");
  if (!isFailed) dot.style.setProperty("--reward", `${Math.round(100 * Math.max(0, Math.min(1, completion.reward)))}%`);
  return h("div", { class: "frame-card", role: "option", "data-key": keyOf(sample), "aria-selected": "false", onclick: () => choose(sample) },
    h("b", {}, `version ${sample.version}`), h("span", { class: "row" }, dot, reward), thumbnail(job, sample, completion),
    h("small", { class: "faint" }, (completion?.text || "").replace(/<\/?(think|answer)>/g, " ").trim().slice(0, LETTERS)));
}

function thumbnail(job, sample, completion) {
  const image = sample.images?.[0];
  if (!image) return null;
  const picture = h("img", { alt: "", width: image.width, height: image.height });
  api.imageUrl(job, image.digest).then((url) => { picture.src = url; }, () => { picture.remove(); });
  const boxes = [...(sample.true_boxes || []).map((box) => rectangle(box, "true")), ...(completion?.boxes || []).map((box) => rectangle(box, "predicted"))];
  const element = h("div", { class: "frame small" }, picture, svg("svg", { class: "overlay", viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" }, boxes));
  element.style.aspectRatio = `${image.width} / ${image.height}`;
  return element;
}

// One group: its question and images, its completions side by side, what became of each, and how long it took.

import { boxedImage, linkBoxes } from "./boxes.js";
import { duration, h, number } from "./dom.js";
import { whereOf } from "./dots.js";
import { answerText, prose } from "./prose.js";

/** The card of a group; `raw`: texts as they are; `wanted(filter)` asks for other groups. */
export function groupCard(job, sample, { raw, wanted }) {
  const pictures = (sample.images || []).map((_, index) => boxedImage(job, sample, index));
  const choose = (completion, element) => {
    pictures.forEach((picture) => picture.setBoxes(completion?.boxes || []));
    element?.parentElement?.querySelectorAll(".completion").forEach((other) => other.classList.toggle("chosen", other === element));
  };
  const marks = extremes(sample.completions);
  const completions = sample.completions.map((completion, index) => completionCard(completion, { index, mark: marks[index], raw, choose, pictures }));
  const everything = () => pictures.forEach((picture) => picture.setBoxes(sample.completions.flatMap((completion) => completion.boxes || [])));
  const hasBoxes = sample.completions.some((completion) => completion.boxes?.length);
  const card = h("article", { class: `sample ${sample.state}`, "data-ordinal": sample.ordinal, "data-source": sample.source }, head(sample, wanted),
    sample.state === "void" ? h("p", { class: "void" }, `void: ${sample.reason || "no reason"}. ${sample.detail || ""}`) : null,
    h("div", { class: "question" }, h("div", { class: "pictures" }, pictures.map((picture) => picture.element), hasBoxes && sample.completions.length > 1 ? h("button", { class: "small", onclick: everything }, "boxes of all completions") : null),
      h("div", {}, (sample.prompt || []).map((turn) => h("div", { class: "turn" }, h("small", {}, turn.role), prose(withoutImageMarks(turn.content)))),
        sample.ground_truth ? h("div", { class: "turn truth" }, h("small", {}, `ground truth, judged by ${sample.verifier}`), raw ? h("code", {}, sample.ground_truth) : answerText(sample.ground_truth, false)) : null)),
    h("div", { class: "completions", tabindex: 0, role: "group", "aria-label": "completions" }, completions), timeline(sample));
  const first = sample.completions.findIndex((completion) => completion.boxes?.length);
  if (first >= 0) choose(sample.completions[first], completions[first]);
  return card;
}

/** Images are shown beside the question; their marks in it are only noise. */
const withoutImageMarks = (text) => text.replaceAll("<image>", "").trim();

function head(sample, wanted) {
  const isHeldOut = sample.kind === "eval";
  return h("header", {}, h("h2", {}, `${sample.source} #${sample.ordinal}`), h("span", {}, sample.task), h("span", {}, whereOf(sample)), h("span", { class: `pill ${sample.state}` }, sample.state),
    sample.staleness !== null && sample.staleness !== undefined ? h("span", {}, `staleness ${sample.staleness}`) : null, h("small", { class: "faint" }, sample.sample_id),
    isHeldOut ? h("button", { class: "link film-link", onclick: () => wanted({ kind: "eval", ordinal: sample.ordinal }) }, "at every version")
      : sample.step === null ? null : h("button", { class: "link", onclick: () => wanted({ kind: "train", step: sample.step }) }, "the whole step"));
}

function completionCard(completion, { index, mark, raw, choose, pictures }) {
  const parts = Object.entries(completion.parts || {});
  const isFailed = completion.status !== "ok";
  const text = h("div", { class: "text" }, answerText(completion.text, raw));
  const element = h("section", { class: `completion ${isFailed ? "failed" : completion.correct ? "correct" : "wrong"}`, tabindex: 0, "aria-label": `completion ${index + 1}`, "data-index": index,
    onclick: () => choose(completion, element), onfocus: () => choose(completion, element) },
    h("div", { class: "verdict" }, isFailed ? h("b", {}, "error") : h("span", {}, "reward ", h("b", {}, number(completion.reward))), mark ? h("span", { class: `mark ${mark}` }, mark) : null,
      isFailed ? null : h("span", {}, `accuracy ${number(completion.accuracy)}`), isFailed ? null : h("span", {}, `format ${number(completion.format)}`), advantage(completion.advantage)),
    isFailed ? h("p", { class: "void" }, completion.error) : null,
    text, versionBar(completion),
    h("small", { class: "faint" }, `${completion.tokens} tokens, ${completion.finish === "length" ? "cut at the limit" : "ended by itself"}`),
    parts.length ? h("details", {}, h("summary", {}, `${parts.length} reward parts`), h("table", {}, h("tbody", {}, parts.map(([name, value]) => h("tr", {}, h("td", {}, name), h("td", { class: "n" }, number(value))))))) : null);
  if (completion.boxes?.length && pictures.length) linkBoxes(text, completion.boxes.length, pictures[0]);
  return element;
}

function advantage(value) {
  if (value === null || value === undefined) return null;
  return h("span", { class: value > 0 ? "up" : value < 0 ? "down" : "faint" }, `advantage ${number(value)}`);
}

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
  return h("div", { class: "versions", title: "version of the weights, by token" }, runs.map((run, index) => {
    const piece = h("span", { class: index % 2 ? "odd" : "even" }, `v${run.version}`, h("small", {}, ` ×${run.tokens}`));
    piece.style.flexGrow = run.tokens;
    return piece;
  }));
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

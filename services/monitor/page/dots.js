// A group as a row of dots: one a completion, its colour the reward, a ring where it was cut, a cross where judging failed.

import { h, number } from "./dom.js";

/** A row to choose a group by; a void one shows its reason in place of dots. */
export function dots(sample, choose) {
  const name = `${sample.source} #${sample.ordinal}, ${whereOf(sample)}`;
  return h("div", { class: `group ${sample.state}`, role: "option", id: `group-${keyOf(sample)}`, "data-key": keyOf(sample), "aria-selected": "false", "aria-label": `${name}: ${summary(sample)}`, onclick: choose },
    h("span", { class: "name" }, `${sample.source} #${sample.ordinal}`), h("small", { class: "faint" }, whereOf(sample)),
    sample.state === "void" ? h("span", { class: "reason" }, sample.reason || "void") : h("span", { class: "dots" }, (sample.completions || []).map(dot)));
}

/** What names a group within a job. */
export const keyOf = (sample) => `${sample.kind}-${sample.version ?? ""}-${sample.ordinal}`;

/** Where a group belongs: a training step, an evaluated version, or no step yet. */
export function whereOf(sample) {
  if (sample.kind === "eval") return `held-out, version ${sample.version}`;
  return sample.step === null ? "waits for its step" : `step ${sample.step}`;
}

function dot(completion) {
  const failed = completion.status !== "ok";
  const facts = [failed ? `error: ${completion.error}` : `reward ${number(completion.reward)}`, `${completion.tokens} tokens`];
  if (completion.advantage !== null && completion.advantage !== undefined) facts.push(`advantage ${number(completion.advantage)}`);
  const element = h("span", { class: `dot ${failed ? "failed" : ""} ${completion.finish === "length" ? "cut" : ""}`, title: facts.join(", ") }, failed ? "×" : "");
  if (!failed) element.style.setProperty("--reward", `${Math.round(100 * Math.max(0, Math.min(1, completion.reward)))}%`);
  return element;
}

function summary(sample) {
  if (sample.state === "void") return `void, ${sample.reason}`;
  return (sample.completions || []).map((completion) => (completion.status === "ok" ? number(completion.reward) : "error")).join(", ");
}

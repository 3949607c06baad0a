// A group as a row of dots: one a completion, its colour the reward, a ring where it was cut, a cross where judging failed.

import { h, number } from "./dom.js";

/** Rows to choose groups by, those of one step or version under its name; `choose(sample)`. */
export function places(samples, choose) {
  const found = [];
  for (const sample of samples) {
    if (found.at(-1)?.name === whereOf(sample)) found.at(-1).samples.push(sample);
    else found.push({ name: whereOf(sample), samples: [sample] });
  }
  return found.map(({ name, samples: own }) => h("div", { role: "group", "aria-label": `${name}, ${together(own)}` },
    h("div", { class: "place", "aria-hidden": "true" }, h("b", {}, name), h("span", { class: "faint" }, together(own))), own.map((sample) => row(sample, () => choose(sample)))));
}

/** What the groups of one place have in common. */
function together(samples) {
  const rewards = samples.filter((sample) => sample.state !== "void").flatMap((sample) => sample.completions || []).filter((completion) => completion.status === "ok").map((completion) => completion.reward);
  const mean = rewards.length ? `, mean reward ${number(rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length)}` : "";
  return `${samples.length} group${samples.length === 1 ? "" : "s"}${mean}`;
}

/** A void group shows its reason in place of dots. */
function row(sample, choose) {
  const name = `${sample.source} #${sample.ordinal}`;
  return h("div", { class: `group ${sample.state}`, role: "option", id: `group-${keyOf(sample)}`, "data-key": keyOf(sample), "aria-selected": "false", "aria-label": `${name}: ${summary(sample)}`, onclick: choose },
    h("span", { class: "name", title: name }, name),
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

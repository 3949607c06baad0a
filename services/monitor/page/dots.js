// A group as a row of dots: one a completion, its colour the reward, a ring where it was cut, a cross where judging failed.

import { h, number } from "./dom.js";

/** What the dots say. */
export const dotsKey = () => h("p", { class: "dots-key faint" }, "a completion each: ", scale(0), " reward 0 to ", scale(1), " 1, ", h("span", { class: "dot cut", "aria-hidden": "true" }), " cut at the limit, ", h("span", { class: "dot failed", "aria-hidden": "true" }, "×"), " not judged");

function scale(reward) {
  const element = h("span", { class: "dot", "aria-hidden": "true" });
  element.style.setProperty("--reward", `${100 * reward}%`);
  return element;
}

/** Rows to choose groups by, those of one step or version under its name; `choose(sample)`. `goesOn`: the last place may have more. */
export function places(samples, choose, goesOn) {
  const found = [];
  for (const sample of samples) {
    if (found.at(-1)?.name === whereOf(sample)) found.at(-1).samples.push(sample);
    else found.push({ name: whereOf(sample), samples: [sample] });
  }
  return found.map(({ name, samples: own }, index) => [name, own, together(own, goesOn && index === found.length - 1)]).map(([name, own, facts]) => h("div", { role: "group", "aria-label": `${name}, ${facts}` },
    h("div", { class: "place", "aria-hidden": "true" }, h("b", {}, name), h("span", { class: "faint" }, facts)), own.map((sample) => row(sample, () => choose(sample)))));
}

/** What the groups of one place have in common. */
function together(samples, goesOn) {
  const rewards = samples.filter((sample) => sample.state !== "void").flatMap((sample) => sample.completions || []).filter((completion) => completion.status === "ok").map((completion) => completion.reward);
  const mean = rewards.length ? `, mean reward ${number(rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length)}` : "";
  return `${samples.length}${goesOn ? "+" : ""} group${samples.length === 1 && !goesOn ? "" : "s"}${mean}`;
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

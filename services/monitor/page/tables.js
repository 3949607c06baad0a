// The plain tables: sources before and after, void groups, services, and the sentences of the diagnostics.

import { duration, h, number, show } from "./dom.js";

/** What the curves say, a line a rule; `open(finding)` shows its samples, `change(changes)` patches the job (absent: it is over). */
export function drawFindings(root, lines, { open, change }) {
  const opened = new Set([...root.querySelectorAll("details[open]")].map((one) => one.dataset.rule));
  const one = (line) => h("details", { class: `finding ${line.level}`, "data-rule": line.rule, open: opened.has(line.rule) },
    h("summary", {}, line.sentence),
    h("p", {}, `What helps: ${line.helps}.`, " ", change && Object.keys(line.changes).length ? h("button", { class: "apply", onclick: () => change(line.changes) },
      `set ${Object.entries(line.changes).map(([key, value]) => `${key} = ${number(value)}`).join(", ")}`) : null),
    h("ul", {}, line.findings.map((finding) => h("li", {}, h("button", { class: "link", onclick: () => open(finding) }, finding.sentence)))));
  const shown = change ? lines.filter((line) => line.level === "warning") : [];
  const folded = lines.filter((line) => !shown.includes(line));
  const title = change ? (folded.length === 1 ? "1 note" : `${folded.length} notes`) : (folded.length === 1 ? "1 finding of this run" : `${folded.length} findings of this run`);
  show(root, shown.map(one), folded.length ? h("details", { class: "notes", "data-rule": "notes", open: opened.has("notes") }, h("summary", { class: "faint" }, title), folded.map(one)) : null);
}

const cell = (value) => h("td", { class: "n" }, number(value));

/** Held-out reward by source, before and after, and what became of the groups. */
export function drawSources(root, details, openSamples) {
  const report = details.report;
  const rows = Object.entries(report.sources).map(([name, source]) => {
    const change = source.before === null || source.after === null ? null : source.after - source.before;
    const reasons = Object.entries(source.void_reasons).map(([reason, count]) => `${reason} ${count}`).join(", ");
    return h("tr", { "data-source": name }, h("td", {}, h("button", { class: "link", onclick: () => openSamples({ source: name }) }, name)), h("td", {}, source.task), cell(report.latest[name]),
      cell(source.before), cell(source.after), h("td", { class: `n ${change > 0 ? "up" : change < 0 ? "down" : ""}` }, change === null ? "–" : (change > 0 ? "+" : "") + number(change)), cell(source.n),
      cell(source.groups.published), cell(source.groups.trained), cell(source.groups.void), cell(source.groups.duplicates), h("td", { class: "faint" }, reasons));
  });
  const names = ["source", "task", "reward now", "held-out before", "after", "change", "n", "published", "trained", "void", "duplicates", "why void"];
  const times = Object.entries({ ...report.timing, wall_s: report.wall_s }).map(([name, value]) => h("span", {}, `${name.replace(/_s$/, "").replaceAll("_", " ")} ${duration(value)}`));
  const engines = (report.engines || []).map(({ service, replica, self_check, device, dtype, attention, engine }) =>
    h("span", { "data-engine": service }, [`${service} ${replica}`, engine, device, dtype, attention].filter(Boolean).join(", "), self_check === undefined ? null : ` (check at load ${number(self_check)} nat)`));
  const shares = Object.entries(report.shares || {}).map(([name, value]) => h("span", {}, `${name} ${(value * 100).toFixed(1)} %`));
  show(root, table(names, rows), h("p", { class: "row faint" }, times), h("p", { class: "row faint" }, shares.length ? ["share of the training's wall time:", shares] : null),
    h("p", { class: "row faint", id: "engines" }, engines));
}

/** Void groups with their reasons, dead ones among them. */
export function drawVoids(root, voids, openSamples) {
  const rows = voids.map((group) => h("tr", {}, h("td", {}, h("button", { class: "link", onclick: () => openSamples({ kind: group.kind, ordinal: group.ordinal }) }, `${group.source} #${group.ordinal}`)),
    h("td", {}, group.kind === "eval" ? `held-out v${group.version}` : group.step === null ? "" : `step ${group.step}`), h("td", {}, h("b", {}, group.reason || "unknown")), h("td", {}, group.stage), h("td", {}, group.detail), h("td", { class: "faint" }, group.sample_id)));
  show(root, rows.length ? table(["group", "where", "reason", "given up by", "why", "sample"], rows) : h("p", { class: "faint" }, "no group was given up"));
}

/** Replicas, queues, streams and the window. */
export function drawServices(root, services) {
  const { replicas, queues, streams, ledger } = services;
  const newest = Math.max(-1, ...replicas.map((replica) => replica.version ?? -1));
  const replicaRows = replicas.map((replica) => h("tr", { class: replica.alive ? "" : "silent", "data-service": replica.service }, h("td", {}, replica.service), h("td", {}, replica.replica),
    h("td", {}, h("span", { class: `pill ${replica.alive ? "running" : "failed"}` }, replica.alive ? "alive" : "silent")), h("td", {}, replica.state),
    h("td", { class: "n" }, replica.version === null ? "–" : `${replica.version}${replica.service === "rollout" && replica.version < newest ? ` (${newest - replica.version} behind)` : ""}`), cell(replica.in_flight), h("td", { class: "n" }, duration(replica.heard_s_ago))));
  const queueRows = queues.map((queue) => h("tr", {}, h("td", {}, queue.stream), h("td", {}, queue.kind), cell(queue.waiting), cell(queue.in_hand)));
  const streamRows = streams.map((stream) => h("tr", {}, h("td", {}, stream.stream), cell(stream.messages), cell(stream.bytes / 1e6), h("td", {}, stream.max_bytes > 0 ? h("meter", { min: 0, max: stream.max_bytes, high: stream.max_bytes * 0.7, value: stream.bytes }) : "unlimited")));
  const waiting = services.waiting_for ? h("p", { class: "finding warning", id: "waiting" }, `The monitor waits for ${services.waiting_for}.`, services.waiting_for.startsWith("NATS") ? " No service can be heard meanwhile; each goes on by itself once it is back." : "") : null;
  show(root, waiting, h("h3", {}, "Replicas"), table(["service", "replica", "", "state", "version", "in flight", "heard"], replicaRows),
    h("h3", {}, "Queues"), table(["stream", "kind", "waiting", "in hand"], queueRows),
    h("h3", {}, "Streams"), table(["stream", "messages", "MB", "of its limit"], streamRows),
    h("h3", {}, "Window"), ledger ? h("p", {}, `version ${number(ledger.version)}, ordinals ${number(ledger.cursor)} to ${number(ledger.window_end)}, η = ${number(ledger.max_staleness)}, ${ledger.in_flight} groups being generated`) : h("p", { class: "faint" }, "no active job, or Redis does not answer"));
}

const table = (names, rows) => h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, names.map((name) => h("th", {}, name)))), h("tbody", {}, rows)));

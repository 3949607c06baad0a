// Replicas, queues, streams and the window of the active job.

import { bytes, cell, duration, h, hint, number, show, table } from "./dom.js";

/** What is missing is told with its reason: no active job, or a server that does not answer. */
export function drawServices(root, services) {
  const { replicas, queues, streams, ledger, active_job: active } = services;
  const newest = Math.max(-1, ...replicas.map((replica) => replica.version ?? -1));
  const replicaRows = replicas.map((replica) => h("tr", { class: replica.alive ? "" : "silent", "data-service": replica.service }, h("td", {}, replica.service), h("td", {}, replica.replica),
    h("td", {}, h("span", { class: `pill ${replica.alive ? "running" : "failed"}` }, replica.alive ? "alive" : "silent")), h("td", {}, replica.state),
    h("td", { class: "n" }, replica.version === null ? "–" : `${replica.version}${replica.service === "rollout" && replica.version < newest ? ` (${newest - replica.version} behind)` : ""}`), cell(replica.in_flight), cell(duration(replica.heard_s_ago))));
  const queueRows = queues.map((queue) => h("tr", {}, h("td", {}, queue.stream), h("td", {}, queue.kind), cell(queue.waiting), cell(queue.in_hand)));
  const streamRows = streams.map((stream) => h("tr", {}, h("td", {}, stream.stream), cell(stream.messages), cell(bytes(stream.bytes)), h("td", {}, stream.max_bytes > 0 ? h("meter", { "aria-label": `${stream.stream}: of its limit`, min: 0, max: stream.max_bytes, high: stream.max_bytes * 0.7, value: stream.bytes }) : "unlimited")));
  const window_ = ledger ? h("p", {}, `version ${number(ledger.version)}, ordinals ${number(ledger.cursor)} to ${number(ledger.window_end)}, η = ${number(ledger.max_staleness)}, ${ledger.in_flight} groups being generated`)
    : hint(active ? "Redis does not answer; the job goes on, the window is not shown." : "No job is active.");
  const waiting = services.waiting_for ? h("p", { class: "finding warning", id: "waiting" }, `The monitor waits for ${services.waiting_for}.`, services.waiting_for.startsWith("NATS") ? " No service can be heard meanwhile; each goes on by itself once it is back." : "") : null;
  show(root, waiting, h("h2", {}, "Replicas"), replicaRows.length ? table(["service", "replica", "alive", "state", "version", "in flight", "heard ago"], replicaRows) : hint("No service has been heard of. `triune up` starts them all."),
    h("h2", {}, "Queues"), queueRows.length ? table(["stream", "kind", "waiting", "in hand"], queueRows) : hint(active ? "NATS does not answer." : "No job is active."),
    h("h2", {}, "Streams"), streamRows.length ? table(["stream", "messages", "size", "of its limit"], streamRows) : hint("NATS does not answer."),
    h("h2", {}, "Window"), window_);
}

// The page: which job and which view are chosen (they stand in the address), and when to ask again.

import * as api from "./api.js";
import { Curves } from "./curves.js";
import { h, show } from "./dom.js";
import { drawHead, drawJobs } from "./jobs.js";
import { Samples } from "./samples.js";
import { drawFindings, drawServices, drawSources, drawVoids } from "./tables.js";

const VIEWS = ["curves", "samples", "sources", "void", "services"];
const LIVE = ["queued", "running", "paused", "stopping"];
const POLL_MS = 3000, SETTLE_MS = 700;
const byId = (id) => document.getElementById(id);

const state = { jobs: [], compared: new Set(), details: null, following: null, drawnStep: null };
const address = { job: null, view: "curves", filter: {} };
const parts = {};

function readAddress() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [job, view] = path.split("/");
  address.job = job || null;
  address.view = VIEWS.includes(view) ? view : "curves";
  address.filter = Object.fromEntries(new URLSearchParams(query || ""));
}

function go(job, view = address.view, filter = {}) {
  const given = Object.entries(filter).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const query = given.length ? `?${new URLSearchParams(given)}` : "";
  const next = `#/${job || ""}/${view}${query}`;
  if (next === location.hash) arrive();
  else location.hash = next;
}

/** Tell an error at the top of the page; without one, take it away. */
function tell(error) {
  byId("notice").hidden = !error;
  byId("notice").textContent = error ? error.mistakes?.join(" · ") || error.message : "";
}

/** Run `work`; what goes wrong is told, not thrown: the next look comes by itself. */
async function guarded(work) {
  try {
    await work();
    tell(null);
  } catch (error) {
    if (error instanceof TypeError && error.message.includes("fetch")) tell(new Error("the monitor does not answer; trying again"));
    else if (error.status) tell(error);
    else throw error;
  }
}

function build() {
  const tabs = h("div", { class: "tabs", role: "tablist" }, VIEWS.map((view) => h("button", { role: "tab", id: `tab-${view}`, onclick: () => go(address.job, view) }, view)));
  parts.views = Object.fromEntries(VIEWS.map((view) => [view, h("section", { id: `view-${view}`, role: "tabpanel", hidden: true })]));
  parts.findings = h("div", { id: "findings" });
  show(byId("main"), parts.findings, tabs, Object.values(parts.views));
  parts.curves = new Curves(parts.views.curves, parts.catalog, (name, step, source) =>
    go(address.job, "samples", name.startsWith("eval/") ? { kind: "eval", version: step, source } : { kind: "train", step, source }));
  parts.samples = new Samples(parts.views.samples, (filter) => go(address.job, "samples", filter));
}

async function loadJobs() {
  state.jobs = (await api.listJobs()).jobs;
  if (!address.job && state.jobs.length) {
    const chosen = state.jobs.find((job) => job.state === "running") || state.jobs.at(-1);
    history.replaceState(null, "", `#/${chosen.job_id}/${address.view}`);
    readAddress();
  }
  drawJobs(byId("jobs"), {
    jobs: state.jobs,
    selected: address.job,
    compared: state.compared,
    selectJob: (job) => { state.compared.delete(job); go(job); },
    compare: (job, wanted) => { if (wanted) state.compared.add(job); else state.compared.delete(job); guarded(loadView); },
    submit: (job) => go(job, "curves"),
  });
}

async function loadHead() {
  if (!address.job) {
    drawHead(byId("header"), null, {});
    return;
  }
  const job = address.job;
  const [details, { findings }] = await Promise.all([api.showJob(job), api.findings(job)]);
  if (job !== address.job) return;
  state.details = details;
  const focused = byId("header").contains(document.activeElement) && document.activeElement.tagName === "INPUT";
  if (!focused) drawHead(byId("header"), details, { act: (verb) => act(() => api.moveJob(job, verb)), change: (changes) => act(() => api.changeJob(job, changes)) });
  drawFindings(parts.findings, findings, {
    open: (finding) => go(job, "samples", finding.source ? { source: finding.source, kind: "train", step: finding.step } : {}),
    change: LIVE.includes(details.state) ? (changes) => act(() => api.changeJob(job, changes)) : null,
  });
}

async function act(work) {
  document.activeElement?.blur();
  await guarded(async () => { await work(); await loadJobs(); await loadHead(); });
}

async function loadView() {
  const { job, view, filter } = address;
  for (const name of VIEWS) {
    parts.views[name].hidden = name !== view;
    byId(`tab-${name}`).setAttribute("aria-selected", String(name === view));
  }
  if (view === "services") drawServices(parts.views.services, await api.services());
  if (!job) return;
  const open = (wanted) => go(job, "samples", wanted);
  if (view === "curves") {
    state.drawnStep = state.details?.step;
    await parts.curves.load([job, ...state.compared]);
  }
  if (view === "samples") await parts.samples.load(job, filter, Object.keys(state.details?.report.sources || {}));
  if (view === "sources" && state.details) drawSources(parts.views.sources, state.details, open);
  if (view === "void") drawVoids(parts.views.void, (await api.voids(job)).voids, open);
}

/** Follow the job's stream: a step draws the curves again, at most every `SETTLE_MS`. */
function followJob(job) {
  if (state.following?.job === job && !state.following.ended) return;
  state.following?.abort.abort();
  if (!job) return;
  const following = { job, abort: new AbortController(), ended: false };
  state.following = following;
  let timer = null;
  const notice = (event) => {
    if (event === "groups" || timer) return;
    timer = setTimeout(() => { timer = null; guarded(async () => { await loadHead(); if (address.view !== "samples") await loadView(); }); }, SETTLE_MS);
  };
  api.follow(job, notice, following.abort.signal).catch((error) => { if (error.name !== "AbortError" && !error.status && !(error instanceof TypeError)) throw error; }).finally(() => { following.ended = true; });
}

async function arrive() {
  readAddress();
  await guarded(async () => { await loadJobs(); await loadHead(); await loadView(); });
  const live = state.details && LIVE.includes(state.details.state);
  if (live) followJob(address.job);
}

async function poll() {
  if (!document.hidden) await guarded(async () => {
    await loadJobs();
    await loadHead();
    const moved = address.view === "curves" && state.details?.step !== state.drawnStep; // a notice may have been lost
    if (moved || ["services", "void", "sources"].includes(address.view)) await loadView();
    const live = state.details && LIVE.includes(state.details.state);
    if (live && address.job) followJob(address.job);
  });
  setTimeout(poll, POLL_MS);
}

async function start() {
  try {
    parts.catalog = (await api.catalog()).series;
  } catch (error) {
    tell(error);
    setTimeout(start, POLL_MS);
    return;
  }
  build();
  window.addEventListener("hashchange", arrive);
  await arrive();
  setTimeout(poll, POLL_MS);
}

start();

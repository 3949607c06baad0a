// The page: which job and which view are chosen (they stand in the address), and when to ask again.

import * as api from "./api.js";
import { Compare } from "./compare.js";
import { Curves } from "./curves.js";
import { failed, h, hint, show } from "./dom.js";
import { drawFindings } from "./findings.js";
import { drawHead } from "./head.js";
import { drawJobs } from "./jobs.js";
import { Samples } from "./samples.js";
import { drawServices } from "./services.js";
import { drawSettings } from "./settings.js";
import { drawSources } from "./sources.js";
import { submitDialog } from "./submit.js";
import { Times } from "./times.js";
import { Voids } from "./voids.js";

const VIEWS = ["curves", "samples", "sources", "time", "void", "compare", "settings", "services"];
const POLLED = ["services", "settings", "void", "sources", "time"];
const LIVE = ["queued", "running", "paused", "stopping"];
const POLL_MS = 3000, SETTLE_MS = 700;
const JOBS_AT_ONCE = 100, MOST_JOBS = 1000;
const byId = (id) => document.getElementById(id);

const state = { jobs: [], jobsShown: JOBS_AT_ONCE, compared: new Set(), details: null, following: null, drawnStep: null };
const address = { job: null, view: "curves", filter: {} };
const parts = {};

function readAddress() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [job, view] = path.split("/");
  address.job = job || null;
  address.view = VIEWS.includes(view) ? view : "curves";
  address.filter = Object.fromEntries(new URLSearchParams(query || ""));
  if (address.filter.with !== undefined) state.compared = new Set(address.filter.with.split(",").filter((other) => other && other !== job));
}

function go(job, view = address.view, filter = {}) {
  const given = Object.entries(filter).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const query = given.length ? `?${new URLSearchParams(given)}` : "";
  const next = `#/${job || ""}/${view}${query}`;
  if (next === location.hash) arrive();
  else location.hash = next;
}

/** What a view's address says besides its name: the runs that are compared with the job. */
const own = (view) => (view === "compare" && state.compared.size ? { with: [...state.compared].join(",") } : {});

/** Tell an error at the top of the page; without one, who is waited for, if anybody is. */
function tell(error) {
  const text = error ? error.mistakes?.join(" · ") || error.message : state.waitingFor ? `The monitor waits for ${state.waitingFor}; what is shown was seen last.` : "";
  byId("notice").hidden = !text;
  byId("notice").textContent = text;
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
  const views = Object.fromEntries(VIEWS.map((view) => [view, h("section", { id: `view-${view}`, role: "tabpanel", "aria-labelledby": `tab-${view}`, hidden: true })]));
  const tabs = h("div", { class: "tabs", role: "tablist", "aria-label": "views" }, VIEWS.map((view) => h("button", { role: "tab", id: `tab-${view}`, "aria-controls": `view-${view}`, onclick: () => go(address.job, view, own(view)) }, view)));
  tabs.addEventListener("keydown", walkTabs);
  parts.views = views;
  parts.findings = h("div", { id: "findings" });
  const empty = h("div", { id: "empty", hidden: true }, hint("No job is chosen. Submit one with “new job”, or with ", h("code", {}, "triune job submit FILE"), "; its curves, samples and findings appear here."));
  show(byId("main"), parts.findings, tabs, empty, h("div", { id: "broken", hidden: true }), Object.values(views));
  const open = (filter) => go(address.job, "samples", filter);
  parts.curves = new Curves(views.curves, parts.catalog, (name, step, source) =>
    open(name.startsWith("eval/") ? { kind: "eval", version: step, source } : { kind: "train", step, source }));
  parts.samples = new Samples(views.samples, open);
  parts.times = new Times(views.time);
  parts.voids = new Voids(views.void, open);
  parts.compare = new Compare(views.compare, parts.catalog);
}

/** Left and right choose the tab beside, as in every list of tabs. */
function walkTabs(event) {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!by) return;
  event.preventDefault();
  const view = VIEWS[(VIEWS.indexOf(address.view) + by + VIEWS.length) % VIEWS.length];
  byId(`tab-${view}`).focus();
  go(address.job, view, own(view));
}

async function loadJobs() {
  const { jobs, next, waiting_for: waitingFor } = await api.listJobs(state.jobsShown);
  state.jobs = jobs;
  state.waitingFor = waitingFor;
  if (waitingFor) tell(null); // at once: what is asked next may wait, too
  if (!address.job && state.jobs.length) {
    const seen = state.jobs.filter((job) => !job.hidden);
    const chosen = seen.find((job) => job.state === "running") || seen.at(-1) || state.jobs.at(-1);
    history.replaceState(null, "", `#/${chosen.job_id}/${address.view}`);
    readAddress();
  }
  drawJobs(byId("jobs"), {
    jobs: state.jobs,
    older: next && state.jobsShown < MOST_JOBS ? () => { state.jobsShown = Math.min(MOST_JOBS, state.jobsShown + JOBS_AT_ONCE); guarded(loadJobs); } : null,
    isWhole: !next,
    selected: address.job,
    compared: state.compared,
    selectJob: (job) => { state.compared.delete(job); go(job, address.view, own(address.view)); },
    compare,
    label: (job, change) => act(() => api.label(job, change)),
    submit: (job) => go(job, "curves"),
  });
}

function compare(job, wanted) {
  if (wanted) state.compared.add(job);
  else state.compared.delete(job);
  if (address.view === "compare") history.replaceState(null, "", `#/${address.job}/compare?with=${[...state.compared].join(",")}`);
  guarded(loadView);
}

async function loadHead() {
  if (!address.job) {
    drawHead(byId("header"), null, {});
    document.title = "Triune";
    show(parts.findings);
    return;
  }
  const job = address.job;
  const [details, { findings }] = await Promise.all([api.showJob(job), api.findings(job)]);
  if (job !== address.job) return;
  state.details = details;
  document.title = `${details.step}/${details.total_steps} ${details.title || job}${details.state === "running" ? "" : `, ${details.state}`} · Triune`;
  const focused = byId("header").contains(document.activeElement) && document.activeElement.tagName === "INPUT";
  if (!focused) drawHead(byId("header"), details, { act: (verb) => act(() => api.moveJob(job, verb)), change: changeJob });
  drawFindings(parts.findings, findings, {
    open: (finding) => go(job, "samples", finding.source ? { source: finding.source, kind: "train", step: finding.step } : {}),
    change: LIVE.includes(details.state) ? changeJob : null,
  });
}

const changeJob = (changes) => act(() => api.changeJob(address.job, changes));

async function act(work) {
  document.activeElement?.blur();
  await guarded(async () => { await work(); await loadJobs(); await loadHead(); if (address.view === "sources") await loadView(); });
}

/** What people call the runs. */
const titles = () => new Map(state.jobs.map((job) => [job.job_id, job.title]));

const LOADERS = {
  curves: async (job) => {
    state.drawnStep = state.details?.step;
    await parts.curves.load([job, ...state.compared], titles());
  },
  samples: (job) => parts.samples.load(job, address.filter, Object.keys(state.details?.report.sources || {})),
  sources: () => drawSources(parts.views.sources, state.details, { open: (filter) => go(address.job, "samples", filter), change: LIVE.includes(state.details.state) ? changeJob : null }),
  time: async () => parts.times.load(state.details, LIVE.includes(state.details.state) ? await api.services() : null),
  void: (job) => parts.voids.load(job),
  compare: (job) => parts.compare.load([job, ...state.compared], titles()),
  settings: (job) => drawSettings(parts.views.settings, state.details, () => guarded(async () => submitDialog((other) => go(other, "curves"), await api.jobFile(job)))),
  services: async () => drawServices(parts.views.services, await api.services()),
};

async function loadView() {
  const { job, view } = address;
  for (const name of VIEWS) {
    parts.views[name].hidden = name !== view;
    byId(`tab-${name}`).setAttribute("aria-selected", String(name === view));
    byId(`tab-${name}`).tabIndex = name === view ? 0 : -1;
  }
  const tabs = byId(`tab-${view}`).parentElement, tab = byId(`tab-${view}`); // on a phone not all of them fit
  tabs.scrollLeft = Math.max(tab.offsetLeft - tabs.offsetLeft + tab.offsetWidth - tabs.clientWidth, Math.min(tabs.scrollLeft, tab.offsetLeft - tabs.offsetLeft));
  byId("empty").hidden = Boolean(job) || view === "services";
  if (!job && view !== "services") {
    parts.views[view].hidden = true;
    return;
  }
  try {
    if (view === "services" || state.details?.job_id === job) await LOADERS[view](job);
    byId("broken").hidden = true;
  } catch (error) {
    if (address.view === view && error.status) {
      show(byId("broken"), failed(error));
      byId("broken").hidden = false;
    }
    throw error;
  }
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
    const moved = ["curves", "compare"].includes(address.view) && state.details?.step !== state.drawnStep; // a notice may have been lost
    if (moved) state.drawnStep = state.details?.step;
    if (moved || POLLED.includes(address.view)) await loadView();
    const live = state.details && LIVE.includes(state.details.state);
    if (live && address.job) followJob(address.job);
  });
  setTimeout(poll, POLL_MS);
}

async function start() {
  try {
    parts.catalog = (await api.catalog()).series;
  } catch (error) {
    tell(error.status ? error : new Error("the monitor does not answer; trying again"));
    setTimeout(start, POLL_MS);
    return;
  }
  tell(null);
  build();
  window.addEventListener("hashchange", arrive);
  await arrive();
  setTimeout(poll, POLL_MS);
}

start();

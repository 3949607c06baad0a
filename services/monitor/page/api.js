// The REST API as the page calls it. A token, where one is needed, stays in this tab's session.

const TOKEN = "triune-token";

// `#token=…` of the address that `triune up` prints; it is taken out of the address at once.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem(TOKEN, given);
  history.replaceState(null, "", location.pathname + location.search);
}

/** An answer that was not the wanted one; `mistakes` as the API lists them. */
export class ApiError extends Error {
  constructor(status, body) {
    super(body.error || `HTTP ${status}`);
    this.status = status;
    this.mistakes = body.mistakes || [];
  }
}

function headers() {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

async function call(method, path, body, type = "application/json") {
  const options = { method, headers: headers() };
  if (body !== undefined) {
    options.body = body;
    options.headers["Content-Type"] = type;
  }
  const answer = await fetch(path, options);
  if (answer.status === 401 && askForToken()) return call(method, path, body, type);
  if (!answer.ok) throw new ApiError(answer.status, await answer.json().catch(() => ({})));
  return answer;
}

function askForToken() {
  const token = window.prompt("This API needs its token (TRIUNE_API_TOKEN):");
  if (token) sessionStorage.setItem(TOKEN, token);
  return Boolean(token);
}

const json = async (answer) => (await answer).json();

/** A query string; an empty text is a value of its own (all sources), nothing is not; a list names its key each time. */
function query(values) {
  const given = Object.entries(values).flatMap(([key, value]) => [value].flat().map((one) => [key, one])).filter(([, value]) => value !== null && value !== undefined);
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

export const listJobs = (limit) => json(call("GET", `/v1/jobs${query({ limit })}`));
export const showJob = (job) => json(call("GET", `/v1/jobs/${job}`));
export const jobFile = async (job) => (await call("GET", `/v1/jobs/${job}/file`)).text();
export const submitJob = (toml) => json(call("POST", "/v1/jobs", toml, "application/toml"));
export const moveJob = (job, verb) => json(call("POST", `/v1/jobs/${job}/${verb}`));
export const changeJob = (job, changes) => json(call("PATCH", `/v1/jobs/${job}`, JSON.stringify(changes)));
export const metrics = (job, wanted) => json(call("GET", `/v1/jobs/${job}/metrics${query(wanted)}`));
export const samples = (job, wanted) => json(call("GET", `/v1/jobs/${job}/samples${query(wanted)}`));
export const validateJob = (toml) => json(call("POST", "/v1/jobs:validate", toml, "application/toml"));
export const voids = (job, wanted) => json(call("GET", `/v1/jobs/${job}/voids${query(wanted)}`));
export const deadLetters = (job) => json(call("GET", `/v1/jobs/${job}/dead-letters`));
export const timeline = (job, wanted) => json(call("GET", `/v1/jobs/${job}/timeline${query(wanted)}`));
export const costs = (job, limit) => json(call("GET", `/v1/jobs/${job}/costs${query({ limit })}`));
export const label = (job, change) => json(call("PATCH", `/v1/jobs/${job}/label`, JSON.stringify(change)));
export const comparison = (jobs) => json(call("GET", `/v1/comparison${query({ job: jobs })}`));
export const prose = (texts) => json(call("POST", "/v1/prose", JSON.stringify({ texts })));
export const findings = (job) => json(call("GET", `/v1/jobs/${job}/diagnostics`));
export const catalog = () => json(call("GET", "/v1/series"));
export const services = () => json(call("GET", "/v1/services"));

/** An address for an `img`: fetched here, since an image cannot send the token. Kept for the page's life. */
const images = new Map();
export function imageUrl(job, digest) {
  const path = `/v1/jobs/${job}/images/${digest}`;
  if (!images.has(path)) {
    if (images.size > 200) {
      const [oldest, promise] = images.entries().next().value;
      images.delete(oldest);
      promise.then(URL.revokeObjectURL, () => {});
    }
    images.set(path, call("GET", path).then((answer) => answer.blob()).then(URL.createObjectURL));
  }
  return images.get(path);
}

/** Follow a job's live stream until `signal` aborts or it ends; `tell(event, data)` for each notice. */
export async function follow(job, tell, signal) {
  const answer = await fetch(`/v1/jobs/${job}/events`, { headers: headers(), signal });
  if (!answer.ok) throw new ApiError(answer.status, {});
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: ?(.*)/s, 2)));
      if (fields.event) tell(fields.event, JSON.parse(fields.data));
    }
  }
}

// Shows /status, every two seconds while somebody looks. Whatever comes from there ends up in text nodes, never in
// markup: the path of a request is a stranger's text.
"use strict";

const POLL_EVERY = 2000;
const PATIENCE = 5000;
const WORDS = { ok: "OK", degraded: "Degraded", down: "Down", unknown: "No answer" };
const ICONS = {
  ok: ["#1a7f45", "M8 0a8 8 0 1 0 0 16A8 8 0 0 0 8 0z"],
  degraded: ["#c27c00", "M8 0l8 16H0z"],
  down: ["#c62828", "M0 0h16v16H0z"],
  unknown: ["#6b7685", "M8 0l8 8-8 8-8-8z"],
};

const byId = (id) => document.getElementById(id);
const body = (id) => byId(id).querySelector("tbody");
const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const tenths = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" });

let status = null;
let timer = 0;

// Text.

function span(seconds) {
  const s = Math.round(Math.abs(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

const milliseconds = (ms) => (ms < 1000 ? `${compact.format(ms)} ms` : `${compact.format(ms / 1000)} s`);
const perSecond = (rate) => `${compact.format(rate)}/s`;
const atClock = (iso) => (iso ? clock.format(new Date(iso)) : "–");
const ahead = (iso) => (new Date(iso) - new Date(status.time)) / 1000;
const ago = (iso) => (iso ? `${span(ahead(iso))} ago` : "never");
const words = (name) => name.replaceAll("_", " ");

function bytes(count) {
  const unit = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = count < 1 ? 0 : Math.min(4, Math.floor(Math.log2(count) / 10));
  return `${plain.format(count / 1024 ** power)} ${unit[power]}`;
}

// Elements.

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function draw(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function say(id, text) {
  // What has not changed is not announced again.
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

function list(id, pairs) {
  byId(id).replaceChildren(
    ...pairs.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, String(value)))),
  );
}

function rows(id, made, empty) {
  const columns = byId(id).querySelectorAll("thead th").length;
  const none = make("tr", {}, make("td", { colSpan: columns, className: "none" }, empty));
  body(id).replaceChildren(...(made.length ? made : [none]));
}

const cell = (text, className = "") => make("td", { className }, text);
const number = (value) => cell(value, "number");

// State.

function showHealth(health, reason) {
  document.body.dataset.health = health;
  say("health", WORDS[health]);
  say("reason", reason);
  document.title = `${WORDS[health]} · thg-proxy`;
  const [colour, shape] = ICONS[health];
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><path fill="${colour}" d="${shape}"/></svg>`;
  byId("icon").href = `data:image/svg+xml,${encodeURIComponent(svg)}`;
}

function showState() {
  const worst = status.warnings.find((warning) => warning.level === "warning");
  showHealth(status.health, status.state === "ok" && worst ? worst.text : status.reason);
  const last = (values) => values.at(-1) ?? null;
  const { history, counters, upstream, limits } = status;
  const p99 = last(history.p99_ms);
  list("figures", [
    ["Requests", perSecond(last(history.rate) ?? 0)],
    ["Failing", perSecond(last(history.failure_rate) ?? 0)],
    ["Latency p99", p99 === null ? "–" : milliseconds(p99)],
    ["In flight", `${counters.in_flight} of ${limits.in_flight.limit}`],
    ["Upstream", `${upstream.connections.active ?? 0} active, ${upstream.connections.idle ?? 0} idle`],
  ]);
  say("version", status.version);
  say("upstream", upstream.url);
  say("about", `Up ${span(status.uptime_seconds)} · configuration: ${status.config}`);
}

function showWarnings() {
  byId("warnings").hidden = !status.warnings.length;
  byId("warnings").querySelector("ul").replaceChildren(
    ...status.warnings.map(({ level, code, text, action }) =>
      make("li", { className: level }, make("strong", {}, text), ` ${action} `, make("code", {}, code)),
    ),
  );
}

// Token.

function showToken() {
  const { token } = status;
  const known = token.expires_at !== null;
  const whole = known ? new Date(token.expires_at) - new Date(token.issued_at) : 1;
  const part = (iso) => Math.min(1, Math.max(0, (new Date(iso) - new Date(token.issued_at)) / whole));
  const left = known ? ahead(token.expires_at) : 0;
  const summary = !known ? "None yet" : left > 0 ? `Expires in ${span(left)}` : `Expired ${span(left)} ago`;
  const planned = known && ahead(token.refresh_at) > 0 ? `refresh in ${span(ahead(token.refresh_at))}` : "refresh is due";
  say("token-summary", summary);
  const elapsed = known ? part(status.time) * 100 : 0;
  const bar = byId("lifetime");
  bar.className = token.usable ? token.state : "over";
  bar.setAttribute("aria-valuenow", Math.round(elapsed));
  bar.setAttribute("aria-valuetext", known ? `${summary}, ${planned}` : summary);
  byId("elapsed").style.width = `${elapsed}%`;
  byId("refresh-mark").style.left = `${known ? part(token.refresh_at) * 100 : 0}%`;
  byId("refresh-mark").hidden = !known;
  say("issued", known ? atClock(token.issued_at) : "");
  say("planned", known ? planned : "");
  say("expires", known ? atClock(token.expires_at) : "");
  const failure = token.last_error && `${token.last_error}, ${ago(token.last_error_at)}`;
  list("token-facts", [
    ["State", token.usable ? token.state : `${token.state}, not usable`],
    ["Client", token.client ?? "–"],
    ["Generation", token.generation],
    ["Verification", token.verification],
    ["Scope", token.scope ?? "–"],
    ["Last error", failure ?? "none"],
    ...(token.last_error ? [["Next try", `in ${span(token.retry_after_seconds ?? 0)}`]] : []),
  ]);
}

function showClients() {
  const { jwks } = status;
  rows("clients", status.clients.map((client) => make("tr", {},
    make("th", { scope: "row" }, client.name),
    cell(client.last_error ? `${client.state}: ${client.last_error}` : client.state, `state ${client.state}`),
    cell(ago(client.last_used)),
  )), "None");
  list("key-facts", jwks === null ? [["Signing keys", "not used"]] : [
    ["Signing keys", jwks.keys],
    ["Keys fetched", ago(jwks.fetched_at)],
    ["Last error", jwks.last_error ?? "none"],
  ]);
}

function showWorkers() {
  byId("workers").hidden = status.workers.length < 2;
  rows("workers", status.workers.map((worker, i) => make("tr", {},
    make("th", { scope: "row" }, String(i + 1)),
    cell(worker.state, `state ${worker.state}`),
    number(String(worker.pid)),
    cell(ago(worker.started)),
    number(plain.format(worker.in_flight)),
    number(plain.format(worker.restarts)),
  )), "None");
}

// Plots.

function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find((step) => step * power >= value) * power;
}

function line(values, x, y) {
  // Without a value the line is interrupted; "h0" makes a single value a dot.
  return values.map((value, i) => {
    if (value === null) return "";
    const pen = i > 0 && values[i - 1] !== null ? "L" : "M";
    return `${pen}${x(i).toFixed(1)} ${y(value).toFixed(1)}${pen === "M" ? "h0" : ""}`;
  }).join("");
}

function plot(id, title, series, format, least) {
  const place = byId(id);
  const { bucket_seconds: seconds, buckets } = status.history;
  const { clientWidth: width, clientHeight: height } = place;
  const [left, right, top, bottom] = [48, width - 6, 8, height - 20];
  const highest = (values) => Math.max(0, ...values.filter((value) => value !== null));
  const ceiling = roundUp(Math.max(least, ...series.map(({ values }) => highest(values))));
  const x = (slot) => left + ((right - left) * (slot + 1)) / buckets;
  const y = (value) => bottom - ((bottom - top) * value) / ceiling;
  const text = ([left, top], label, anchor) => draw("text", { x: left, y: top, "text-anchor": anchor }, label);
  const shown = (value) => (value === null || value === undefined ? "–" : format(value));
  const grid = [0, ceiling / 2, ceiling].flatMap((value) => [
    draw("path", { class: "grid", d: `M${left} ${y(value)}H${right}` }),
    text([left - 6, y(value) + 4], format(value), "end"),
  ]);
  const minutes = (buckets * seconds) / 60;
  const times = [0, 1, 2, 3].map((third) => {
    const back = minutes - (minutes * third) / 3;
    return text([left + ((right - left) * third) / 3, height - 4], back ? `−${back} min` : "now", back ? "middle" : "end");
  });
  const lines = series.map(({ values, name }) =>
    draw("path", { class: `line ${name}`, d: line(values, (i) => x(buckets - values.length + i), y) }));
  const described = series.map(({ values, name }) =>
    `${name}: ${shown(values.at(-1))} now, ${shown(highest(values))} at most`).join("; ");
  place.replaceChildren(draw("svg", { role: "img", "aria-labelledby": `${id}-name ${id}-desc`, width, height },
  draw("title", { id: `${id}-name` }, title), draw("desc", { id: `${id}-desc` }, described), ...grid, ...times, ...lines));
  place.parentElement.querySelector(".legend").replaceChildren(...series.flatMap(({ values, name }) =>
    [make("span", { className: name }, `${name} ${shown(values.at(-1))}`), " "]));
}

function showPlots() {
  const { history } = status;
  plot("rate", "Requests per second in the last 15 minutes",
    [{ name: "all", values: history.rate }, { name: "failing", values: history.failure_rate }], perSecond, 1);
  plot("latency", "Latency in the last 15 minutes",
    [{ name: "p50", values: history.p50_ms }, { name: "p99", values: history.p99_ms }], milliseconds, 10);
}

// Errors and requests.

function showErrors() {
  const outcomes = Object.entries(status.history.outcomes).sort(([, a], [, b]) => b - a);
  say("outcomes", outcomes.length === 0 ? "No requests in the last 15 minutes."
    : `Requests of the last 15 minutes: ${outcomes.map(([name, n]) => `${plain.format(n)} ${words(name)}`).join(", ")}.`);
  rows("errors", status.errors.map((error) => make("tr", {},
    make("th", { scope: "row" }, make("code", {}, error.code)),
    cell(error.hint, "hint"),
    number(plain.format(error.lately)),
    number(plain.format(error.total)),
  )), "None since the start.");
}

function split(request) {
  const answered = request.ttfb_ms > 0;
  const known = request.token_wait_ms + request.connect_ms + request.ttfb_ms;
  return {
    "token-wait": request.token_wait_ms,
    connect: request.connect_ms,
    "first-byte": request.ttfb_ms,
    // Of a request that got no answer, nobody knows what the rest was spent on.
    body: answered ? Math.max(0, request.duration_ms - known) : 0,
  };
}

function requestRow(request) {
  const times = split(request);
  const parts = Object.entries(times).filter(([, ms]) => ms > 0).map(([name, ms]) => {
    const part = make("i", { className: name });
    part.style.width = `${Math.min(100, (100 * ms) / request.duration_ms)}%`;
    return part;
  });
  const outcome = make("td", {}, words(request.outcome));
  if (request.code) outcome.append(" ", make("code", {}, request.code));
  if (request.replayed) outcome.append(" replayed");
  if (request.request_id) outcome.title = `request id ${request.request_id}`;
  return make("tr", {},
    cell(atClock(request.at)),
    cell(request.status || "–", `status s${Math.floor(request.status / 100)}`),
    make("th", { scope: "row", className: "path" }, make("b", {}, request.method), ` ${request.path}`),
    outcome,
    number(tenths.format(request.duration_ms)),
    make("td", {}, make("span", { className: "split", ariaHidden: "true" }, ...parts)),
    ...Object.values(times).map((ms) => number(ms ? tenths.format(ms) : "–")),
    number(bytes(request.bytes_in)),
    number(bytes(request.bytes_out)),
  );
}

let drawn = "";

function showRequests() {
  const wanted = byId("status-filter").value;
  const part = byId("path-filter").value;
  const all = status.recent;
  // Rows that stay as they are keep a person's selection.
  const state = JSON.stringify([wanted, part, all]);
  if (state === drawn) return;
  drawn = state;
  const fits = ({ outcome, status: code, path }) => path.includes(part)
    && (wanted === "failed" ? outcome !== "ok" : String(code).startsWith(wanted));
  const found = all.filter(fits);
  rows("recent", found.map(requestRow), all.length ? "No request fits the filter." : "No requests yet.");
  say("shown", `${found.length} of ${all.length}`);
}

// Life.

function show() {
  showState();
  showWarnings();
  showToken();
  showClients();
  showWorkers();
  showPlots();
  showErrors();
  showRequests();
}

async function poll() {
  try {
    const answer = await fetch("status", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    if (!answer.ok) throw new Error(answer.status);
    status = await answer.json();
  } catch {
    const age = status ? ` Everything below is as of ${day.format(new Date(status.time))}.` : "";
    showHealth("unknown", `The proxy does not answer.${age}`);
    return schedule();
  }
  schedule();
  show();
}

const paused = () => byId("pause").getAttribute("aria-pressed") === "true";

function schedule(wait = POLL_EVERY) {
  clearTimeout(timer);
  if (!document.hidden && !paused()) timer = setTimeout(poll, wait);
}

byId("pause").addEventListener("click", () => {
  byId("pause").setAttribute("aria-pressed", String(!paused()));
  schedule(0);
});
const refilter = () => status && showRequests();
byId("status-filter").addEventListener("change", refilter);
byId("path-filter").addEventListener("input", refilter);
document.addEventListener("visibilitychange", () => schedule(0));
const sizes = new ResizeObserver(() => status && showPlots());
for (const id of ["rate", "latency"]) sizes.observe(byId(id));
poll();

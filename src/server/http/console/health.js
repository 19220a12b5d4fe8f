// Health and upkeep: checks, jobs, statements that run, disk, tail and caches.

import { getJson, send } from "./api.js";
import { el, facts, fill, problem, say, table } from "./dom.js";
import { bytes, number, span, time } from "./format.js";

/** Milliseconds between two looks. */
const EVERY = 3000;

const JOBS = [
  ["verify", "Verify", "Compare all files with their checksums."],
  ["scrub", "Scrub", "Verify, and rebuild damaged sidecar files."],
  ["compact", "Compact", "Merge the chunk files of each partition."],
];

export async function healthPage({ main, signal }) {
  const parts = Object.fromEntries(["summary", "checks", "jobs", "queries", "counters"].map((name) => [name, el("div")]));
  const start = JOBS.map(([verb, name, what]) => el("button", { type: "button", title: what, onclick: () => begin(verb, name) }, name));
  fill(
    main,
    el("h1", {}, "Health"),
    parts.summary,
    parts.checks,
    el("h2", {}, "Jobs"),
    el("div", { class: "bar" }, start),
    parts.jobs,
    el("h2", {}, "Statements that run"),
    parts.queries,
    el("h2", {}, "Counters"),
    parts.counters,
  );
  const begin = async (verb, name) => {
    try {
      await send(`/v1/admin/${verb}`, { method: "POST" });
      say(`${name} was started`);
      await look();
    } catch (error) {
      fill(parts.jobs, problem(error));
    }
  };
  const look = async () => {
    const [health, inventory, jobs, queries, metrics] = await Promise.allSettled([
      getJson("/health", { signal }),
      getJson("/inventory?limit=1", { signal }),
      getJson("/v1/admin/jobs", { signal }),
      getJson("/v1/sql/queries", { signal }),
      send("/metrics", { signal }).then((response) => response.text()),
    ]);
    if (signal.aborted) return;
    if (health.status === "rejected") throw health.reason;
    summary(parts, health.value, inventory.value);
    part(parts.jobs, jobs, (reply) => jobsTable(reply.jobs, look));
    part(parts.queries, queries, (reply) => queriesTable(reply.queries, look));
    part(parts.counters, metrics, counters);
  };
  await look();
  const timer = setInterval(() => {
    if (!document.hidden) look().catch((error) => { if (!signal.aborted) fill(parts.checks, problem(error)); });
  }, EVERY);
  signal.addEventListener("abort", () => clearInterval(timer));
}

function part(node, outcome, show) {
  if (outcome.status === "fulfilled") fill(node, show(outcome.value));
  else fill(node, problem(outcome.reason));
}

const mark = (status) => el("span", { class: status === "ok" ? "good" : status === "degraded" ? "warn" : "bad" }, status);

function summary({ summary: top, checks }, health, inventory) {
  const { maintenance, totals = inventory?.totals } = health;
  fill(
    top,
    facts([
      ["Status", mark(health.status)],
      ["Version", health.version],
      ["Up for", health.uptime_seconds === undefined ? "" : span(health.uptime_seconds * 1000)],
      ["Commit", number(health.commit)],
      ["Durability", health.durability],
      ["Series", totals && number(totals.series)],
      ["Rows", totals && number(totals.rows)],
      ["Chunk files", totals && `${number(totals.chunks)}, ${bytes(totals.bytes)}`],
      ["Rows not sealed yet", totals && number(totals.tail_rows)],
      ["Write-ahead log", totals && bytes(totals.wal_bytes)],
      ["Garbage", totals && bytes(totals.garbage_bytes)],
      ["Seals", maintenance && number(maintenance.seals)],
      ["Compactions", maintenance && number(maintenance.compactions)],
    ]),
  );
  if (!health.checks) return;
  const columns = [
    { name: "Check", cell: (check) => check.name },
    { name: "Status", cell: (check) => mark(check.status) },
    { name: "What it found", wrap: true, cell: (check) => [check.detail ?? "", check.since ? ` since ${time(Date.parse(check.since))}` : ""] },
  ];
  fill(checks, table("Checks", columns, health.checks));
}

/** A button that cancels what has this id, and looks again. */
function cancelButton(path, id, again) {
  const cancel = async () => {
    await send(`${path}/${encodeURIComponent(id)}`, { method: "DELETE" }).catch((error) => say(error.message));
    await again();
  };
  return el("button", { type: "button", onclick: cancel }, "Cancel");
}

function jobsTable(jobs, again) {
  if (!jobs.length) return el("p", { class: "note" }, "No job ran since the server started.");
  const ends = ["done", "failed"];
  const progress = ({ progress: { done, total, unit } }) =>
    total ? [el("progress", { max: total, value: done, "aria-label": "Progress" }), ` ${number(done)} of ${number(total)} ${unit}`] : "";
  const columns = [
    { name: "Job", cell: (job) => job.verb },
    { name: "Status", cell: (job) => job.status },
    { name: "Progress", cell: progress },
    { name: "Created", cell: (job) => time(Date.parse(job.created_at)) },
    { name: "Finished", cell: (job) => (job.finished_at ? time(Date.parse(job.finished_at)) : "") },
    { name: "Error", wrap: true, cell: (job) => job.error?.detail ?? "" },
    { name: "", cell: (job) => (ends.includes(job.status) ? "" : cancelButton("/v1/admin/jobs", job.id, again)) },
  ];
  return table("Jobs", columns, jobs);
}

function queriesTable(queries, again) {
  if (!queries.length) return el("p", { class: "note" }, "No statement runs.");
  const columns = [
    { name: "Statement", wrap: true, cell: (query) => query.sql },
    { name: "Status", cell: (query) => query.status },
    { name: "Runs for", number: true, cell: (query) => span(query.elapsed_ms) },
    { name: "Rows", number: true, cell: (query) => number(query.rows) },
    { name: "Most memory", number: true, cell: (query) => bytes(query.memory_bytes_peak) },
    { name: "Token", cell: (query) => query.token ?? "" },
    { name: "", cell: (query) => cancelButton("/v1/sql/queries", query.id, again) },
  ];
  return table("Statements", columns, queries);
}

/** The counters and gauges of `/metrics` without their buckets, with what each means. */
function counters(text) {
  const help = new Map();
  const rows = [];
  for (const line of text.split("\n")) {
    const [, name, meaning] = line.match(/^# HELP (\S+) (.*)$/) ?? [];
    if (name) help.set(name, meaning);
    const [, metric, labels = "", value] = line.match(/^([a-z_0-9]+)(\{[^}]*\})? (\S+)$/) ?? [];
    if (!metric || /_bucket$|_sum$/.test(metric) || labels.includes("quantile")) continue;
    rows.push({ metric, labels, value, meaning: help.get(metric) ?? help.get(metric.replace(/_count$/, "")) ?? "" });
  }
  rows.sort((a, b) => a.metric.localeCompare(b.metric));
  const shown = ({ metric, value }) => (metric.includes("bytes") ? bytes(Number(value)) : number(Number(value)));
  const columns = [
    { name: "Counter", cell: (row) => row.metric + row.labels },
    { name: "Value", number: true, cell: shown },
    { name: "Meaning", wrap: true, cell: (row) => row.meaning },
  ];
  return table("Counters since the server started, and gauges", columns, rows, { tall: true });
}

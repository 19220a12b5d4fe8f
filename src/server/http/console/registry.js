// Datasets, features, factors, kinds and snapshots.

import { getJson, post, send } from "./api.js";
import { el, fill, problem, say, table } from "./dom.js";
import { number, order, time } from "./format.js";

export async function registryPage({ main, signal }) {
  const parts = [
    ["Snapshots", "/v1/snapshots", snapshots],
    ["Datasets", "/v1/datasets?limit=200", datasets],
    ["Features", "/v1/features?limit=200", definitions],
    ["Factors", "/v1/factors?limit=200", definitions],
    ["Kinds", "/v1/kinds", kinds],
  ];
  const nodes = parts.map(() => el("div"));
  fill(main, el("h1", {}, "Registry"), parts.map(([name], at) => [el("h2", {}, name), nodes[at]]));
  const load = async (at) => {
    const [, path, show] = parts[at];
    try {
      const reply = await getJson(path, { signal });
      fill(nodes[at], show(reply, () => load(at)));
    } catch (error) {
      if (error.status === 401 || error.status === 0) throw error;
      if (!signal.aborted) fill(nodes[at], problem(error));
    }
  };
  await Promise.all(parts.map((_, at) => load(at)));
}

const none = (text) => el("p", { class: "note" }, text);

function snapshots({ snapshots: all }, again) {
  const name = el("input", { id: "snapshot-name", required: true, pattern: "[A-Za-z0-9][A-Za-z0-9._-]*", autocomplete: "off" });
  const create = async (event) => {
    event.preventDefault();
    try {
      await post("/v1/snapshots", { name: name.value });
      say(`Snapshot ${name.value} was created`);
      await again();
    } catch (error) {
      say(error.message);
    }
  };
  const form = el(
    "form",
    { class: "bar", onsubmit: create },
    el("label", { for: "snapshot-name" }, "Name", name),
    el("button", { type: "submit" }, "Create a snapshot"),
  );
  if (!all.length) return [form, none("There is no snapshot.")];
  const drop = (snapshot) => async () => {
    if (!confirm(`Drop the snapshot ${snapshot.name}? Rows that only it keeps are removed.`)) return;
    await send(`/v1/snapshots/${encodeURIComponent(snapshot.name)}`, { method: "DELETE" }).catch((error) => say(error.message));
    await again();
  };
  const columns = [
    { name: "Snapshot", cell: (snapshot) => snapshot.name },
    { name: "Commit", number: true, cell: (snapshot) => number(snapshot.commit) },
    { name: "Created", cell: (snapshot) => time(Date.parse(snapshot.created_at)) },
    { name: "", cell: (snapshot) => el("button", { type: "button", onclick: drop(snapshot) }, "Drop") },
  ];
  return [form, table("Snapshots", columns, all)];
}

function datasets({ datasets: all }) {
  if (!all.length) return none("No dataset is registered.");
  const columns = [
    { name: "Dataset", cell: (dataset) => dataset.name },
    { name: "Version", number: true, cell: (dataset) => dataset.version },
    { name: "Status", cell: (dataset) => dataset.status },
    { name: "Snapshot", cell: (dataset) => dataset.snapshot },
    { name: "Series", number: true, cell: (dataset) => number(dataset.series_count) },
    { name: "Rows", number: true, cell: (dataset) => number(dataset.rows) },
    { name: "First", cell: (dataset) => dataset.start ?? "" },
    { name: "Last", cell: (dataset) => dataset.end ?? "" },
    { name: "Description", wrap: true, cell: (dataset) => dataset.description ?? "" },
  ];
  return table("Datasets, their latest versions", columns, all);
}

function definitions({ definitions: all }) {
  if (!all.length) return none("Nothing is registered.");
  const columns = [
    { name: "Name", cell: (one) => one.name },
    { name: "Version", number: true, cell: (one) => one.version },
    { name: "Status", cell: (one) => one.status },
    { name: "Series", number: true, cell: (one) => number(one.series_count) },
    { name: "Code", cell: (one) => one.code_version },
    { name: "Created", cell: (one) => time(Date.parse(one.created_at)) },
    { name: "Description", wrap: true, cell: (one) => one.description ?? "" },
  ];
  return table("Latest versions", columns, all);
}

function kinds({ kinds: all }) {
  const columns = [
    { name: "Kind", cell: (kind) => kind.kind },
    { name: "Key", cell: (kind) => [kind.kind, ...kind.key.map((word) => `{${word}}`)].join("/") },
    { name: "Unit", cell: (kind) => kind.unit },
    { name: "Order", cell: (kind) => order(kind.order) },
    { name: "Table in SQL", cell: (kind) => kind.sql_name ?? kind.kind },
    { name: "Built in", cell: (kind) => (kind.built_in ? "yes" : "no") },
    { name: "Fields", wrap: true, cell: (kind) => kind.fields.map((field) => `${field.name} ${field.type}`).join(", ") },
  ];
  return table("Kinds of series", columns, all);
}

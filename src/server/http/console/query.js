// Questions in SQL or as a query object: run, cancel, a table and a chart of the answer.

import { exactJson, getJson } from "./api.js";
import { draw } from "./chart.js";
import { el, fill, problem, table } from "./dom.js";
import { number } from "./format.js";

/** Rows of the table at first, and with each request for more. */
const SHOWN = 500;

const KINDS = {
  sql: {
    name: "SQL",
    example: "SELECT symbol, time_bucket('1d', ts) AS day,\n       first(open ORDER BY ts) AS open, max(high) AS high, min(low) AS low,\n       last(close ORDER BY ts) AS close, sum(volume) AS volume\nFROM klines_1m\nGROUP BY symbol, day\nORDER BY symbol, day",
    send: (text, signal) => exactJson("/v1/sql", { method: "POST", body: JSON.stringify({ sql: text }), signal }),
    help: "Tables: one per kind and timeframe, such as klines_1m, and the schemas system and information_schema.",
  },
  object: {
    name: "Query object",
    example: '{\n  "series": ["kline/*/1m"],\n  "every": "1d",\n  "limit": 1000\n}',
    send: (text, signal) => exactJson("/v1/query", { method: "POST", body: text, signal }),
    help: "The body of POST /v1/query.",
  },
};

export async function queryPage({ main, signal, search }) {
  const api = await getJson("/openapi.json", { signal });
  const kinds = Object.entries(KINDS).filter(([kind]) => kind !== "sql" || "/v1/sql" in api.paths);
  let kind = kinds.some(([name]) => name === search.get("as")) ? search.get("as") : kinds[0][0];
  const text = el("textarea", { id: "query", rows: "9", spellcheck: "false" });
  const help = el("p", { class: "note", id: "query-help" });
  const run = el("button", { type: "button", class: "primary" }, "Run (Ctrl+Enter)");
  const cancel = el("button", { type: "button", disabled: true }, "Cancel");
  const state = el("p", { class: "note", "aria-live": "polite" });
  const result = el("div");
  const tabs = kinds.map(([name, { name: label }]) =>
    el("button", { type: "button", "data-kind": name, onclick: () => choose(name) }, label),
  );
  const stored = (name) => sessionStorage.getItem(`fastk-query-${name}`) ?? KINDS[name].example;
  const choose = (name) => {
    kind = name;
    text.value = stored(name);
    help.textContent = KINDS[name].help;
    for (const tab of tabs) tab.setAttribute("aria-pressed", String(tab.dataset.kind === name));
  };
  let request = null;

  const go = async () => {
    request?.abort();
    request = new AbortController();
    const stop = AbortSignal.any([signal, request.signal]);
    sessionStorage.setItem(`fastk-query-${kind}`, text.value);
    cancel.disabled = false;
    state.textContent = "Running…";
    fill(result);
    const started = performance.now();
    try {
      const answer = await KINDS[kind].send(text.value, stop);
      const took = Math.round(performance.now() - started);
      const { names, rows, isNumber } = flat(answer);
      const more = answer.truncated || answer.next_cursor ? ", there are more" : "";
      state.textContent = `${number(rows.length)} rows${more}, ${took} ms`;
      show(result, names, rows, isNumber);
    } catch (error) {
      state.textContent = stop.aborted ? "Cancelled" : "";
      if (!stop.aborted) fill(result, problem(error));
    } finally {
      cancel.disabled = true;
    }
  };
  run.addEventListener("click", go);
  cancel.addEventListener("click", () => request?.abort());
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      go();
    }
  });
  fill(
    main,
    el("h1", {}, "Query"),
    el("div", { class: "tabs", role: "group", "aria-label": "Language" }, tabs),
    el("label", { for: "query" }, "Question"),
    text,
    help,
    el("div", { class: "bar" }, run, cancel),
    state,
    result,
  );
  text.setAttribute("aria-describedby", "query-help");
  choose(kind);
}

/** Names, rows and columns of numbers of an answer: of SQL, of one series or of several. */
function flat(answer) {
  const parts = Array.isArray(answer.series) ? answer.series : [answer];
  const rows = parts.flatMap((part) => {
    const several = parts.length > 1 || Array.isArray(answer.series);
    const of = part.rows ?? [];
    return several ? of.map((row) => ({ series: part.series, ...row })) : of;
  });
  const names = answer.columns?.map?.((column) => column.name) ?? [...new Set(rows.slice(0, 1000).flatMap(Object.keys))];
  const types = new Map((answer.columns ?? []).map?.((column) => [column.name, column.type]) ?? []);
  const isNumber = (name) =>
    types.has(name)
      ? /int|decimal|float|double/.test(types.get(name))
      : name !== "ts" && rows.slice(0, 50).every((row) => row[name] === null || row[name] === undefined || /^-?\d/.test(row[name]));
  return { names, rows, isNumber };
}

const cellText = (value) => (value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : String(value));

function show(node, names, rows, isNumber) {
  if (!rows.length) {
    fill(node, el("p", {}, "No rows."));
    return;
  }
  const columns = names.map((name) => ({ name, number: isNumber(name), cell: (row) => cellText(row[name]) }));
  let shown = Math.min(SHOWN, rows.length);
  const list = table(`Result`, columns, rows.slice(0, shown), { tall: true });
  const more = el("button", { type: "button" }, `Show ${SHOWN} more`);
  more.addEventListener("click", () => {
    list.add(rows.slice(shown, shown + SHOWN));
    shown += SHOWN;
    if (shown >= rows.length) more.remove();
  });
  const chart = el("div");
  const times = names.find((name) => name === "ts" || name === "day" || name === "time" || name === "bucket");
  const numbers = names.filter((name) => isNumber(name) && name !== times);
  const button = times && numbers.length
    ? el("button", { type: "button", onclick: () => drawResult(chart, rows, times, names, numbers) }, "Draw a chart")
    : null;
  fill(node, el("div", { class: "bar" }, button, rows.length > shown ? more : null), chart, list);
}

/** Lines over time, one for each series or symbol of the answer. */
async function drawResult(node, rows, times, names, numbers) {
  const by = ["series", "symbol"].find((name) => names.includes(name));
  const choose = el("select", { id: "column" }, numbers.map((name) => el("option", { value: name }, name)));
  choose.value = numbers.includes("close") ? "close" : numbers[0];
  const target = el("div", { class: "chart", role: "img", "aria-label": "Chart of the result" });
  fill(node, el("div", { class: "bar" }, el("label", { for: "column" }, "Column", choose)), target);
  const groups = Map.groupBy(rows, (row) => (by ? row[by] : ""));
  const paint = () =>
    draw(
      target,
      () => [...groups].slice(0, 20).map(([name, part]) => ({
        type: "scatter", mode: "lines", name: name || choose.value,
        x: part.map((row) => moment(row[times])), y: part.map((row) => Number(row[choose.value])),
      })),
      () => ({ showlegend: groups.size > 1, hovermode: "closest" }),
    );
  choose.addEventListener("change", paint);
  await paint();
}

/** A time of an answer, which is text of RFC 3339, or an integer whose size tells its unit. */
function moment(value) {
  if (!/^-?\d+$/.test(value)) return value;
  const digits = String(value).replace("-", "").length;
  const ms = digits > 17 ? value / 1e6 : digits > 14 ? value / 1e3 : digits > 10 ? Number(value) : value * 1000;
  return new Date(ms).toISOString();
}

// All series: search, filters, rows, span, coverage, staleness and a small chart of the last values.

import { baseUrl, getJson, pages, params, rowsPath, seriesAddress } from "./api.js";
import { el, fill, table } from "./dom.js";
import { bytes, number, percent, span, time, toMs } from "./format.js";

/** Rows shown at once; more are a click away. */
const SHOWN = 100;
/** Small charts requested at the same time. */
const SPARKS = 4;

export async function seriesListPage({ main, signal, search }) {
  const all = [];
  const text = el("input", { type: "search", id: "search", value: search.get("search") ?? "", autocomplete: "off" });
  const kind = el("select", { id: "kind" }, el("option", { value: "" }, "all kinds"));
  const order = el(
    "select",
    { id: "order" },
    [["key", "key"], ["rows", "most rows"], ["last", "oldest last row"], ["coverage", "lowest coverage"]].map(
      ([value, name]) => el("option", { value }, name),
    ),
  );
  const count = el("p", { class: "note", "aria-live": "polite" });
  const list = el("div");
  const totals = el("p", { class: "note" });
  let limit = SHOWN;

  const draw = () => {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = all.filter((row) => {
      const key = row.series.toLowerCase();
      return (!kind.value || key.startsWith(`${kind.value}/`)) && words.every((word) => key.includes(word));
    });
    sort(found, order.value);
    const shown = found.slice(0, limit);
    count.textContent = `${number(found.length)} of ${number(all.length)} series`;
    const more = el("button", { type: "button", onclick: () => { limit += SHOWN; draw(); } }, `Show ${SHOWN} more`);
    fill(list, shown.length ? seriesTable(shown, signal) : el("p", {}, "No series matches."), found.length > limit ? more : null);
  };
  const redrawSoon = debounce(() => { limit = SHOWN; draw(); }, 120);
  for (const input of [text, kind, order]) input.addEventListener("input", redrawSoon);

  let isFirst = true;
  await pages("/inventory", { limit: 1000 }, "series", (rows, page) => {
    if (signal.aborted) return false;
    all.push(...rows);
    if (isFirst) {
      isFirst = false;
      if (rows.length === 0) {
        fill(main, emptyStore());
        return false;
      }
      const { totals: sum } = page;
      totals.textContent =
        `${number(sum.series)} series, ${number(sum.rows)} rows, ${bytes(sum.bytes)} in ${number(sum.chunks)} chunk files, ` +
        `${number(sum.tail_rows)} rows not sealed yet, commit ${number(page.commit)}`;
      fill(
        main,
        el("h1", {}, "Series"),
        totals,
        el("div", { class: "bar", role: "search" }, label("Search keys", text), label("Kind", kind), label("Order", order)),
        count,
        list,
      );
    }
    const kinds = [...new Set(all.map((row) => row.series.split("/")[0]))].sort();
    const chosen = kind.value;
    fill(kind, el("option", { value: "" }, "all kinds"), kinds.map((name) => el("option", { value: name }, name)));
    kind.value = chosen;
    draw();
    return true;
  });
}

const seconds = (ms) => Math.floor(ms / 1000) * 1000;

const label = (name, field) => el("label", { for: field.id }, name, field);

function sort(rows, by) {
  const value = {
    rows: (row) => -row.rows,
    last: (row) => row.last_ts ?? Infinity,
    coverage: (row) => row.coverage_ratio ?? Infinity,
  }[by];
  if (value) rows.sort((a, b) => value(a) - value(b));
}

function seriesTable(rows, signal) {
  const link = (row) => el("a", { href: seriesAddress(row.series) }, row.series);
  const last = (row) => (row.last_ts === null ? "" : time(toMs(row.last_ts, row.unit)));
  const first = (row) => (row.first_ts === null ? "" : time(toMs(row.first_ts, row.unit)));
  const columns = [
    { name: "Series", cell: link },
    { name: "Last values", cell: (row) => spark(row, signal) },
    { name: "Rows", number: true, cell: (row) => number(row.rows) },
    { name: "First", cell: first },
    { name: "Last", cell: last },
    { name: "Age of the last row", number: true, cell: (row) => (row.last_ts === null ? "" : span(Date.now() - toMs(row.last_ts, row.unit))) },
    { name: "Coverage", number: true, cell: (row) => percent(row.coverage_ratio) },
    { name: "Bytes", number: true, cell: (row) => bytes(row.bytes) },
    { name: "Last write", cell: (row) => (row.last_write_at ? time(seconds(Date.parse(row.last_write_at))) : "") },
  ];
  return table("Series", columns, rows);
}

// Small charts are requested once their row is on the screen, a few at a time.
const waiting = [];
let running = 0;

function spark(row, signal) {
  const node = el("span", { class: "note" }, "");
  if (row.rows === 0) return node;
  const observer = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    waiting.push({ row, node, signal });
    drain();
  });
  observer.observe(node);
  return node;
}

function drain() {
  while (running < SPARKS && waiting.length) {
    const { row, node, signal } = waiting.shift();
    if (signal.aborted) continue;
    running += 1;
    drawSpark(row, node, signal).catch(() => {}).finally(() => {
      running -= 1;
      drain();
    });
  }
}

async function drawSpark(row, node, signal) {
  const query = params({ latest: 48, numbers: "float64", shape: "columns" });
  const { columns } = await getJson(rowsPath(row.series) + query, { signal });
  const name = ["close", "price", "value", "bid_price"].find((name) => name in columns)
    ?? Object.keys(columns).find((name) => name !== "ts" && columns[name].some((value) => typeof value === "number"));
  const values = (columns[name] ?? []).filter((value) => typeof value === "number");
  if (values.length < 2) return;
  const low = Math.min(...values);
  const high = Math.max(...values);
  const place = (value, at) => `${(at / (values.length - 1)) * 120},${22 - ((value - low) / (high - low || 1)) * 20}`;
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 120 24");
  svg.setAttribute("class", "spark");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${name} of the last ${values.length} rows, from ${low} to ${high}`);
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  line.setAttribute("points", values.map(place).join(" "));
  svg.append(line);
  node.replaceChildren(svg);
}

function emptyStore() {
  const base = baseUrl();
  const write = `curl '${base}/v1/series' -H 'content-type: application/json' -d '{"kind":"kline","symbol":"BTCUSDT","timeframe":"1m","price_digits":2,"volume_digits":8}'
curl '${base}/v1/klines/BTCUSDT/1m' -H 'content-type: application/json' \\
  -d '{"rows":[{"ts":1704067200000,"open":42500,"high":42510,"low":42490,"close":42505,"volume":1.5}]}'`;
  return [
    el("h1", {}, "This store has no series yet"),
    el("p", {}, "Import files of bars or ticks:"),
    el("pre", { tabindex: "0" }, `fastk import --series kline/BTCUSDT/1m --server ${base} klines.csv`),
    el("p", {}, "or register a series and write rows:"),
    el("pre", { tabindex: "0" }, write),
    el("p", {}, "or look at sample data: ", el("code", {}, "fastk demo"), "."),
  ];
}

function debounce(call, ms) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(call, ms);
  };
}

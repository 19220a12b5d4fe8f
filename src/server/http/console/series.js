// One series: its chart, coverage, gaps, rows, registration, and lines to read it elsewhere.

import { baseUrl, download, exactJson, getJson, params, rowsPath, seriesAddress, seriesPath } from "./api.js";
import { draw } from "./chart.js";
import { copyButton, el, facts, fill, problem, table } from "./dom.js";
import { fromMs, INTERVALS, intervalFor, named, number, order, percent, span, time, toMs } from "./format.js";

/** Most points of a chart: more could not be distinguished. */
const POINTS = 800;
/** Rows of the table. */
const TAPE = 200;
/** Gaps of the table. */
const GAPS = 200;

export async function seriesPage({ main, signal, rest, search }) {
  const key = rest.join("/");
  const series = await getJson(seriesPath("/v1/series", key), { signal });
  const snapshots = (await getJson("/v1/snapshots", { signal })).snapshots;
  const asOf = search.get("as_of") ?? "";
  const view = { key, series, asOf, signal, names: fields(series) };

  const choose = el(
    "select",
    { id: "as-of", onchange: () => { location.hash = seriesAddress(key) + params({ as_of: choose.value }); } },
    el("option", { value: "" }, "now"),
    snapshots.map((snapshot) => el("option", { value: snapshot.name, selected: snapshot.name === asOf }, `snapshot ${snapshot.name}`)),
  );
  const chart = el("section", { "aria-label": "Chart" });
  const coverage = el("section", { "aria-label": "Coverage" });
  const rows = el("section", { "aria-label": "Rows" });
  fill(
    main,
    el("h1", {}, key),
    series.description ? el("p", { class: "note" }, series.description) : null,
    el("div", { class: "bar" }, el("label", { for: "as-of" }, "As of", choose), downloads(view)),
    about(series),
    chart,
    el("h2", {}, "Coverage"),
    coverage,
    el("h2", {}, "Last rows"),
    rows,
    el("h2", {}, "Columns and rules"),
    registration(series),
    el("h2", {}, "Read it elsewhere"),
    elsewhere(view),
  );
  if (series.rows === 0) {
    fill(chart, el("p", { class: "note" }, "The series has no rows yet."));
    fill(coverage, el("p", { class: "note" }, "Nothing is stored."));
    return;
  }
  await Promise.all([
    guarded(chart, signal, () => drawChart(chart, view)),
    guarded(coverage, signal, () => drawCoverage(coverage, view)),
    guarded(rows, signal, () => drawRows(rows, view)),
  ]);
}

/** Shows an error in the part of the page that failed. */
async function guarded(node, signal, work) {
  try {
    await work();
  } catch (error) {
    if (!signal.aborted) fill(node, problem(error));
  }
}

const NUMBERS = ["decimal", "wide_decimal", "float64", "float32", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"];

/** What a chart shows: bars, the price of trades, both sides of quotes, or the first number. */
function fields(series) {
  const numbers = series.columns.filter((column) => NUMBERS.includes(column.type)).map((column) => column.name);
  const has = (...names) => names.every((name) => numbers.includes(name));
  if (has("open", "high", "low", "close")) return { bars: true, volume: has("volume") ? "volume" : null, lines: ["close"] };
  if (has("price")) return { lines: ["price"], volume: has("qty") ? "qty" : null };
  const quotes = ["bid_price", "ask_price"].filter((name) => has(name));
  if (quotes.length) return { lines: quotes, volume: null };
  const ordinary = numbers.filter((name) => !["seq", "flags", "trade_id"].includes(name));
  return { lines: (ordinary.length ? ordinary : numbers).slice(0, 3), volume: null };
}

function about(series) {
  const ms = (ts) => (ts === null || ts === undefined ? "" : `${time(toMs(ts, series.unit))} UTC`);
  return facts([
    ["Rows", number(series.rows)],
    ["First", ms(series.first_ts)],
    ["Last", ms(series.last_ts)],
    ["Age of the last row", series.last_ts === null ? "" : span(Date.now() - toMs(series.last_ts, series.unit))],
    ["Interval", series.interval_ms ? span(series.interval_ms) : series.timeframe],
    ["Unit of ts", series.unit],
    ["Order", order(series.order)],
    ["Partition", series.partition],
    ["Calendar", named(series.calendar)],
    ["Retention", series.retention ? named(series.retention) : "everything is kept"],
    ["Version", number(series.version)],
  ]);
}

function downloads({ key, asOf }) {
  const path = (format) => rowsPath(key) + params({ format, as_of: asOf });
  const name = key.replace(/[^\w.-]+/g, "_");
  const endings = { csv: "csv", parquet: "parquet", arrow: "arrows" };
  return ["csv", "parquet", "arrow"].map((format) =>
    el("button", { type: "button", onclick: () => download(path(format), `${name}.${endings[format]}`) }, `Download ${format === "arrow" ? "Arrow" : format === "csv" ? "CSV" : "Parquet"}`),
  );
}

// The chart

async function drawChart(node, view) {
  const { series, names } = view;
  const first = toMs(series.first_ts, series.unit);
  const last = toMs(series.last_ts, series.unit);
  const least = series.interval_ms ?? 0;
  const target = el("div", { class: "chart", role: "img", "aria-label": `Chart of ${series.series}` });
  const state = el("p", { class: "note", "aria-live": "polite" });
  const chosen = el(
    "select",
    { id: "every" },
    el("option", { value: "" }, "as fits"),
    INTERVALS.filter(([, ms]) => ms >= least).map(([name]) => el("option", { value: name }, name)),
  );
  const spans = [["1 day", 86_400_000], ["1 week", 604_800_000], ["1 month", 2_629_800_000], ["1 year", 31_557_600_000], ["all", Infinity]];
  const buttons = spans.map(([name, length]) =>
    el("button", { type: "button", onclick: () => show([Math.max(first, last - length), last + least]) }, name),
  );
  fill(
    node,
    el("div", { class: "bar" }, el("label", { for: "every" }, "Interval", chosen), el("div", { class: "tabs" }, buttons)),
    state,
    target,
    names.bars || names.lines.length ? null : el("p", { class: "note" }, "There is no column of numbers to draw."),
  );
  if (!names.bars && !names.lines.length) {
    target.remove();
    return;
  }
  let shown = [first, last + least];
  let request = new AbortController();
  let isListening = false;

  const show = async (range) => {
    shown = range;
    request.abort();
    request = new AbortController();
    const stop = AbortSignal.any([view.signal, request.signal]);
    const from = Math.max(first - least, range[0]);
    const to = Math.min(last + least, range[1]);
    const fitting = intervalFor(Math.max(to - from, 1), POINTS, least);
    const every = INTERVALS.find(([name]) => name === chosen.value) ?? fitting;
    const started = performance.now();
    let data;
    try {
      data = await load(view, from, to, every, stop);
    } catch (error) {
      if (!stop.aborted) fill(state, problem(error));
      return;
    }
    const { columns, label } = data;
    const took = Math.round(performance.now() - started);
    state.textContent = `${time(from)} to ${time(to)} UTC, ${label}, ${number(columns.ts.length)} points, ${took} ms`;
    const x = columns.ts.map((ts) => new Date(toMs(ts, series.unit)).toISOString().replace("Z", ""));
    await draw(target, (colour) => traces(view, columns, x, colour), () => axes(view, range));
    if (!isListening) {
      isListening = true;
      target.on("plotly_relayout", (change) => {
        const low = change["xaxis.range[0]"] ?? change["xaxis.range"]?.[0];
        const high = change["xaxis.range[1]"] ?? change["xaxis.range"]?.[1];
        if (change["xaxis.autorange"]) soon([first, last + least]);
        else if (low !== undefined) soon([utc(low), utc(high)]);
      });
    }
  };
  let timer = 0;
  const soon = (range) => {
    clearTimeout(timer);
    timer = setTimeout(() => show(range), 60);
  };
  chosen.addEventListener("change", () => show(shown));
  await show(shown);
}

/** The library writes times without a zone; they are UTC. */
const utc = (text) => (typeof text === "number" ? text : Date.parse(`${String(text).replace(" ", "T")}Z`));

/** The points of a range: rows as they are stored where they are few, else buckets. */
async function load({ key, series, names, asOf }, from, to, [every, length], signal) {
  const path = rowsPath(key);
  const common = {
    start: fromMs(from, series.unit),
    end: fromMs(to, series.unit),
    numbers: "float64",
    shape: "columns",
    as_of: asOf,
    limit: 20_000,
  };
  const isStored = series.interval_ms && length <= series.interval_ms;
  if (isStored || (!series.interval_ms && series.rows <= POINTS)) {
    const wanted = [...(names.bars ? ["open", "high", "low", "close"] : names.lines), names.volume].filter(Boolean);
    const { columns } = await getJson(path + params({ ...common, columns: wanted.join(",") }), { signal });
    return { columns, label: "as stored" };
  }
  const rules = names.bars
    ? ["open:first as open", "high:max as high", "low:min as low", "close:last as close"]
    : names.lines.flatMap((name) => [`${name}:last as ${name}`, `${name}:min as ${name}_low`, `${name}:max as ${name}_high`]);
  if (names.volume) rules.push(`${names.volume}:sum as ${names.volume}`);
  const { columns } = await getJson(path + params({ ...common, every, agg: rules }), { signal });
  return { columns, label: `every ${every}` };
}

function traces({ names }, columns, x, colour) {
  const all = [];
  if (names.bars) {
    const { open, high, low, close } = columns;
    const side = (name) => ({ line: { color: colour(name), width: 1 }, fillcolor: colour(name) });
    all.push({ type: "candlestick", name: "price", x, open, high, low, close, increasing: side("good"), decreasing: side("bad") });
  } else {
    const colours = ["accent", "bad", "good"];
    names.lines.forEach((name, at) => {
      const line = { color: colour(colours[at]), width: 1.5 };
      if (`${name}_low` in columns) {
        const edge = { type: "scatter", mode: "lines", x, line: { width: 0 }, hoverinfo: "skip" };
        all.push({ ...edge, y: columns[`${name}_low`] }, { ...edge, y: columns[`${name}_high`], fill: "tonexty", fillcolor: `${colour(colours[at])}40` });
      }
      all.push({ type: "scatter", mode: "lines", name, x, y: columns[name], line });
    });
  }
  if (names.volume && columns[names.volume]) {
    all.push({ type: "bar", name: names.volume, x, y: columns[names.volume], yaxis: "y2", marker: { color: colour("soft") }, opacity: 0.5 });
  }
  return all;
}

function axes({ names, key }, range) {
  const [from, to] = range.map((ms) => new Date(ms).toISOString().replace("Z", ""));
  return {
    xaxis: { rangeslider: { visible: false }, range: [from, to], autorange: false, anchor: names.volume ? "y2" : "y" },
    yaxis: { domain: names.volume ? [0.25, 1] : [0, 1], autorange: true, fixedrange: true, tickformat: "" },
    yaxis2: names.volume ? { domain: [0, 0.2], autorange: true, fixedrange: true } : undefined,
    uirevision: key,
  };
}

// Coverage

async function drawCoverage(node, view) {
  const { key, series, asOf, signal } = view;
  const heat = el("div");
  const list = el("div");
  fill(node, heat, list);
  // Intervals of months have no length in milliseconds.
  const hasInterval = series.interval_ms || /\d[Mqy]$/.test(series.timeframe ?? "");
  const path = seriesPath("/v1/coverage", key) + params({ limit: GAPS, as_of: asOf });
  const [days, gaps] = await Promise.allSettled([rowsOfDays(view), hasInterval ? getJson(path, { signal }) : null]);
  if (signal.aborted) return;
  if (!hasInterval) fill(list, el("p", { class: "note" }, "The series has no interval, so there are no gaps to list."));
  else fill(list, gaps.status === "fulfilled" ? gapsTable(gaps.value, series) : problem(gaps.reason));
  if (days.status === "fulfilled" && days.value) await drawDays(heat, days.value, view);
}

/** Rows of each day; `null` where bars are as long as a day or longer. */
async function rowsOfDays({ key, series, asOf, signal }) {
  if (series.interval_ms && series.interval_ms >= 86_400_000) return null;
  const path = rowsPath(key);
  const query = { every: "1d", agg: "count", shape: "columns", limit: 20_000, as_of: asOf };
  return (await getJson(path + params(query), { signal })).columns;
}

async function drawDays(node, columns, { series }) {
  const DAY = 86_400_000;
  const days = columns.ts.map((ts) => Math.floor(toMs(ts, series.unit) / DAY));
  // 1970-01-01 was a Thursday; weeks begin on Monday.
  const weekday = (day) => (((day + 3) % 7) + 7) % 7;
  const week = (day) => day - weekday(day);
  const weeks = [];
  for (let at = week(days[0]); at <= days[days.length - 1]; at += 7) weeks.push(at);
  const names = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
  const expected = series.interval_ms ? DAY / series.interval_ms : Math.max(...columns.count);
  const z = names.map(() => weeks.map(() => 0));
  const text = names.map((_, row) => weeks.map((start) => `${new Date((start + row) * DAY).toISOString().slice(0, 10)}: no rows`));
  days.forEach((day, at) => {
    const place = (week(day) - weeks[0]) / 7;
    z[weekday(day)][place] = columns.count[at] / expected;
    text[weekday(day)][place] = `${new Date(day * DAY).toISOString().slice(0, 10)}: ${number(columns.count[at])} rows`;
  });
  const target = el("div", {
    class: "chart small",
    role: "img",
    "aria-label": `Rows of each day, from ${new Date(days[0] * DAY).toISOString().slice(0, 10)} on; gaps are in the table`,
  });
  fill(node, target);
  const x = weeks.map((day) => new Date(day * DAY).toISOString().slice(0, 10));
  await draw(
    target,
    (colour) => [{
      type: "heatmap", x, y: names, z, text, hovertemplate: "%{text}<extra></extra>", zmin: 0, zmax: 1, xgap: 1, ygap: 1,
      colorscale: [[0, colour("panel")], [0.001, colour("bad")], [0.98, colour("warn")], [1, colour("good")]],
      colorbar: { tickformat: ".0%", thickness: 12 },
    }],
    () => ({ yaxis: { autorange: "reversed", fixedrange: true }, xaxis: { fixedrange: true }, dragmode: false, hovermode: "closest" }),
  );
}

function gapsTable(coverage, series) {
  const length = series.interval_ms ?? 0;
  const ms = (ts) => toMs(ts, series.unit);
  const shown = facts([
    ["Coverage", percent(coverage.ratio)],
    ["Expected intervals", number(coverage.expected)],
    ["Present", number(coverage.present)],
    ["Gaps", number(coverage.gaps_total)],
    ["Off the grid", number(coverage.off_grid)],
    ["Outside the calendar", number(coverage.outside_calendar)],
    ["Calendar", named(coverage.calendar)],
  ]);
  if (!coverage.gaps.length) return [shown, el("p", { class: "good" }, "No interval is missing.")];
  const rows = coverage.gaps;
  const columns = [
    { name: "First missing", cell: (gap) => time(ms(gap.start)) },
    { name: "Last missing", cell: (gap) => time(ms(gap.end)) },
    { name: "Missing intervals", number: true, cell: (gap) => number(gap.missing) },
    { name: "Length", number: true, cell: (gap) => span(ms(gap.end) - ms(gap.start) + length) },
  ];
  const caption = coverage.truncated ? `The first ${rows.length} of ${number(coverage.gaps_total)} gaps` : "Gaps";
  return [shown, table(caption, columns, rows, { tall: rows.length > 15 })];
}

// Rows

async function drawRows(node, { key, series, asOf, signal }) {
  const path = rowsPath(key);
  const { rows } = await exactJson(path + params({ latest: TAPE, numbers: "string", as_of: asOf, order: "desc" }), { signal });
  const isNumber = (name) => NUMBERS.includes(series.columns.find((column) => column.name === name)?.type);
  const names = ["ts", ...series.columns.map((column) => column.name)];
  const columns = names.map((name) => ({
    name: name === "ts" ? "ts (UTC)" : name,
    number: isNumber(name),
    cell: (row) => (name === "ts" ? exactTime(row.ts, series.unit) : row[name] ?? ""),
  }));
  fill(node, table(`The last ${number(rows.length)} rows, the newest first`, columns, rows, { tall: true }));
}

/** A timestamp with all digits of its unit. */
function exactTime(text, unit) {
  const digits = { s: 0, ms: 3, us: 6, ns: 9 }[unit];
  const ticks = BigInt(text);
  const scale = 10n ** BigInt(digits);
  const part = ((ticks % scale) + scale) % scale;
  const seconds = new Date(Number((ticks - part) / scale) * 1000).toISOString().slice(0, 19).replace("T", " ");
  return part === 0n ? seconds : `${seconds}.${String(part).padStart(digits, "0")}`;
}

function registration(series) {
  const columns = [
    { name: "Column", cell: (column) => column.name },
    { name: "Type", cell: (column) => column.type },
    { name: "Digits", number: true, cell: (column) => column.digits ?? "" },
    { name: "Nullable", cell: (column) => (column.nullable ? "yes" : "no") },
    { name: "Merge rule", cell: (column) => column.merge ?? "" },
    { name: "Values", wrap: true, cell: (column) => (column.values ?? []).join(", ") },
  ];
  const rule = (rule) => [rule.rule, rule.field, ...(rule.of ? [`of ${rule.of.join(", ")}`] : [])].join(" ");
  return [
    table("Columns", columns, series.columns),
    series.rules.length ? el("p", { class: "note" }, "Rules of a row: ", series.rules.map(rule).join("; ")) : null,
  ];
}

function elsewhere({ key, asOf }) {
  const path = baseUrl() + rowsPath(key);
  const at = asOf ? `&as_of=${encodeURIComponent(asOf)}` : "";
  const ticket = JSON.stringify({ series: [key], numbers: "float64", ...(asOf ? { as_of: asOf } : {}) });
  const lines = [
    ["curl", `curl '${path}?latest=3&format=csv&times=rfc3339${at}'`],
    ["Polars", `import polars as pl\ndf = pl.read_ipc_stream('${path}?format=arrow&numbers=float64${at}')`],
    ["pandas", `import pandas as pd\ndf = pd.read_csv('${path}?format=csv&times=rfc3339${at}', parse_dates=['ts'])`],
    ["pyarrow", `import pyarrow.flight as flight\nclient = flight.connect('grpc://${location.hostname}:8815')\ntable = client.do_get(flight.Ticket('${ticket}')).read_all()`],
    ["DuckDB", `import duckdb\nduckdb.sql("from read_csv('${path}?format=csv&times=rfc3339${at}')")`],
  ];
  return lines.map(([name, text]) =>
    el("div", { class: "copy" }, el("pre", { tabindex: "0", "aria-label": name }, text), copyButton(text, name)),
  );
}

// Registers a series, writes, merges, reads and lists with a client that is typed by the OpenAPI document alone. The test
// type-checks it, runs it in Node against a server, and compares the line that it prints.

import createClient from "openapi-fetch";
import type { components, paths } from "./fastk";

declare const process: { argv: string[] };
type Problem = components["schemas"]["Problem"];

const series = { symbol: "BTCUSDT", timeframe: "1m" };
const start = Date.UTC(2024, 1, 1);
const client = createClient<paths, "application/json">({ baseUrl: process.argv[2] ?? "" });

// What a call gave, or its problem document as an error.
function good<T>(reply: { data?: T; error?: unknown }): T {
  const problem = reply.error as Problem | undefined;
  if (reply.data === undefined) throw new Error(problem ? `${problem.code}: ${problem.detail}` : "no answer");
  return reply.data;
}

const registered = good(
  await client.POST("/v1/series", { body: { kind: "kline", ...series, price_digits: 2, volume_digits: 8 } }),
);
const row: components["schemas"]["Row"] = {
  ts: start, open: "42000.10", high: 42010, low: 41990.5, close: "42005.00", volume: "3.5",
};
const written = good(
  await client.POST("/v1/klines/{symbol}/{timeframe}", { params: { path: series }, body: { rows: [row] } }),
);
const listed = good(await client.POST("/v1/klines/{symbol}/{timeframe}", {
  params: { path: series },
  body: [{ ...row, ts: start + 60_000 }],
}));
const merged = good(await client.POST("/v1/klines/{symbol}/{timeframe}/merge", {
  params: { path: series, header: { "Idempotency-Key": "merge-1" } },
  body: { columns: { ts: [start], open: [42001], high: [42020], low: [42001], close: ["42002.25"], volume: [1] } },
}));
const read = good(await client.GET("/v1/klines/{symbol}/{timeframe}", {
  params: { path: series, query: { start: "2024-02-01", end: "2024-02-01", numbers: "string" } },
}));
const page = good(await client.GET("/v1/series", { params: { query: { kind: "kline" } } }));
const columns = page.series[0]?.columns.map((column) => `${column.name}:${column.type}:${column.digits}`);
console.log(
  JSON.stringify({
    created: registered.created,
    written: [written.rows_written, listed.rows_written, merged.rows_replaced],
    rows: read.rows,
    series: page.series.map((one) => one.series),
    columns,
  }),
);

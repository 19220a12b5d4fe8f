// Registers a series, writes two klines, reads them back and shows them. Paths, parameters, bodies and responses are
// typed by the OpenAPI document: `npm run types` makes fastk.ts of it.

import createClient from "openapi-fetch";
import type { components, paths } from "./fastk";

type Problem = components["schemas"]["Problem"];
type Rows = NonNullable<components["schemas"]["RowsReply"]["rows"]>;

const SERIES = { symbol: "BTCUSDT", timeframe: "1m" };
const START = Date.UTC(2024, 1, 1);

function element(id: string): HTMLElement {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found;
}

function value(id: string): string {
  return (element(id) as HTMLInputElement).value.trim();
}

// What a call gave, or its problem document as an error.
function good<T>(reply: { data?: T; error?: Problem }): T {
  if (reply.data === undefined) throw new Error(reply.error ? `${reply.error.code}: ${reply.error.detail}` : "no response");
  return reply.data;
}

async function writeAndRead(server: string, token: string): Promise<Rows> {
  const headers: Record<string, string> = token ? { authorization: `Bearer ${token}` } : {};
  const client = createClient<paths, "application/json">({ baseUrl: server, headers });

  await client
    .POST("/v1/series", { body: { kind: "kline", ...SERIES, price_digits: 2, volume_digits: 8 } })
    .then((reply) => good({ data: reply.data, error: reply.error as Problem | undefined }));

  // Decimals as text arrive digit by digit; numbers do too, as far as a double has them.
  const written = await client.POST("/v1/klines/{symbol}/{timeframe}", {
    params: { path: SERIES, header: { "Idempotency-Key": crypto.randomUUID() } },
    body: [
      { ts: START, open: "42000.10", high: "42010.00", low: "41990.50", close: "42005.00", volume: "3.5" },
      { ts: START + 60_000, open: 42005, high: 42020.5, low: 42000, close: 42018.25, volume: 0.00000001 },
    ],
  });
  good({ data: written.data, error: written.error as Problem | undefined });

  const read = await client.GET("/v1/klines/{symbol}/{timeframe}", {
    params: { path: SERIES, query: { start: "2024-02-01", end: "2024-02-01", numbers: "string", times: "rfc3339" } },
  });
  return good({ data: read.data, error: read.error as Problem | undefined }).rows ?? [];
}

function show(rows: Rows): void {
  const line = (cells: unknown[], kind: "th" | "td") => {
    const row = document.createElement("tr");
    for (const text of cells) row.appendChild(document.createElement(kind)).textContent = String(text);
    return row;
  };
  const columns = ["ts", "open", "high", "low", "close", "volume"];
  element("head").replaceChildren(line(columns, "th"));
  element("rows").replaceChildren(...rows.map((row) => line(columns.map((column) => row[column]), "td")));
}

element("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  element("status").textContent = "asking";
  try {
    const rows = await writeAndRead(value("server"), value("token"));
    show(rows);
    element("status").textContent = `read ${rows.length} rows`;
  } catch (error) {
    element("status").textContent = `failed: ${error instanceof Error ? error.message : error}`;
  }
});

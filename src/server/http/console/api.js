// Requests to the API of the server that served this page. The token is kept for the tab alone.

const TOKEN = "fastk-token";

export const token = () => sessionStorage.getItem(TOKEN) ?? "";
export const setToken = (text) => (text ? sessionStorage.setItem(TOKEN, text) : sessionStorage.removeItem(TOKEN));

/** A refusal of the server, or that it could not be reached: then `status` is 0. */
export class ApiError extends Error {
  constructor(status, code, detail, hint, requestId) {
    super(detail);
    Object.assign(this, { status, code, hint, requestId });
  }
}

/** Sends a request; the response if it succeeded. */
export async function send(path, options = {}) {
  const headers = { ...(options.headers ?? {}) };
  if (token()) headers.authorization = `Bearer ${token()}`;
  if (options.body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path.replace(/^\//, ""), { ...options, headers });
  } catch (cause) {
    if (cause.name === "AbortError") throw cause;
    throw new ApiError(0, "unreachable", "The server does not answer.", "Is it running? Try again once it is.");
  }
  if (response.ok) return response;
  let problem = {};
  try {
    problem = await response.json();
  } catch {
    // Not an error of the server itself, but of something between: the status says all.
  }
  throw new ApiError(
    response.status,
    problem.code ?? `HTTP ${response.status}`,
    problem.detail ?? response.statusText,
    problem.hint,
    problem.request_id,
  );
}

/** A JSON response. */
export async function getJson(path, options) {
  return (await send(path, options)).json();
}

/** A JSON response with numbers as they are written: a number of JavaScript would lose digits. */
export async function exactJson(path, options) {
  const text = await (await send(path, options)).text();
  return JSON.parse(text, (_key, value, context) => (typeof value === "number" && context ? context.source : value));
}

export const post = (path, body, options = {}) =>
  send(path, { method: "POST", body: JSON.stringify(body), ...options });

/** Path of a series below a prefix. */
export const seriesPath = (prefix, key) => `${prefix}/${key.split("/").map(encodeURIComponent).join("/")}`;

/** Path of the rows of a series. */
export const rowsPath = (key) => `${seriesPath("/v1/series", key)}/rows`;

/** Address of the page of a series. */
export const seriesAddress = (key) => seriesPath("#/series", key);

/** Address of the server, as other programs reach it. */
export const baseUrl = () => location.href.split("#")[0].replace(/\/$/, "");

/** Parameters of a URL; those without a value are left out. */
export function params(values) {
  const all = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    if (value === null || value === undefined || value === "") continue;
    for (const one of Array.isArray(value) ? value : [value]) all.append(name, one);
  }
  const text = all.toString();
  return text ? `?${text}` : "";
}

/** All pages of a list. `each` gets the members of a page, and returns whether to go on. */
export async function pages(path, values, member, each) {
  let cursor = null;
  do {
    const page = await getJson(path + params({ ...values, cursor }));
    if (each(page[member], page) === false) return;
    cursor = page.next_cursor;
  } while (cursor);
}

/** Saves a response as a file: by a link where no token is needed, else through memory. */
export async function download(path, name) {
  const link = document.createElement("a");
  link.download = name;
  if (!token()) {
    link.href = path.replace(/^\//, "");
    link.click();
    return;
  }
  const blob = await (await send(path)).blob();
  link.href = URL.createObjectURL(blob);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

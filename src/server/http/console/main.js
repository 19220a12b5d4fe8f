// Pages by the part of the address after `#`, the token, and errors that every page can meet.

import { ApiError, getJson, setToken, token } from "./api.js";
import { el, fill, problem, say } from "./dom.js";
import { redraw } from "./chart.js";
import { healthPage } from "./health.js";
import { queryPage } from "./query.js";
import { registryPage } from "./registry.js";
import { seriesPage } from "./series.js";
import { seriesListPage } from "./series_list.js";

const PAGES = { "": seriesListPage, series: seriesPage, query: queryPage, health: healthPage, registry: registryPage };

/** Ends the timers and requests of the page before. */
let leave = new AbortController();

async function show() {
  leave.abort();
  leave = new AbortController();
  const { signal } = leave;
  const [path, search = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/");
  const page = PAGES[name];
  const main = document.getElementById("main");
  mark(name === "" ? "series" : name);
  document.getElementById("sign-out").hidden = !token();
  if (!page) {
    fill(main, el("h1", {}, "There is no such page"), el("p", {}, el("a", { href: "#/" }, "All series")));
    return;
  }
  fill(main, el("p", { class: "note" }, "Loading…"));
  try {
    await page({ main, signal, rest: rest.map(decodeURIComponent), search: new URLSearchParams(search) });
  } catch (error) {
    if (!signal.aborted) fail(main, error);
  }
}

function mark(page) {
  for (const link of document.querySelectorAll("header nav a[data-page]")) {
    if (link.dataset.page === page) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

/** A page instead of one that failed: what happened, and what to do. */
function fail(main, error) {
  if (error instanceof ApiError && error.status === 401) {
    fill(main, signIn(token() ? error : null));
    return;
  }
  const again = el("button", { type: "button", class: "primary", onclick: show }, "Try again");
  if (error instanceof ApiError && error.status === 0) {
    fill(main, el("h1", {}, "The server does not answer"), el("p", {}, error.hint), again);
    return;
  }
  if (!(error instanceof ApiError)) console.error(error);
  fill(main, el("h1", {}, "This page could not be shown"), problem(error), again);
}

/** Asks for a token. */
function signIn(error) {
  const field = el("input", { type: "password", id: "token", name: "token", autocomplete: "off", required: true });
  const submit = async (event) => {
    event.preventDefault();
    setToken(field.value.trim());
    await show();
  };
  return el(
    "form",
    { class: "sign-in", onsubmit: submit },
    el("h1", {}, "This server asks for a token"),
    error ? problem(error) : null,
    el("label", { for: "token" }, "Token", field),
    el("p", { class: "note" }, "It is kept for this tab only. An administrator creates one with: fastk admin token create"),
    el("button", { type: "submit", class: "primary" }, "Use this token"),
  );
}

function theme() {
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const apply = (name) => {
    document.documentElement.dataset.theme = name;
    button.textContent = name === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to the ${name === "dark" ? "light" : "dark"} theme`);
  };
  apply(localStorage.getItem("fastk-theme") ?? system);
  button.addEventListener("click", () => {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    localStorage.setItem("fastk-theme", next);
    apply(next);
    redraw();
  });
}

theme();
document.getElementById("sign-out").addEventListener("click", () => {
  setToken("");
  say("The token is forgotten");
  show();
});
window.addEventListener("hashchange", () => {
  document.getElementById("main").focus();
  show();
});
getJson("/openapi.json").then((api) => (document.querySelector(".brand").title = `FastK ${api.info.version}`), () => {});
show();

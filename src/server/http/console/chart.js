// Charts of the chart library, in the colours of the page. The library is loaded by the first page that draws.

import { el } from "./dom.js";

let library = null;

/** The chart library. */
function plotly() {
  library ??= new Promise((resolve, reject) => {
    const script = el("script", { src: "console/plotly.js" });
    script.addEventListener("load", () => resolve(window.Plotly));
    script.addEventListener("error", () => {
      library = null;
      reject(new Error("the chart library could not be loaded"));
    });
    document.head.append(script);
  });
  return library;
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** Layout of a chart in the colours of the theme. */
function layout(more) {
  const axis = { gridcolor: colour("line"), linecolor: colour("line"), zerolinecolor: colour("line") };
  return {
    paper_bgcolor: colour("back"),
    plot_bgcolor: colour("back"),
    font: { color: colour("text"), size: 12 },
    margin: { l: 60, r: 15, t: 15, b: 35 },
    showlegend: false,
    dragmode: "pan",
    hovermode: "x",
    ...more,
    xaxis: { ...axis, type: "date", ...more.xaxis },
    yaxis: { ...axis, ...more.yaxis },
    ...(more.yaxis2 ? { yaxis2: { ...axis, ...more.yaxis2 } } : {}),
  };
}

const CONFIG = {
  responsive: true,
  displaylogo: false,
  scrollZoom: true,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
};

/** Drawn charts, to draw again in the colours of another theme. */
const drawn = new Map();

/** Draws or updates a chart. `traces` and `more` are functions, because they depend on the theme. */
export async function draw(node, traces, more) {
  const Plotly = await plotly();
  drawn.set(node, { traces, more });
  await Plotly.react(node, traces(colour), layout(more(colour)), CONFIG);
}

/** Draws all charts that are still on the page again. */
export async function redraw() {
  for (const [node, { traces, more }] of drawn) {
    if (node.isConnected) await draw(node, traces, more);
    else drawn.delete(node);
  }
}

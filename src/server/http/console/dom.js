// Elements, tables and messages.

/** An element with attributes and children: `on…` attributes are listeners, `false` and `null` are left out. */
export function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key in node && typeof value === "boolean") node[key] = value;
    else node.setAttribute(key, value);
  }
  append(node, children);
  return node;
}

function append(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : String(child));
  }
}

/** Replaces the children of a node. */
export function fill(node, ...children) {
  node.replaceChildren();
  append(node, children);
  return node;
}

/** A table: columns of `{name, number, cell(row)}`, where a cell is text or a node. */
export function table(caption, columns, rows, options = {}) {
  const head = columns.map((column) => el("th", { scope: "col", class: column.number ? "number" : null }, column.name));
  const body = el("tbody");
  const add = (more) => {
    for (const row of more) {
      const cells = columns.map((column) => {
        const kind = column.number ? "number" : column.wrap ? "wrap" : null;
        return el("td", { class: kind }, column.cell(row));
      });
      body.append(el("tr", {}, cells));
    }
  };
  add(rows);
  const parts = [el("caption", {}, caption), el("thead", {}, el("tr", {}, head)), body];
  // What scrolls can be reached and scrolled with the keyboard.
  const node = el(
    "div",
    { class: options.tall ? "scroll tall" : "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el("table", {}, parts),
  );
  node.add = add;
  return node;
}

/** A list of named facts. */
export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return el("dl", { class: "facts" }, shown.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

/** An error: what happened, and what to do about it. */
export function problem(error) {
  const hint = error.hint ? el("p", {}, error.hint) : null;
  const id = error.requestId ? el("p", { class: "note" }, `Request ${error.requestId}`) : null;
  return el("div", { class: "error", role: "alert" }, el("strong", {}, error.code ?? "error"), " ", error.message, hint, id);
}

/** A button that copies text. */
export function copyButton(text, what) {
  return el("button", { type: "button", "aria-label": `Copy: ${what}`, onclick: () => copy(text, what) }, "Copy");
}

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    say(`Copied: ${what}`);
  } catch {
    say("The browser does not allow copying here");
  }
}

let clearing = 0;

/** Shows a short message, also to screen readers. */
export function say(text) {
  const status = document.getElementById("status");
  status.textContent = text;
  clearTimeout(clearing);
  clearing = setTimeout(() => (status.textContent = ""), 4000);
}

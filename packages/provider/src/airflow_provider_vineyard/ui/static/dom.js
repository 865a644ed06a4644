// What the page is built with. Whatever comes from a server becomes a text node or an attribute, never markup.

/** Return an element. `on...` are listeners, other properties are attributes; null, undefined and false are left out. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

/** Replace what an element holds. */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

/** Return a table whose first cell in each row is its heading; cells are nodes or texts. */
export function table(caption, headings, rows, properties = {}) {
  return h(
    "div",
    { class: "scroll", role: "region", "aria-label": caption, tabindex: 0 },
    h(
      "table",
      properties,
      h("caption", {}, caption),
      h("thead", {}, h("tr", {}, headings.map((heading) => h("th", { scope: "col" }, heading)))),
      h("tbody", {}, rows),
    ),
  );
}

/** Return a number of bytes for people. */
export function bytes(count) {
  if (typeof count !== "number") return "–";
  let rest = count;
  for (const unit of ["B", "KiB", "MiB", "GiB", "TiB"]) {
    if (rest < 1024 || unit === "TiB") return `${unit === "B" ? rest : rest.toFixed(rest < 10 ? 1 : 0)} ${unit}`;
    rest /= 1024;
  }
  return "";
}

/** Return seconds for people. */
export function age(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

/** Return a moment in the browser's own time zone and words, with the exact one as its title. */
export function moment(text) {
  const date = new Date(text);
  const shown = Number.isNaN(date.getTime()) ? text : date.toLocaleString();
  return h("time", { datetime: text, title: text }, shown);
}

/** Return a count with its noun. */
export function plural(count, noun, nouns = `${noun}s`) {
  return `${count.toLocaleString()} ${count === 1 ? noun : nouns}`;
}

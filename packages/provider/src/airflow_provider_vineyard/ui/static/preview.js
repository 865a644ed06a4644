// Previews: what a value looks like, by its kind. The server has rebuilt them, so the fields are what they should be.

import { h, plural, table } from "./dom.js";

/** Return an element that shows a preview. */
export function preview(found) {
  const show = { table: frame, array, text, bytes: hexadecimal, tree }[found.kind];
  return show ? show(found) : h("p", {}, "There is a preview of a kind that this page does not know.");
}

function frame(found) {
  const head = found.head ?? [];
  const size = [found.rows === undefined ? "" : plural(found.rows, "row"), found.cols === undefined ? "" : plural(found.cols, "column")];
  const parts = [h("p", { class: "facts" }, size.filter(Boolean).join(" × "), index(found.index), sample(found))];
  const columns = found.columns;
  if (head.length > 0) {
    parts.push(
      table(
        "First rows",
        columns.map((column) => [shown(column.name), h("small", {}, ` ${column.type}`)]),
        head.map((row) => h("tr", {}, row.map((cell) => h("td", {}, shown(cell))))),
        { class: "data" },
      ),
    );
  }
  const figures = columns.some((column) => column.nulls || column.stats || column.hist);
  if (head.length === 0 || figures) {
    parts.push(
      table(
        "Columns",
        ["Name", "Type", "Missing", "Range", "Distribution"],
        columns.map((column) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, shown(column.name)),
            h("td", {}, column.type),
            h("td", {}, column.nulls ?? "–"),
            h("td", {}, range(column)),
            h("td", {}, histogram(column.hist)),
          ),
        ),
        { class: "data" },
      ),
    );
  }
  if (found.cols > columns.length) parts.push(h("p", {}, `The first ${columns.length} of ${found.cols} columns are shown.`));
  return h("div", {}, parts);
}

/** What the rows are named by; that they are counted goes without saying. */
function index(found) {
  if (!found || (!found.name && found.type === "pandas.RangeIndex")) return "";
  return `, indexed by ${[found.name, found.type].filter(Boolean).join(", ")}`;
}

function array(found) {
  const size = found.shape.reduce((product, length) => product * length, 1);
  const parts = [
    h("p", { class: "facts" }, `${found.dtype}, ${found.shape.length ? found.shape.join(" × ") : "a single one"}`, found.sampled < size ? sample(found) : ""),
  ];
  if (found.stats) parts.push(h("p", {}, range(found)));
  if (found.hist) parts.push(h("p", {}, histogram(found.hist)));
  if (found.head !== undefined) {
    const rows = Array.isArray(found.head) && found.head.some(Array.isArray) ? found.head : [found.head];
    parts.push(
      h(
        "div",
        { class: "scroll", role: "region", "aria-label": "First elements", tabindex: 0 },
        h(
          "table",
          { class: "data" },
          h("caption", {}, "First elements"),
          h(
            "tbody",
            {},
            rows.map((row) => h("tr", {}, (Array.isArray(row) ? row : [row]).map((cell) => h("td", {}, flat(cell))))),
          ),
        ),
      ),
    );
  }
  return h("div", {}, parts);
}

function flat(cell) {
  return Array.isArray(cell) ? `[${cell.map(flat).join(", ")}]` : shown(cell);
}

function text(found) {
  const cut = found.head !== undefined && found.length > found.head.length;
  return h(
    "div",
    {},
    h("p", { class: "facts" }, plural(found.length ?? 0, "character"), cut ? ", the beginning is shown" : ""),
    found.head === undefined ? null : h("pre", { tabindex: 0 }, found.head),
  );
}

function hexadecimal(found) {
  const pairs = (found.head ?? "").match(/.{1,2}/gu) ?? [];
  const lines = [];
  for (let at = 0; at < pairs.length; at += 16) lines.push(pairs.slice(at, at + 16).join(" "));
  return h(
    "div",
    {},
    h("p", { class: "facts" }, plural(found.length ?? 0, "byte"), found.length > pairs.length ? ", the beginning is shown" : ""),
    lines.length ? h("pre", { tabindex: 0 }, lines.join("\n")) : null,
  );
}

function tree(found) {
  return h("div", { class: "tree" }, node(found, 0));
}

function node(found, depth) {
  const facts = [found.t];
  if (found.n !== undefined) facts.push(`of ${found.n}`);
  if (found.shape) facts.push(found.shape.join(" × "));
  if (found.dtype) facts.push(found.dtype);
  const line = found.v === undefined ? h("span", { class: "type" }, facts.join(" ")) : [shown(found.v), h("small", {}, ` ${facts.join(" ")}`)];
  if (!found.kids || found.kids.length === 0) return h("span", {}, line);
  const kids = found.kids.map((kid) => {
    const [name, member] = Array.isArray(kid) ? kid : [kid.k ?? null, kid];
    return h("li", {}, name === null ? null : h("b", {}, `${shown(name)}: `), node(member, depth + 1));
  });
  if (found.n > kids.length) kids.push(h("li", {}, `… and ${found.n - kids.length} more`));
  return h("details", { open: depth < 2 }, h("summary", {}, line), h("ul", {}, kids));
}

function shown(cell) {
  if (cell === null || cell === undefined) return "None";
  if (cell === true) return "True";
  return cell === false ? "False" : String(cell);
}

function sample(found) {
  return found.sampled ? ` – figures are of a sample${typeof found.sampled === "number" ? ` of ${found.sampled.toLocaleString()}` : ""}` : "";
}

function range(found) {
  if (!found.stats) return "–";
  return Object.entries(found.stats)
    .map(([name, value]) => `${name} ${shown(value)}`)
    .join(", ");
}

function histogram(counts) {
  if (!counts || counts.length === 0) return "–";
  const most = Math.max(...counts, 1);
  const label = `Histogram of ${counts.length} bins: ${counts.join(", ")}`;
  return h(
    "span",
    { class: "hist", role: "img", "aria-label": label, title: label },
    counts.map((count) => h("i", { "data-height": Math.ceil((8 * count) / most) })),
  );
}

// The page, the tabs and the linked page: stores, what fills them, and values. Plain DOM in a shadow root.

import { age, bytes, fill, h, moment, plural, table } from "./dom.js";
import { preview } from "./preview.js";

const STATES = {
  there: ["good", "● in memory"],
  tier: ["good", "◐ saved, not in memory"],
  away: ["warn", "? not in memory"],
  gone: ["bad", "✕ gone"],
  silent: ["warn", "? its store does not answer"],
  unknown: ["warn", "? not asked"],
  other: ["warn", "? another DAG's"],
};
const SAFE = {
  yes: ["good", "✓ safe"],
  soon: ["warn", "… being saved"],
  no: ["bad", "✕ in memory only"],
  lost: ["bad", "✕ no copy"],
  unknown: ["", "not known"],
};
const FILTERS = [
  ["dag_id", "DAG"],
  ["run_id", "Run"],
  ["task_id", "Task"],
  ["map_index", "Map index"],
];

/**
 * Show the page in an element; return a function that takes it away.
 *
 * Options: base (URL of the routes), scope (what a tab is about), theme ("light", "dark" or whether it is dark, as a
 * function), go (goes to a path of Airflow's without loading it anew), pages (whose addresses Airflow's pages have, 2 or
 * 3), headers (returns those of requests).
 */
export function mount(place, options) {
  const host = document.createElement("div");
  place.replaceChildren(host);
  const page = new Page(host, options);
  page.start();
  return () => page.stop();
}

class Page {
  constructor(host, { base, scope = {}, theme = "light", go, pages = 3, headers = () => ({}) }) {
    Object.assign(this, { host, base, scope, go, pages, headers });
    this.root = host.attachShadow({ mode: "open" });
    this.stopped = new AbortController();
    this.filters = {};
    this.asked = 0;
    this.applyTheme(theme);
  }

  applyTheme(theme) {
    const apply = () => (this.host.dataset.theme = (typeof theme === "function" ? theme() : theme === "dark") ? "dark" : "light");
    apply();
    if (typeof theme !== "function") return;
    this.observer = new MutationObserver(apply);
    this.observer.observe(document.documentElement, { attributes: true, attributeFilter: ["class"] });
  }

  start() {
    this.status = h("p", { role: "status", class: "muted" });
    this.body = h("div", {});
    const scoped = this.scope.run_id !== undefined;
    const heading = scoped ? [] : [h("h1", {}, "Vineyard"), this.tabs()];
    const style = h("link", { rel: "stylesheet", href: new URL("static/style.css", this.base).href });
    this.root.append(style, h("div", { class: "page" }, heading, this.status, this.body));
    if (scoped) this.showValues();
    else this.select("stores");
  }

  stop() {
    this.stopped.abort();
    this.observer?.disconnect();
    this.host.remove();
  }

  // ---- tabs

  tabs() {
    const names = { stores: "Stores", values: "Values" };
    this.tab = {};
    for (const [id, name] of Object.entries(names)) {
      this.tab[id] = h("button", { role: "tab", id: `tab-${id}`, "aria-controls": "panel", onclick: () => this.select(id) }, name);
    }
    const ids = Object.keys(names);
    const step = (event) => {
      const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!move) return;
      const next = ids[(ids.indexOf(this.selected) + move + ids.length) % ids.length];
      this.select(next);
      this.tab[next].focus();
      event.preventDefault();
    };
    this.body.setAttribute("role", "tabpanel");
    this.body.id = "panel";
    return h("div", { class: "tabs", role: "tablist", "aria-label": "Vineyard", onkeydown: step }, Object.values(this.tab));
  }

  select(id, filters) {
    this.selected = id;
    for (const [name, tab] of Object.entries(this.tab)) {
      tab.setAttribute("aria-selected", name === id);
      tab.tabIndex = name === id ? 0 : -1;
    }
    this.body.setAttribute("aria-labelledby", `tab-${id}`);
    if (id === "stores") return this.showStores();
    if (filters) this.filters = filters;
    return this.showValues();
  }

  // ---- requests

  async request(path, parameters = {}, options = {}) {
    const url = new URL(path, this.base);
    for (const [name, value] of Object.entries(parameters)) {
      if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, value);
    }
    const headers = { Accept: "application/json", ...this.headers(), ...options.headers };
    const answer = await fetch(url, { credentials: "same-origin", signal: this.stopped.signal, ...options, headers });
    const type = answer.headers.get("content-type") ?? "";
    const said = type.includes("json") ? await answer.json() : null;
    if (answer.ok && said !== null) return said;
    const words = { 401: "You are not logged in.", 403: "You may not see this." };
    const detail = typeof said?.detail === "string" && answer.status !== 401 ? said.detail : "";
    const error = new Error((detail !== "Forbidden" && detail) || words[answer.status] || (answer.redirected ? words[401] : `The server answers ${answer.status}.`));
    error.status = answer.status;
    throw error;
  }

  /** Do something that asks the server, and say so while it lasts; what was asked later is not overwritten. */
  async during(words, work) {
    const number = ++this.asked;
    this.status.textContent = words;
    try {
      await work(() => number === this.asked);
      if (number === this.asked) this.status.textContent = "";
    } catch (error) {
      if (error.name === "AbortError" || number !== this.asked) return;
      this.status.textContent = "";
      fill(this.body, this.failure(error));
    }
  }

  failure(error) {
    return h("p", { role: "alert", class: "note error" }, error.message);
  }

  // ---- stores

  showStores() {
    return this.during("Asking the stores …", async (current) => {
      const [stores, sums] = await Promise.allSettled([this.request("api/stores"), this.request("api/sums")]);
      if (!current()) return;
      if (stores.status === "rejected" && sums.status === "rejected") throw stores.reason;
      const parts = [h("div", { class: "bar" }, h("button", { onclick: () => this.showStores() }, "Reload"))];
      if (stores.status === "fulfilled") parts.push(stores.value.stores.map((store) => this.store(store)), this.freeing(stores.value));
      else parts.push(h("p", { class: "note" }, "The state of the stores is for those who may see the cluster's activity."));
      if (sums.status === "fulfilled") parts.push(this.sums(sums.value.dags));
      else parts.push(this.failure(sums.reason));
      fill(this.body, parts);
    });
  }

  store(store) {
    const title = store.local ? `${store.name} (this host)` : store.name;
    const parts = [h("h2", {}, title)];
    if (store.state !== "up") parts.push(h("p", { class: "warn" }, `? ${store.why}`));
    const facts = [];
    if (store.state === "up") {
      const share = store.limit ? Math.round((100 * store.used) / store.limit) : 0;
      const label = `${bytes(store.used)} of ${bytes(store.limit)} in use, ${share} %`;
      parts.push(h("p", {}, label), bar(label, store.limit, store.bytes - store.ended, store.ended + store.others));
      facts.push(["vineyardd", store.version], ["Clients", store.connections]);
      if (store.endpoint) facts.push(["Endpoint", store.endpoint]);
    }
    facts.push(["Values of Airflow", `${plural(store.objects, "object")}, ${bytes(store.bytes)}`]);
    facts.push(["Could be freed", `${bytes(store.ended)} of runs that have ended`]);
    if (store.others !== null && store.others !== undefined) {
      facts.push(["No value of Airflow", `${bytes(store.others)}: copies of other hosts' values, garbage, other programs' objects`]);
    }
    if (store.tier) facts.push(...tier(store.tier));
    parts.push(h("dl", {}, facts.map(([name, text]) => [h("dt", {}, name), h("dd", {}, text)])));
    if (store.dags.length > 0) {
      const rows = store.dags.slice(0, 10).map((dag) => this.share(dag.dag_id, { dag_id: dag.dag_id }, dag, store.bytes));
      parts.push(table(`What fills the store of ${store.name}`, ["DAG", "Objects", "Size", "Of ended runs", "Share"], rows));
    }
    if (store.hidden > 0) parts.push(h("p", { class: "muted" }, `${bytes(store.hidden)} are of DAGs whose values you may not see.`));
    return h("section", { class: "card", "aria-label": title }, parts);
  }

  freeing(stores) {
    const dag = stores.maintenance;
    return h(
      "div",
      { class: "note" },
      h("p", {}, "To free what no run needs any more, on the host of the store: ", h("code", {}, "airflow-vineyard gc --orphans"), " for values whose rows are gone, ", h("code", {}, "airflow-vineyard gc --older-than 7d"), " for old ones. Both list the store, so choose a quiet hour."),
      dag ? h("p", {}, "Here a DAG does it: ", this.link(`dags/${encodeURIComponent(dag)}`, dag), ".") : null,
    );
  }

  sums(dags) {
    if (dags.length === 0) return h("p", {}, "No value of a DAG that you may see is in a store.");
    const total = dags.reduce((sum, dag) => sum + dag.bytes, 0);
    const tasks = dags.flatMap((dag) => dag.tasks.map((task) => ({ ...task, dag_id: dag.dag_id })));
    tasks.sort((one, other) => other.bytes - one.bytes);
    const rows = tasks.slice(0, 50).map((task) => this.share(`${task.dag_id} · ${task.task_id}`, { dag_id: task.dag_id, task_id: task.task_id }, task, total));
    return h("section", {}, table("Which tasks fill the stores", ["Task", "Objects", "Size", "Of ended runs", "Share"], rows));
  }

  share(name, filters, share, total) {
    const part = total ? Math.round((100 * share.bytes) / total) : 0;
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, h("button", { class: "plain", onclick: () => this.select("values", filters) }, name)),
      h("td", {}, share.objects.toLocaleString()),
      h("td", {}, bytes(share.bytes)),
      h("td", {}, bytes(share.ended)),
      h("td", {}, `${part} %`, bar(`${part} %`, total, share.bytes - share.ended, share.ended)),
    );
  }

  // ---- values

  showValues() {
    const scoped = this.scope.run_id !== undefined;
    this.rows = h("tbody", {});
    this.more = h("div", { class: "bar" });
    const headings = [scoped && this.scope.task_id ? "Key" : "Task and key", "What it is", "Size", "Where", "Safe?", ""];
    const list = h("table", { class: "values" }, h("caption", {}, this.caption()), h("thead", {}, h("tr", {}, headings.map((text) => h("th", { scope: "col" }, text || h("span", { class: "sr" }, "Preview"))))), this.rows);
    fill(this.body, scoped ? h("div", { class: "bar" }, h("button", { onclick: () => this.showValues() }, "Reload")) : this.filterBar(), list, this.more);
    return this.load(null);
  }

  caption() {
    const { task_id: task, map_index: index, run_id: run } = this.scope;
    if (task) return `What the task ${task}${index >= 0 && index !== null ? `[${index}]` : ""} returned and pushed`;
    return run ? "What the tasks of this run returned and pushed" : "Values, newest run first";
  }

  filterBar() {
    const inputs = FILTERS.map(([name, label]) =>
      h("label", {}, label, h("input", { name, value: this.filters[name] ?? "", autocomplete: "off", class: name === "map_index" ? "short" : null, inputmode: name === "map_index" ? "numeric" : null })),
    );
    const apply = (event) => {
      event.preventDefault();
      this.filters = Object.fromEntries([...new FormData(event.target)].map(([name, value]) => [name, value.trim()]));
      this.showValues();
    };
    const clear = () => this.select("values", {});
    return h("form", { class: "bar", role: "search", "aria-label": "Filter values", onsubmit: apply }, inputs, h("button", { type: "submit" }, "Filter"), h("button", { type: "button", onclick: clear }, "Show all"));
  }

  load(after) {
    return this.during("Loading values …", async (current) => {
      const found = await this.request("api/values", { ...this.filters, ...this.scope, after });
      if (!current()) return;
      fill(this.more, found.next && h("button", { onclick: () => this.load(found.next) }, "Older values"));
      const made = found.values.map((value) => this.value(value));
      this.rows.append(...made.flatMap((each) => each.rows));
      if (!after && made.length === 0) this.rows.append(h("tr", {}, h("td", { colspan: 6 }, "There are no values here.")));
      // "What did this task return?" has one answer, which needs no click.
      if (!after && this.scope.task_id) made.filter((each) => each.value.key === "return_value" || made.length === 1).forEach((each) => each.toggle());
    });
  }

  value(value) {
    const id = `detail-${(this.count = (this.count ?? 0) + 1)}`;
    const detail = h("div", { class: "detail", id });
    const below = h("tr", { hidden: true }, h("td", { colspan: 6 }, detail));
    const toggle = () => {
      const opens = below.hidden;
      below.hidden = !opens;
      button.setAttribute("aria-expanded", opens);
      button.firstChild.textContent = opens ? "Hide" : "Show";
      if (opens) this.detail(value, detail, refresh);
    };
    const name = this.name(value);
    const at = h("td", { "data-label": "Where" });
    const kept = h("td", { "data-label": "Safe?" });
    // Of a value by itself more is found out, and its state may have changed.
    const refresh = (found) => {
      fill(at, place(found));
      fill(kept, safe(found));
    };
    refresh(value);
    const button = h("button", { "aria-expanded": false, "aria-controls": id, "aria-label": `Show ${name}`, onclick: toggle }, "Show");
    const row = h(
      "tr",
      {},
      h("th", { scope: "row" }, this.where(value)),
      h("td", { "data-label": "What it is" }, value.type ? h("b", {}, value.type, " ") : null, value.text),
      h("td", { "data-label": "Size", class: "size" }, bytes(value.size), shares(value) ? h("small", {}, ` (${bytes(value.memory)} of its own)`) : null),
      at,
      kept,
      h("td", {}, button),
    );
    return { rows: [row, below], toggle, value };
  }

  name(value) {
    return `${value.key} of ${value.task_id}${value.map_index >= 0 ? `[${value.map_index}]` : ""}`;
  }

  where(value) {
    if (this.scope.task_id) return [h("b", {}, value.key)];
    const mapped = value.map_index >= 0 ? `[${value.map_index}]` : "";
    const task = this.link(this.taskPath(value), `${value.task_id}${mapped}`);
    const run = this.scope.run_id ? null : h("small", {}, h("br"), `${value.dag_id} · ${value.run_id}`);
    return [task, " ", value.key === "return_value" ? null : h("b", {}, value.key), run];
  }

  taskPath({ dag_id: dag, run_id: run, task_id: task, map_index: index }) {
    if (this.pages === 2) return `dags/${encodeURIComponent(dag)}/grid?${new URLSearchParams({ dag_run_id: run, task_id: task, map_index: index })}`;
    const [inDag, inRun, inTask] = [dag, run, task].map(segment);
    const path = `dags/${inDag}/runs/${inRun}/tasks/${inTask}`;
    const mapped = index >= 0 ? `/mapped/${index}` : "";
    return this.go ? `${path}${mapped}/plugin/vineyard-task` : `${path}${mapped}`;
  }

  /** Return a link to a page of Airflow's, which opens without loading everything anew where that can be. */
  link(path, text) {
    const follow = (event) => {
      if (!this.go || event.ctrlKey || event.metaKey || event.shiftKey || event.button > 0) return;
      event.preventDefault();
      this.go(`/${path}`);
    };
    return h("a", { href: new URL(`../${path}`, this.base).href, onclick: follow }, text);
  }

  async detail(value, place, refresh) {
    fill(place, h("p", { role: "status" }, "Loading …"));
    try {
      const found = await this.request(this.valuePath(value), { key: value.key, map_index: value.map_index });
      refresh(found);
      fill(place, this.about(found), this.shown(found), found.deletable ? this.deletion(found, place, refresh) : null);
    } catch (error) {
      if (error.name !== "AbortError") fill(place, this.failure(error));
    }
  }

  valuePath(value) {
    const [dag, run, task] = [value.dag_id, value.run_id, value.task_id].map(encodeURIComponent);
    return `api/dags/${dag}/runs/${run}/tasks/${task}/value`;
  }

  about(value) {
    const facts = [["Written", moment(value.written)]];
    if (value.host) facts.push(["Put on", value.host]);
    facts.push(["Where", place(value)], ["Safe?", safe(value)]);
    if (value.replicas?.length) facts.push(["Copies on", value.replicas.join(", ")]);
    if (shares(value)) facts.push(["Memory", `${bytes(value.memory)} of its own; the rest it shares with values that were there before`]);
    if (value.parts?.length) facts.push(["Parts", value.parts.map((part) => `${part.key}: ${part.type}, ${bytes(part.size)}`).join("; ")]);
    if (value.copy) facts.push(["Saved as", h("code", {}, value.copy)]);
    if (value.id) facts.push(["Object", h("code", {}, value.id)]);
    if (value.owned === false) facts.push(["Owner", "Whoever put it: the task passed it on by reference."]);
    return h("dl", {}, facts.map(([name, text]) => [h("dt", {}, name), h("dd", {}, text)]));
  }

  shown(value) {
    if (value.kind !== "object") return h("pre", { tabindex: 0, "aria-label": "The value" }, value.text);
    if (value.preview) return h("div", {}, h("h3", {}, `Preview: ${value.type}`), preview(value.preview));
    return [h("p", {}, value.text), value.no_preview ? h("p", { class: "muted" }, `No preview. ${value.no_preview}`) : null];
  }

  deletion(value, place, refresh) {
    const area = h("div", { class: "bar" });
    const ask = () => {
      const sure = h("button", { class: "danger", onclick: free }, "Free it");
      fill(area, h("span", {}, `Free ${bytes(value.size)}? Its row stays; tasks that read it fail until ${value.task_id} is cleared.`), sure, h("button", { onclick: rest }, "Keep it"));
      sure.focus();
    };
    const rest = () => {
      fill(area, first);
      first.focus();
    };
    const free = async () => {
      try {
        const options = { method: "DELETE", headers: { "X-Vineyard": "1" } };
        await this.request(this.valuePath(value), { key: value.key, map_index: value.map_index }, options);
        await this.detail(value, place, refresh);
        place.prepend(h("p", { role: "status", class: "note" }, `Freed. It is gone: clear ${value.task_id} to have it anew.`));
      } catch (error) {
        if (error.name !== "AbortError") fill(area, this.failure(error));
      }
    };
    const first = h("button", { class: "danger", onclick: ask }, "Free this value …");
    return fill(area, first);
  }
}

/** Return a name as a part of a path; spelled as Airflow's pages spell it, which otherwise do not mark the tab as open. */
function segment(name) {
  return encodeURIComponent(name).replaceAll("%3A", ":").replaceAll("%2B", "+");
}

function place(value) {
  if (value.kind !== "object") return value.kind === "inline" || value.kind === "plain" ? "Airflow's database" : "–";
  const [look, words] = STATES[value.state] ?? ["", value.state];
  const host = value.host ? ` on ${value.host}` : "";
  const detail = value.state === "there" || !value.why ? null : h("small", {}, h("br"), value.why);
  const copies = value.replicas?.length ? h("small", {}, h("br"), plural(value.replicas.length, "copy", "copies"), " on other hosts") : null;
  return [h("span", { class: look }, words), value.state === "there" ? host : null, detail, copies];
}

function safe(value) {
  const [look, words] = SAFE[value.safe] ?? SAFE.unknown;
  return [h("span", { class: look }, words), value.place ? h("small", {}, h("br"), value.place) : null];
}

function tier(state) {
  const facts = [["Saved in", state.urls.join(", ") || "–"]];
  const waiting = state.unsaved ? `${plural(state.unsaved, "value")}, ${bytes(state.unsaved_bytes)}, the oldest for ${age(state.unsaved_age)}` : "nothing";
  facts.push(["Not saved yet", waiting]);
  if (!state.agent && state.unsaved) facts.push(["Agent", h("span", { class: "bad" }, "✕ none answers: airflow-vineyard agent saves them")]);
  if (state.lost) facts.push(["Lost", h("span", { class: "bad" }, `✕ ${plural(state.lost, "value")} ended with a store before being saved`)]);
  if (state.error) facts.push(["Last error", state.error]);
  return facts;
}

/** Return a bar of two shares of a whole. A style attribute would need permission from the page's policy; SVG needs none. */
function bar(label, whole, live, ended) {
  const svg = (tag, attributes, ...children) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
    element.append(...children);
    return element;
  };
  const width = (part) => (whole > 0 ? Math.min(100, Math.max(0, (100 * part) / whole)) : 0);
  const first = width(live);
  return svg(
    "svg",
    { class: "meter", role: "img", "aria-label": label, viewBox: "0 0 100 10", preserveAspectRatio: "none" },
    svg("rect", { class: "live", x: 0, y: 0, width: first, height: 10 }),
    svg("rect", { class: "ended", x: first, y: 0, width: Math.min(100 - first, width(ended)), height: 10 }),
  );
}

/** Tell whether a value takes less memory than it has bytes, because others have the rest as well. */
function shares(value) {
  return typeof value.memory === "number" && typeof value.size === "number" && value.memory < value.size;
}

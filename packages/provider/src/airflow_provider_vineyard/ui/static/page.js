// The page by itself, as the link on a task instance opens it: on Airflow 3.0 the only form, and for those who may not
// read Airflow's plugins on later releases.

import { mount } from "./app.js";

const asked = new URLSearchParams(location.search);
const mapIndex = asked.get("map_index");
const scope = { dag_id: asked.get("dag_id"), run_id: asked.get("run_id"), task_id: asked.get("task_id"), map_index: mapIndex === null ? null : Number(mapIndex) };

function stored(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

// Airflow's own pages keep the choice of colours there, and 3.0 the token that later releases have in a cookie.
const chosen = stored("theme");
const dark = chosen === "dark" || (chosen !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
document.documentElement.dataset.theme = dark ? "dark" : "light";

function headers() {
  const token = stored("token");
  let plain = token;
  try {
    plain = token === null ? null : JSON.parse(token);
  } catch {
    // It is kept as it is.
  }
  return typeof plain === "string" && plain ? { Authorization: `Bearer ${plain}` } : {};
}

mount(document.querySelector("#vineyard"), {
  base: new URL("../", import.meta.url),
  scope: scope.dag_id && scope.run_id && scope.task_id ? scope : {},
  theme: dark ? "dark" : "light",
  headers,
});

// The page in Airflow 2's frame: the menu entry without an address behind it, the link on a task instance with one.

import { mount } from "./app.js";

const place = document.querySelector("#vineyard");
const csrf = place.dataset.csrf;
const asked = new URLSearchParams(location.search);
const scope = { dag_id: asked.get("dag_id"), run_id: asked.get("run_id"), task_id: asked.get("task_id") };
const mapIndex = asked.get("map_index");

mount(place, {
  base: new URL("../", import.meta.url),
  scope: scope.dag_id && scope.run_id && scope.task_id ? { ...scope, map_index: Number(mapIndex ?? -1) } : {},
  headers: () => (csrf ? { "X-CSRFToken": csrf } : {}),
  pages: 2,
});

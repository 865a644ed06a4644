// The wrapper that Airflow 3.1 and later load: one component for the menu entry and the tabs. React is Airflow's own.

import { mount } from "./app.js";

const base = new URL("../", import.meta.url);

function Vineyard({ dagId, runId, taskId, mapIndex }) {
  const { useEffect, useRef, createElement } = globalThis.React;
  const router = globalThis.ReactRouterDOM;
  const navigate = router?.useNavigate ? router.useNavigate() : undefined;
  const place = useRef(null);
  const go = useRef(navigate);
  go.current = navigate;
  useEffect(() => {
    const scope = runId === undefined ? {} : { dag_id: dagId, run_id: runId, task_id: taskId ?? null, map_index: index(taskId, mapIndex) };
    const dark = () => document.documentElement.classList.contains("dark");
    return mount(place.current, { base, scope, theme: dark, go: navigate && ((path) => go.current(path)) });
  }, [dagId, runId, taskId, mapIndex]);
  return createElement("div", { ref: place, style: { height: "100%", overflow: "auto" } });
}

function index(taskId, mapIndex) {
  if (taskId === undefined || taskId === null) return null;
  return mapIndex === undefined || mapIndex === null || mapIndex === "" ? -1 : Number(mapIndex);
}

// Airflow looks for each entry by its name, and a module that is loaded already does not run again.
for (const name of ["AirflowPlugin", "Vineyard", "Values", "Values of the run"]) globalThis[name] = Vineyard;

export default Vineyard;

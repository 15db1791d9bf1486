// The page's state in the address's hash, so that a view can be linked to.

function writeHash(app) {
  const parts = new URLSearchParams();
  const { data } = app;
  if (app.problem >= 0) parts.set("problem", data.problems[app.problem].key);
  parts.set("a", data.arms[app.a].label);
  if (app.b >= 0) parts.set("b", data.arms[app.b].label);
  else if (data.arms.length > 1) parts.set("b", "");
  if (data.signals.length) parts.set("signal", app.signal?.name ?? "");
  if (app.plotted.join() !== (app.signal?.name ?? "")) parts.set("plot", app.plotted.join());
  if (app.pinned.pane >= 0) parts.set("token", `${"ab"[app.pinned.pane]}${app.pinned.index}`);
  for (const [name, value] of Object.entries(app.filters)) if (value !== "") parts.set(name, value);
  const hash = `#${parts}`;
  if (hash !== location.hash) history.replaceState(null, "", hash);
}

// What the hash says; what it does not know stays as it is.
function readHash(app) {
  const parts = new URLSearchParams(location.hash.slice(1));
  const { data } = app;
  const armOf = (name) => data.arms.findIndex((arm) => arm.label === parts.get(name));
  if (armOf("a") >= 0) app.a = armOf("a");
  if (parts.has("b")) app.b = armOf("b") === app.a ? -1 : armOf("b");
  if (app.b === app.a) app.b = -1;
  const problem = data.problems.findIndex((other) => other.key === parts.get("problem"));
  if (problem >= 0) app.problem = problem;
  if (parts.has("signal")) app.signal = data.signal(parts.get("signal"));
  const plotted = (parts.get("plot") ?? app.signal?.name ?? "").split(",");
  app.plotted = plotted.filter((name) => data.signal(name) !== null);
  for (const name of Object.keys(NO_FILTERS)) {
    const value = parts.get(name) ?? "";
    app.filters[name] = isFilterValue(data, name, value) ? value : "";
  }
  const token = /^([ab])(\d+)$/.exec(parts.get("token") ?? "");
  app.wanted = token === null ? null : { pane: token[1] === "a" ? 0 : 1, index: Number(token[2]) };
  app.pinned = NOTHING;
}

// What each key does, and the table that says so.

const KEYS = [
  [["j", "ArrowDown"], "next problem", (app) => app.step(1)],
  [["k", "ArrowUp"], "previous problem", (app) => app.step(-1)],
  [["ArrowRight"], "next token", (app) => app.walk(1)],
  [["ArrowLeft"], "previous token", (app) => app.walk(-1)],
  [["n"], "next consult", (app) => app.walkConsults(1)],
  [["p"], "previous consult", (app) => app.walkConsults(-1)],
  [["d"], "where A and B part", (app) => app.goToDifference()],
  [["s"], "next signal", (app) => app.nextSignal(1)],
  [["S"], "previous signal", (app) => app.nextSignal(-1)],
  [["x"], "swap A and B", (app) => app.swap()],
  [["c"], "show or hide B", (app) => app.toggleCompare()],
  [["b"], "token boundaries", (app) => app.toggle("boundaries")],
  [["w"], "white space", (app) => app.toggle("spaces")],
  [["t"], "dark or light", toggleTheme],
  [["/"], "search", () => byId("search").select()],
  [["Escape"], "leave the search, let go of a token", (app) => app.release()],
  [["?"], "this list", () => byId("keys").showModal()],
];
const KEY_NAMES = { ArrowDown: "↓", ArrowUp: "↑", ArrowRight: "→", ArrowLeft: "←", Escape: "Esc" };

function listenToKeys(app) {
  const actions = new Map(KEYS.flatMap(([keys, , action]) => keys.map((key) => [key, action])));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("keys").open) return;
    const field = event.target.closest?.("input:not([type=radio]):not([type=checkbox]), select, textarea");
    if (field) {
      if (event.key === "Escape") leaveField(app, field, event);
      return;
    }
    const action = actions.get(event.key);
    if (action === undefined) return;
    event.preventDefault();
    action(app);
  });
}

function leaveField(app, field, event) {
  event.preventDefault();
  if (field.id === "search" && field.value) app.filterBy("text", "");
  field.blur();
}

function buildKeyTable() {
  const rows = KEYS.map(([keys, text]) => {
    const names = keys.map((key) => el("kbd", {}, KEY_NAMES[key] ?? key));
    return el("tr", {}, el("td", {}, ...names), el("td", {}, text));
  });
  const signs = el(
    "p",
    { class: "reading" },
    el("span", { class: "t base" }, "the base’s text"),
    ", ",
    el("span", { class: "t oracle start", "data-consult": "1" }, "the oracle’s, from consult 1 on"),
    ", ",
    splitMark("the first difference"),
    el("span", { class: "t base differs" }, "differs from the other arm"),
  );
  const close = el("button", { type: "button", onclick: () => byId("keys").close() }, "Close");
  const dialog = byId("keys");
  dialog.append(el("h2", {}, "Keys"), el("table", {}, ...rows), el("h2", {}, "Signs"), signs, close);
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
}

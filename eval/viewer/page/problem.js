// One problem: its prompt, every arm's outcome, and a pane for each arm that is shown.

function problemHead(app, runs) {
  const { id, level, subject, gold } = app.data.problems[app.problem];
  const line = el("div", { class: "line" }, el("h1", { class: "clip" }, plain(id)), levelChip(level));
  if (subject) line.append(el("span", { class: "chip" }, plain(subject)));
  if (gold !== null) line.append(el("span", { class: "gold" }, "gold answer ", el("code", {}, plain(gold))));
  const head = el("header", { class: "problem" }, line);
  if (app.data.arms.length > 2) head.append(armStrip(app));
  const prompts = [...new Set(runs.filter((run) => run !== null).map((run) => run.prompt))].filter((text) => text !== "");
  prompts.forEach((prompt, index) => {
    const name = prompts.length === 1 ? "Prompt" : `Prompt of ${"AB"[index]}`;
    const text = el("div", { class: "text", translate: "no" }, ...textNodes(prompt));
    const details = el("details", { class: "prompt", open: app.promptOpen }, el("summary", {}, name), text);
    details.addEventListener("toggle", () => (app.promptOpen = details.open));
    head.append(details);
  });
  return head;
}

// Every arm's outcome on this problem; a click shows the arm as A, with Shift as B.
function armStrip(app) {
  const chips = app.data.arms.map((arm, index) => {
    const letter = index === app.a ? "A" : index === app.b ? "B" : null;
    return el(
      "button",
      {
        type: "button",
        class: letter ? "arm shown" : "arm",
        title: "Show as A; with Shift as B",
        onclick: (event) => (event.shiftKey ? app.setArms(app.a, index) : app.setArms(index, app.b)),
      },
      letter ? el("span", { class: `letter letter-${letter.toLowerCase()}` }, letter) : null,
      outcomeMark(app.data.run(index, app.problem)),
      plain(arm.label),
    );
  });
  return el("div", { class: "strip-of-arms" }, ...chips);
}

function makePane(app, run, index) {
  const arm = app.data.arms[index === 0 ? app.a : app.b];
  const letter = app.b < 0 ? "" : "AB"[index];
  const head = el(
    "div",
    { class: "line pane-head" },
    letter ? el("span", { class: `letter letter-${letter.toLowerCase()}` }, letter) : null,
    el("strong", { class: "clip", title: plain(arm.name) }, plain(arm.label)),
  );
  const element = el("section", { class: "pane", "aria-label": plain(arm.label) }, head);
  head.append(el("span", { class: `outcome ${outcomeOf(run)}` }, outcomeMark(run), OUTCOMES[outcomeOf(run)].text));
  if (run === null) {
    element.append(el("p", { class: "message" }, "This arm has no run of this problem."));
    return { element, block: null, plot: null, place: null };
  }
  element.append(runFacts(app, run));
  if (run.error !== null) element.append(el("p", { class: "error" }, plain(run.error)));
  const marks = app.comparison === null ? null : app.comparison.marks[index];
  const block = new TextBlock(run, index, marks);
  const place = el("div", { class: "plots" });
  element.append(block.element, place);
  const indexOf = (event) => Number(event.target.closest?.(".t")?.dataset.i ?? -1);
  block.element.addEventListener("pointerover", (event) => app.hover(index, indexOf(event)));
  block.element.addEventListener("pointerleave", () => app.hover(index, -1));
  block.element.addEventListener("click", (event) => {
    if (indexOf(event) >= 0 && getSelection().isCollapsed) app.pin(index, indexOf(event));
  });
  block.element.addEventListener("focusin", (event) => {
    if (indexOf(event) >= 0 && app.pinned.index !== indexOf(event)) app.pin(index, indexOf(event), { focus: false });
  });
  return { element, block, plot: null, place };
}

function runFacts(app, run) {
  const facts = el("div", { class: "run-facts" });
  const add = (...content) => facts.append(el("span", {}, ...content));
  if (run.answer !== null) add("answered ", el("code", {}, plain(run.answer)));
  if (run.count) {
    add(plural(run.count, "token"));
    add(plural(run.starts.length, "consult"));
    if (run.starts.length) add(`oracle ${Math.round((100 * run.oracleCount()) / run.count)} %`);
  }
  if (run.finish !== null) add(`ended by ${plain(run.finish)}`);
  if (!run.traced && run.count) add("no trace");
  if (app.comparison !== null) {
    const { first } = app.comparison;
    add(first < 0 ? "same tokens" : `parts at token ${first}`);
  }
  return facts;
}

function levelChip(level) {
  return level === null || level === undefined ? null : el("span", { class: "chip" }, `level ${plain(level)}`);
}

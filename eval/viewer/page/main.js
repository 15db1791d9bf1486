// The page's state, and what changes it: selects, keys, the pointer, and the address's hash.

const NOTHING = { pane: -1, index: -1 };

class App {
  constructor(data) {
    this.data = data;
    this.filters = { ...NO_FILTERS };
    const two = data.arms.length === 2 || data.arms.some((arm) => arm.source !== 0);
    this.a = this.firstArm();
    this.b = two ? this.secondArm() : -1;
    this.problem = 0;
    this.signal = data.signals[0] ?? null; // that shades; null: none
    this.plotted = this.signal === null ? [] : [this.signal.name];
    this.promptOpen = true;
    this.boundaries = false;
    this.spaces = true;
    this.pinned = NOTHING; // the token that keys walk from
    this.hovered = NOTHING;
    this.panes = [];
    this.listed = [];
    this.list = new ProblemList(byId("list"), (problem) => this.openProblem(problem));
    this.panel = new TokenPanel(byId("token"), data, {
      onShade: (name) => this.shadeBy(name),
      onPlot: (name, isOn) => this.plot(name, isOn),
    });
    this.resizing = new ResizeObserver(() => this.drawPlots());
    byId("title").textContent = plain(data.title);
    byId("title").title = `${plain(data.title)}, written by ${data.madeBy}`;
    this.buildControls();
    this.listen();
    readHash(this);
    this.refilter();
    this.pinWanted();
  }

  // With one guided arm after the base alone, the base alone stands on the left.
  firstArm() {
    const { arms } = this.data;
    if (arms.length === 2) return 0;
    const guided = arms.findIndex((arm) => arm.source === 0 && !arm.alone);
    return arms.some((arm) => arm.source !== 0) || guided < 0 ? 0 : guided;
  }

  // Of another run the arm of the same name, if it has one.
  secondArm() {
    const { arms } = this.data;
    if (arms.every((arm) => arm.source === 0)) return 1;
    const others = arms.map((_, arm) => arm).filter((arm) => arms[arm].source !== arms[this.a].source);
    return others.find((arm) => arms[arm].name === arms[this.a].name) ?? others[0] ?? -1;
  }

  // --- controls ---

  buildControls() {
    const { data } = this;
    const counted = data.arms.map((arm, index) => {
      const runs = data.runsOf(index).filter((run) => run !== null);
      const correct = runs.filter((run) => run.correct).length;
      const isGraded = runs.some((run) => run.graded);
      return `${arm.label}${isGraded ? ` · ${correct}/${data.problems.length}` : ""}`;
    });
    byId("arm-a").append(...counted.map((text, arm) => option(arm, text)));
    byId("arm-b").append(option(-1, "none"), ...counted.map((text, arm) => option(arm, text)));
    byId("signal").append(option("", "nothing"), ...data.signals.map((signal) => option(signal.name, signal.name)));
    byId("filter-outcome").append(
      option("", "any outcome"),
      option("correct", "correct"),
      option("wrong", "wrong (all kinds)"),
      ...["unparsed", "truncated", "failed", "ungraded", "missing"].map((name) => option(name, OUTCOMES[name].text)),
    );
    byId("filter-level").append(option("", "any level"));
    byId("filter-level").append(...levelsOf(data).map((level) => option(level, `level ${level}`)));
    byId("filter-finish").append(option("", "any ending"));
    byId("filter-finish").append(...endingsOf(data).map((ending) => option(ending, `ended by ${ending}`)));
    buildKeyTable();
  }

  listen() {
    const onChange = (id, change) => byId(id).addEventListener("change", (event) => change(event.target.value));
    onChange("arm-a", (value) => this.setArms(Number(value), this.b));
    onChange("arm-b", (value) => this.setArms(this.a, Number(value)));
    onChange("signal", (value) => this.shadeBy(value));
    for (const name of ["outcome", "compare", "level", "finish"]) {
      onChange(`filter-${name}`, (value) => this.filterBy(name, value));
    }
    byId("search").addEventListener("input", (event) => this.filterBy("text", event.target.value));
    byId("clear").addEventListener("click", () => this.clearFilters());
    byId("swap").addEventListener("click", () => this.swap());
    byId("boundaries").addEventListener("click", () => this.toggle("boundaries"));
    byId("spaces").addEventListener("click", () => this.toggle("spaces"));
    byId("theme").addEventListener("click", toggleTheme);
    byId("help").addEventListener("click", () => byId("keys").showModal());
    listenToKeys(this);
    window.addEventListener("hashchange", () => {
      readHash(this);
      this.refilter();
      this.pinWanted();
    });
  }

  // --- what changes the state ---

  setArms(a, b) {
    this.a = a;
    this.b = b === a ? -1 : b;
    this.pinned = NOTHING;
    this.refilter();
  }

  swap() {
    if (this.b >= 0) this.setArms(this.b, this.a);
  }

  toggleCompare() {
    if (this.b >= 0) {
      this.lastB = this.b;
      this.setArms(this.a, -1);
    } else if (this.data.arms.length > 1) {
      const alone = aloneArm(this.data, this.a, []);
      const others = [this.lastB, alone, ...this.data.arms.keys()];
      this.setArms(this.a, others.find((arm) => arm !== undefined && arm >= 0 && arm !== this.a));
    }
  }

  shadeBy(name) {
    const before = this.signal?.name;
    this.signal = this.data.signal(name);
    if (this.signal !== null && this.plotted.length <= 1) this.plotted = [this.signal.name];
    else if (this.signal !== null && !this.plotted.includes(name)) {
      this.plotted = this.plotted.map((plotted) => (plotted === before ? name : plotted));
      if (!this.plotted.includes(name)) this.plotted.push(name);
    }
    this.drawSignals();
    writeHash(this);
  }

  nextSignal(step) {
    const { signals } = this.data;
    if (signals.length === 0) return;
    const index = this.signal === null ? -1 : signals.indexOf(this.signal);
    this.shadeBy(signals[(Math.max(index, step > 0 ? -1 : 0) + step + signals.length) % signals.length].name);
  }

  plot(name, isOn) {
    const names = this.data.signals.map((signal) => signal.name);
    this.plotted = names.filter((other) => (other === name ? isOn : this.plotted.includes(other)));
    this.drawSignals();
    writeHash(this);
  }

  filterBy(name, value) {
    this.filters[name] = value;
    this.refilter();
  }

  clearFilters() {
    this.filters = { ...NO_FILTERS };
    this.refilter();
  }

  toggle(name) {
    this[name] = !this[name];
    this.drawToggles();
  }

  openProblem(problem) {
    if (problem === this.problem || problem === undefined) return;
    this.problem = problem;
    this.pinned = NOTHING;
    this.draw();
  }

  step(by) {
    if (this.listed.length === 0) return;
    const index = this.listed.indexOf(this.problem);
    const next = index < 0 ? (by > 0 ? 0 : this.listed.length - 1) : index + by;
    this.openProblem(this.listed[Math.min(this.listed.length - 1, Math.max(0, next))]);
  }

  // Keep the problem in sight if it still passes, else the first one that does.
  refilter() {
    if (!comparisons(this.data, this.a, this.b)[this.filters.compare]) this.filters.compare = "";
    const passes = makeFilter(this.data, this.filters, this.a, this.b);
    this.listed = this.data.problems.map((_, problem) => problem).filter(passes);
    if (!this.listed.includes(this.problem)) {
      this.problem = this.listed[0] ?? -1;
      this.pinned = NOTHING;
    }
    this.draw();
  }

  // --- tokens ---

  pin(pane, index, { focus = true } = {}) {
    const { units, spans, element } = this.panes[pane]?.block ?? {};
    if (units === undefined || units.length === 0) return;
    const at = Math.min(units.length - 1, Math.max(0, index));
    this.pinned = { pane, index: at };
    this.hovered = NOTHING;
    const span = spans[at];
    keepInSight(span, element);
    if (focus) span.focus({ preventScroll: true });
    this.drawPoint();
    writeHash(this);
  }

  // The token that the address names.
  pinWanted() {
    if (this.wanted !== null) this.pin(this.wanted.pane, this.wanted.index, { focus: false });
    this.wanted = null;
  }

  release() {
    this.pinned = this.hovered = NOTHING;
    document.activeElement?.blur();
    this.drawPoint();
    writeHash(this);
  }

  hover(pane, index) {
    this.hovered = index < 0 ? NOTHING : { pane, index };
    this.drawPoint();
  }

  // From the pinned token, or from the start of the first pane with a text.
  walk(step) {
    const from = this.pinned.pane < 0 ? { pane: this.firstPane(), index: step > 0 ? -1 : 1 } : this.pinned;
    this.pin(from.pane, from.index + step);
  }

  walkConsults(step) {
    const pane = this.pinned.pane < 0 ? this.paneWithConsults() : this.pinned.pane;
    const block = this.panes[pane]?.block;
    if (block === undefined) return;
    const starts = block.run.starts.map((start) => block.unitAt(start)).filter((index) => index >= 0);
    const index = this.pinned.pane < 0 ? (step > 0 ? -1 : Infinity) : this.pinned.index;
    const next = step > 0 ? starts.find((start) => start > index) : starts.findLast((start) => start < index);
    if (next !== undefined) this.pin(pane, next);
  }

  goToDifference() {
    const first = this.comparison?.first ?? -1;
    const pane = [this.pinned.pane, 0, 1].find((pane) => this.panes[pane]?.block?.unitAt(first) >= 0);
    if (first >= 0 && pane !== undefined) this.pin(pane, this.panes[pane].block.unitAt(first));
  }

  firstPane() {
    return this.panes.findIndex((pane) => pane.block !== null && pane.block.units.length > 0);
  }

  paneWithConsults() {
    const found = this.panes.findIndex((pane) => pane.block !== null && pane.block.run.starts.length > 0);
    return found < 0 ? this.firstPane() : found;
  }

  // --- drawing ---

  draw() {
    byId("arm-a").value = String(this.a);
    byId("arm-b").value = String(this.b);
    byId("swap").disabled = this.b < 0;
    this.drawFilters();
    this.list.show(this.listed, this.problem, (problem) => this.rowOf(problem));
    this.drawProblem();
    this.drawSignals();
    this.drawToggles();
    writeHash(this);
  }

  drawFilters() {
    const { data } = this;
    const guided = guidedArm(data, [this.a, this.b]);
    const alone = aloneArm(data, guided, [this.a, this.b]);
    const allowed = comparisons(data, this.a, this.b);
    const select = byId("filter-compare");
    select.replaceChildren(
      option("", "any change"),
      option("flipped", allowed.flipped ? "flipped between A and B" : "flipped (needs B)", !allowed.flipped),
      option("recovered", "recovered: base wrong, guided right", !allowed.recovered),
      option("lost", "lost: base right, guided wrong", !allowed.lost),
      option("split", "arms disagree", !allowed.split),
    );
    select.title = allowed.recovered
      ? `Base alone: ${plain(data.arms[alone].label)}; guided: ${plain(data.arms[guided].label)}`
      : "Recovered and lost compare a guided arm with the base alone (c=0)";
    for (const name of ["outcome", "compare", "level", "finish"]) {
      byId(`filter-${name}`).value = this.filters[name];
      byId(`filter-${name}`).classList.toggle("active", this.filters[name] !== "");
    }
    if (byId("search").value !== this.filters.text) byId("search").value = this.filters.text;
    byId("tally").textContent = `${this.listed.length} of ${plural(data.problems.length, "problem")}`;
    byId("clear").hidden = Object.values(this.filters).every((value) => value === "");
  }

  rowOf(problem) {
    const { data } = this;
    const { id, level } = data.problems[problem];
    const marks = [this.a, this.b].filter((arm) => arm >= 0).map((arm, index) => {
      const mark = outcomeMark(data.run(arm, problem), data.arms[arm].label);
      return this.b < 0 ? mark : el("span", { class: "lettered" }, "AB"[index], mark);
    });
    const shown = [this.a, this.b].map((arm) => data.run(arm, problem)).filter((run) => run !== null);
    const consults = shown.map((run) => run.starts.length).join(" / ");
    const runs = data.arms.map((_, arm) => data.run(arm, problem)).filter((run) => run !== null && run.graded);
    const right = runs.filter((run) => run.correct).length;
    const all = data.arms.length > 2 && runs.length ? `${right}/${data.arms.length} arms` : null;
    return [
      el("div", { class: "line" }, el("span", { class: "id clip" }, plain(id)), levelChip(level)),
      el(
        "div",
        { class: "line small" },
        el("span", { class: "marks" }, ...marks),
        el("span", { class: "muted" }, shown.length ? `${consults} ${consults === "1" ? "consult" : "consults"}` : "not run"),
        all === null ? null : el("span", { class: "muted push" }, all),
      ),
    ];
  }

  drawProblem() {
    this.resizing.disconnect();
    const main = byId("main");
    this.panes = [];
    this.comparison = null;
    this.hovered = NOTHING;
    if (this.problem < 0) {
      main.replaceChildren(el("p", { class: "message" }, "No problem passes these filters."));
      this.drawPoint();
      return;
    }
    const runs = [this.a, this.b].filter((arm) => arm >= 0).map((arm) => this.data.run(arm, this.problem));
    if (runs.length === 2) this.comparison = compareRuns(...runs);
    this.panes = runs.map((run, index) => makePane(this, run, index));
    const panes = el("div", { class: runs.length === 2 ? "panes two" : "panes" });
    panes.append(...this.panes.map((pane) => pane.element));
    main.replaceChildren(problemHead(this, runs), panes);
    this.resizing.observe(panes);
  }

  drawSignals() {
    byId("signal").value = this.signal?.name ?? "";
    byId("signal").disabled = this.data.signals.length === 0;
    this.drawLegend();
    this.panel.settings(this.signal, this.plotted);
    for (const { block } of this.panes) block?.shade(this.signal);
    this.makePlots();
  }

  drawLegend() {
    const legend = byId("legend");
    const { signal } = this;
    legend.hidden = signal === null;
    if (signal === null) return;
    const ends = signal.kind === "bool" ? ["yes", "no"] : [signal.low, signal.high].map(tickText);
    if (signal.kind !== "bool" && signal.dark === "low") ends.reverse();
    const says = `${signal.about || signal.name}; shaded from ${ends[0]} to ${ends[1]}${signal.unit ? ` ${signal.unit}` : ""}`;
    legend.setAttribute("aria-label", plain(says));
    legend.title = plain(says);
    legend.replaceChildren(el("span", {}, ends[0]), el("span", { class: "ramp" }), el("span", {}, ends[1]));
  }

  makePlots() {
    const runs = this.panes.filter((pane) => pane.block !== null).map((pane) => pane.block.run);
    const signals = this.data.signals.filter((signal) => this.plotted.includes(signal.name));
    const ranges = new Map(signals.map((signal) => [signal, valueRange(signal, runs)]));
    this.panes.forEach((pane, index) => {
      if (pane.block === null) return;
      const { run } = pane.block;
      pane.plot = null;
      if (signals.length && run.traced && run.count) {
        pane.plot = new Plot(run, {
          signals,
          range: (signal) => ranges.get(signal),
          thresholds: this.data.arms[run.arm].thresholds,
          onHover: (position) => this.hover(index, position < 0 ? -1 : pane.block.unitAt(position)),
          onPick: (position) => this.pin(index, pane.block.unitAt(position)),
        });
      }
      pane.place.replaceChildren(...(pane.plot === null ? [] : [pane.plot.element]));
    });
    this.drawPlots();
  }

  drawPlots() {
    for (const { plot, place } of this.panes) if (plot) plot.draw(place.clientWidth);
    this.drawPoint();
  }

  // The token that is pointed at, in the text, in the plot and in the panel.
  drawPoint() {
    const point = this.hovered.pane >= 0 ? this.hovered : this.pinned;
    this.panes.forEach(({ block, plot }, index) => {
      if (block === null) return;
      const at = index === point.pane ? point.index : -1;
      block.mark("current", at);
      plot?.point(at < 0 ? -1 : block.units[at].start);
      const stop = index === this.pinned.pane ? this.pinned.index : 0;
      block.element.querySelector('[tabindex="0"]')?.setAttribute("tabindex", "-1");
      block.spans[stop]?.setAttribute("tabindex", "0");
    });
    const block = this.panes[point.pane]?.block ?? null;
    if (block === null) this.panel.show(null);
    else this.panel.show(block.run, block.units[point.index], this.b < 0 ? "" : "AB"[point.pane]);
  }

  drawToggles() {
    for (const name of ["boundaries", "spaces"]) {
      byId("main").classList.toggle(name, this[name]);
      byId(name).setAttribute("aria-pressed", String(this[name]));
    }
  }
}

// Scroll a text, and nothing else, so far that the unit is in sight.
function keepInSight(span, container) {
  const [inner, outer] = [span.getBoundingClientRect(), container.getBoundingClientRect()];
  if (inner.top < outer.top || inner.bottom > outer.bottom) {
    container.scrollTop += inner.top - outer.top - outer.height / 2;
  }
}

async function main() {
  setTheme(storedTheme() ?? systemTheme());
  try {
    const data = await readData();
    byId("app").hidden = false;
    new App(data);
    byId("loading").remove();
    document.documentElement.dataset.ready = "true";
  } catch (error) {
    byId("loading").textContent = `This page cannot be shown: ${error.message}`;
    byId("app").hidden = true;
    throw error;
  }
}

main();

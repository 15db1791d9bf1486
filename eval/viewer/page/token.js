// The panel on the right: everything about one token, and which signals shade the text and are plotted.

class TokenPanel {
  constructor(element, data, { onShade, onPlot }) {
    this.data = data;
    this.head = el("div", { class: "token-head" });
    this.facts = el("dl", { class: "facts" });
    this.rows = new Map();
    const body = el("tbody");
    for (const signal of data.signals) {
      const shade = el("input", {
        type: "radio",
        name: "shade",
        title: `Shade by ${signal.name}`,
        "aria-label": `Shade by ${signal.name}`,
        onchange: () => onShade(signal.name),
      });
      const plot = el("input", {
        type: "checkbox",
        title: `Plot ${signal.name}`,
        "aria-label": `Plot ${signal.name}`,
        onchange: (event) => onPlot(signal.name, event.target.checked),
      });
      const value = el("td", { class: "number" });
      const level = el("span", { class: "level" });
      const name = el("th", { scope: "row", title: plain(signal.about) }, signal.name);
      if (signal.unit) name.append(el("small", {}, ` ${signal.unit}`));
      const row = el("tr", { "data-signal": signal.name }, el("td", {}, shade), el("td", {}, plot), name);
      row.append(value, el("td", { class: "bar" }, level));
      body.append(row);
      this.rows.set(signal.name, { row, shade, plot, value, level });
    }
    const heads = ["shade", "plot", "signal", "value", ""].map((text) => el("th", { scope: "col" }, text));
    const table = el("table", { class: "signals" }, el("thead", {}, el("tr", {}, ...heads)), body);
    this.element = element;
    element.append(this.head, this.facts);
    if (data.signals.length) element.append(table);
    else element.append(el("p", { class: "muted pad" }, "These runs have no trace: who wrote what is known, signals are not."));
    this.notes = el("div", { class: "notes" });
    element.append(this.notes);
    if (data.notes.length) {
      this.notes.append(el("h2", {}, "Notes"), ...data.notes.map((note) => el("p", {}, plain(note))));
    }
  }

  settings(signal, plotted) {
    for (const [name, { row, shade, plot }] of this.rows) {
      shade.checked = signal !== null && signal.name === name;
      plot.checked = plotted.includes(name);
      row.classList.toggle("shading", shade.checked);
    }
  }

  // Show a unit of a run; run null: nothing is pointed at.
  show(run, unit, letter) {
    this.element.classList.toggle("empty", run === null);
    if (run === null) {
      this.head.replaceChildren(el("div", { class: "muted" }, "Point at a token, or press → to walk through them."));
      this.facts.replaceChildren();
    } else {
      this.head.replaceChildren(...this.headOf(run, unit, letter));
      this.facts.replaceChildren(...this.factsOf(run, unit));
    }
    for (const signal of this.data.signals) {
      const { value, level } = this.rows.get(signal.name);
      const known = run !== null && unit.count === 1 ? run.value(signal, unit.start) : null;
      const share = known === null ? null : shadeOf(signal, known);
      value.textContent = run === null ? "" : shownValue(signal, known);
      level.style.width = `${share === null ? 0 : Math.round(100 * share)}%`;
    }
  }

  headOf(run, unit, letter) {
    const who = unit.oracle ? "oracle" : "base";
    const text = el("code", { class: `token-text ${who}` });
    if (run.byToken) text.append(quoted(this.data, unit.number));
    else text.append(plural(unit.count, "token"));
    const side = letter ? el("span", { class: `letter letter-${letter.toLowerCase()}` }, letter) : null;
    return [el("div", { class: "token-line" }, side, text, el("span", { class: `who ${who}` }, who))];
  }

  factsOf(run, unit) {
    const facts = [];
    const add = (name, ...content) => facts.push(el("dt", {}, name), el("dd", { "data-fact": name }, ...content));
    const position = unit.start;
    add("position", unit.count === 1 ? `${position} of ${run.count}` : `${position}–${position + unit.count - 1} of ${run.count}`);
    if (run.byToken) add("token id", String(this.data.ids[unit.number]));
    const bytes = unit.number === null ? undefined : this.data.tokenBytes.get(unit.number);
    if (bytes !== undefined) add("bytes", bytes);
    const consult = unit.count > 0 ? run.consult(position) : -1;
    if (consult >= 0) {
      const start = run.starts[consult];
      add("consult", `${consult + 1}, token ${position - start + 1}${position === start ? " (it begins here)" : ""}`);
    }
    if (unit.count !== 1) return facts;
    const written = run.byToken ? unit.number : null;
    const base = run.choice("base_top1", position);
    if (base !== null) add("base’s choice", ...this.choice(base, written));
    const oracle = run.choice("oracle_top1", position);
    if (oracle !== null) add("oracle’s choice", ...this.choice(oracle, written));
    else if (run.traced) add("oracle’s choice", el("span", { class: "muted" }, "not looked at"));
    return facts;
  }

  choice(number, written) {
    const code = el("code", {}, quoted(this.data, number));
    return written === number ? [code, el("span", { class: "same", title: "this is what was written" }, " = written")] : [code];
  }
}

// A run's text: one element a unit, white space and odd characters made visible.

// Where a unit's shade lies between 0 (none) and 1; null where there is no value.
function shadeOf(signal, value) {
  if (value === null) return null;
  let [low, high, at] = [signal.low, signal.high, value];
  if (signal.kind === "rank") [low, high, at] = [low, high, value].map(Math.log);
  const share = Math.min(1, Math.max(0, (at - low) / (high - low)));
  return signal.dark === "low" ? 1 - share : share;
}

// A text as nodes: spaces, tabs and line ends can show a sign, and controls show their names.
function textNodes(text, bytes = null) {
  const nodes = [];
  let run = "";
  const flush = () => {
    if (run) nodes.push(run);
    run = "";
  };
  for (const character of text) {
    if (character === " ") {
      flush();
      nodes.push(el("span", { class: "sp" }, " "));
    } else if (character === "\n") {
      flush();
      nodes.push(el("span", { class: "nl" }), "\n");
    } else if (character === "\t") {
      flush();
      nodes.push(el("span", { class: "tab" }, "\t"));
    } else if (character === "\ufffd" && bytes !== null) {
      flush();
      if (!nodes.some((node) => node.className === "odd")) nodes.push(oddText(bytes, `bytes ${bytes}`));
    } else if (CONTROL.test(character)) {
      flush();
      nodes.push(oddText(controlName(character), codePoint(character)));
    } else {
      run += character;
    }
  }
  flush();
  return nodes;
}

function oddText(text, title) {
  return el("span", { class: "odd", title }, text);
}

// What stands in a unit's place.
function unitNodes(data, unit) {
  const bytes = unit.number === null ? null : (data.tokenBytes.get(unit.number) ?? null);
  if (unit.text === null) return [oddText(`id ${data.ids[unit.number]}`, "no text is known for this id")];
  if (unit.text === "" && bytes !== null) return [oddText(bytes, `bytes ${bytes} of the character that follows`)];
  return textNodes(unit.text, bytes);
}

// A token's text in quotes, for tables.
function quoted(data, number) {
  const text = data.tokenTexts[number];
  if (text === null) return `id ${data.ids[number]}`;
  if (data.special.has(number)) return plain(text);
  const bytes = data.tokenBytes.get(number);
  if (bytes !== undefined) return `bytes ${bytes}`;
  return `“${plain(text)}”`;
}

// The block with a run's text.
class TextBlock {
  constructor(run, pane, marks) {
    this.run = run;
    this.units = run.units();
    this.element = el("div", { class: "text", lang: "", translate: "no", "data-pane": pane });
    this.spans = [];
    const consults = new Map(run.starts.map((start, consult) => [start, consult]));
    this.units.forEach((unit, index) => {
      const classes = ["t", unit.oracle ? "oracle" : "base"];
      if (unit.number !== null && run.data.special.has(unit.number)) classes.push("special");
      const start = unit.count > 0 ? consults.get(unit.start) : undefined;
      if (start !== undefined) classes.push("start");
      if (marks !== null && marks.differs(unit)) classes.push("differs");
      if (marks !== null && marks.isFirst(unit)) {
        classes.push("first-difference");
        this.element.append(splitMark("the first difference"));
      }
      const span = el(
        "span",
        { class: classes.join(" "), "data-i": index, tabindex: "-1", "data-consult": start === undefined ? null : start + 1 },
        ...unitNodes(run.data, unit),
      );
      this.spans.push(span);
      this.element.append(span);
    });
    if (marks !== null && marks.endsHere(run.count)) this.element.append(splitMark("this text ends here, the other goes on"));
    if (this.units.length === 0 && run.error === null) this.element.append(el("span", { class: "muted" }, "no tokens"));
  }

  // The unit that holds a position, or -1.
  unitAt(position) {
    if (this.run.byToken) return position < this.units.length ? position : -1;
    return this.units.findIndex((unit) => unit.start <= position && position < unit.start + unit.count);
  }

  shade(signal) {
    if (!this.run.byToken) return;
    this.spans.forEach((span, position) => {
      const share = signal === null ? null : shadeOf(signal, this.run.value(signal, position));
      const percent = share === null ? 0 : Math.round(100 * share);
      span.style.backgroundColor = percent ? `color-mix(in srgb, var(--shade) ${percent}%, transparent)` : "";
    });
  }

  mark(name, index) {
    this.element.querySelector(`.${name}`)?.classList.remove(name);
    if (index >= 0) this.spans[index]?.classList.add(name);
  }
}

function splitMark(title) {
  return el("span", { class: "split", title, role: "img", "aria-label": title });
}

// Signals over positions: one strip a signal, the oracle's stretches behind, consults as ticks.

const PLOT = { left: 58, right: 14, top: 22, strip: 58, gap: 24, axis: 22, pad: 5 }; // pixels

class Plot {
  // range(signal) gives the values that a strip spans; onHover and onPick get a position, onHover also -1.
  constructor(run, { signals, range, thresholds, onHover, onPick }) {
    this.run = run;
    this.signals = signals;
    this.range = range;
    this.thresholds = thresholds;
    this.element = el("div", { class: "plot" });
    const at = (event) => this.positionAt(event);
    this.element.addEventListener("pointermove", (event) => onHover(at(event)));
    this.element.addEventListener("pointerleave", () => onHover(-1));
    this.element.addEventListener("click", (event) => onPick(at(event)));
    this.width = 0;
  }

  get height() {
    return PLOT.top + this.signals.length * (PLOT.strip + PLOT.gap) - PLOT.gap + PLOT.axis;
  }

  x(position) {
    return PLOT.left + ((position + 0.5) * (this.width - PLOT.left - PLOT.right)) / this.run.count;
  }

  positionAt(event) {
    const box = this.element.getBoundingClientRect();
    const share = (event.clientX - box.left - PLOT.left) / (this.width - PLOT.left - PLOT.right);
    return Math.min(this.run.count - 1, Math.max(0, Math.floor(share * this.run.count)));
  }

  draw(width) {
    this.width = Math.max(160, Math.floor(width));
    const { run } = this;
    const root = svg("svg", { width: this.width, height: this.height, viewBox: `0 0 ${this.width} ${this.height}` });
    root.append(svg("title", {}, `${this.signals.map((signal) => signal.name).join(", ")} by position`));
    const bottom = this.height - PLOT.axis;
    const half = (this.x(1) - this.x(0)) / 2;
    this.scales = this.signals.map((signal, index) => this.strip(root, signal, index, half));
    for (const [consult, start] of run.starts.entries()) {
      const x = this.x(start) - half;
      const tick = svg("path", { class: "consult", "data-consult": consult + 1 }, svg("title", {}, `consult ${consult + 1}`));
      const tops = this.signals.map((_, index) => this.topOf(index));
      tick.setAttribute("d", tops.map((top) => `M${x} ${top}v${PLOT.strip}`).join(""));
      root.append(tick);
    }
    this.axis(root, bottom);
    this.cursor = svg("g", { class: "cursor", visibility: "hidden" });
    this.cursor.append(svg("path", { class: "line" }));
    for (const _ of this.signals) this.cursor.append(svg("circle", { r: 3.2 }), svg("text", { class: "value" }));
    root.append(this.cursor);
    this.element.replaceChildren(root);
  }

  topOf(index) {
    return PLOT.top + index * (PLOT.strip + PLOT.gap);
  }

  strip(root, signal, index, half) {
    const top = this.topOf(index);
    const [low, high] = this.range(signal);
    const scaled = signal.kind === "rank" ? (value) => Math.log(Math.max(1, value)) : (value) => value;
    const [from, to] = [scaled(low), scaled(high)];
    const y = (value) => {
      const share = Math.min(1, Math.max(0, (scaled(value) - from) / (to - from)));
      return top + PLOT.strip - PLOT.pad - share * (PLOT.strip - 2 * PLOT.pad);
    };
    const right = this.width - PLOT.right;
    const group = svg("g", { class: "strip", "data-signal": signal.name });
    group.append(svg("rect", { class: "frame", x: PLOT.left, y: top, width: right - PLOT.left, height: PLOT.strip }));
    for (const [start, stop] of oracleStretches(this.run)) {
      const x = this.x(start) - half;
      const band = { class: "band", x, y: top, width: Math.max(1, this.x(stop - 1) + half - x), height: PLOT.strip };
      group.append(svg("rect", band));
    }
    for (const threshold of this.thresholds[signal.name] ?? []) {
      if (threshold > low && threshold < high) {
        const line = { class: "threshold", d: `M${PLOT.left} ${y(threshold)}H${right}` };
        group.append(svg("path", line, svg("title", {}, `the trigger's ${threshold}`)));
      }
    }
    group.append(svg("path", { class: "curve", d: this.curve(signal, y) }));
    const label = (text, at) => svg("text", { class: "tick", x: PLOT.left - 6, y: at }, text);
    const ends = signal.kind === "bool" ? ["yes", "no"] : [high, low].map(tickText);
    group.append(label(ends[0], top + 10), label(ends[1], top + PLOT.strip - 2));
    const unit = signal.unit ? ` (${signal.unit})` : "";
    group.append(svg("text", { class: "name", x: PLOT.left, y: top - 6 }, signal.name + unit));
    root.append(group);
    return y;
  }

  // A path with gaps where there is no value; a lone value is a dot.
  curve(signal, y) {
    let path = "";
    let open = false;
    for (let i = 0; i < this.run.count; i++) {
      const value = this.run.value(signal, i);
      if (value === null) {
        open = false;
        continue;
      }
      const point = `${this.x(i).toFixed(1)} ${y(value).toFixed(1)}`;
      path += open ? `L${point}` : `M${point}h0.01`;
      open = true;
    }
    return path;
  }

  axis(root, bottom) {
    const wanted = Math.max(2, Math.floor((this.width - PLOT.left) / 70));
    const step = niceStep(this.run.count / wanted);
    for (let position = 0; position < this.run.count; position += step) {
      const x = this.x(position);
      root.append(svg("path", { class: "grid", d: `M${x} ${bottom}v4` }));
      root.append(svg("text", { class: "tick position", x, y: bottom + 15 }, String(position)));
    }
  }

  // Show a position; -1: none.
  point(position) {
    if (!this.cursor) return;
    const inside = position >= 0 && position < this.run.count;
    this.cursor.setAttribute("visibility", inside ? "visible" : "hidden");
    if (!inside) return;
    const x = this.x(position);
    const [line, ...marks] = this.cursor.children;
    line.setAttribute("d", `M${x} ${PLOT.top}V${this.height - PLOT.axis}`);
    this.signals.forEach((signal, index) => {
      const value = this.run.value(signal, position);
      const [dot, text] = [marks[2 * index], marks[2 * index + 1]];
      dot.setAttribute("visibility", value === null ? "hidden" : "inherit");
      text.textContent = `${position}: ${shownValue(signal, value)}`;
      text.setAttribute("x", this.width - PLOT.right);
      text.setAttribute("y", this.topOf(index) - 6);
      if (value !== null) {
        dot.setAttribute("cx", x);
        dot.setAttribute("cy", this.scales[index](value));
      }
    });
  }
}

// [start, stop) of each stretch that the oracle wrote.
function oracleStretches(run) {
  const stretches = [];
  for (let i = 0; i < run.count; i++) {
    if (!run.isOracle(i)) continue;
    const last = stretches.at(-1);
    if (last !== undefined && last[1] === i) last[1] = i + 1;
    else stretches.push([i, i + 1]);
  }
  return stretches;
}

// The values that a strip spans, so that the same signal of several runs can be compared.
function valueRange(signal, runs) {
  if (signal.kind === "bool") return [0, 1];
  let [low, high] = [Infinity, -Infinity];
  for (const run of runs) {
    for (let i = 0; i < run.count; i++) {
      const value = run.value(signal, i);
      if (value === null || !Number.isFinite(value)) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  if (signal.kind === "rank") return [1, Math.max(2, high)];
  if (signal.low === 0 && signal.high === 1 && low >= 0 && high <= 1) return [0, 1];
  if (low > high) return [signal.low, signal.high];
  if (low > 0) low = 0;
  if (high < 0) high = 0;
  return high > low ? [low, high] : [low, low + 1];
}

function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, least)));
  return Math.max(1, [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= least));
}

function tickText(value) {
  const text = Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(3)));
  return text.replace("-", "−");
}

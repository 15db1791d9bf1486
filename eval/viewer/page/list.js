// The list of problems. Only the rows in sight are in the document, however many there are.

const ROW = 50; // pixels, as in the style
const SPARE_ROWS = 6;

class ProblemList {
  constructor(element, onPick) {
    this.element = element;
    this.space = el("div", { class: "space", role: "presentation" });
    this.rows = [];
    this.element.append(this.space);
    this.element.addEventListener("scroll", () => this.draw());
    this.element.addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (row !== null) onPick(Number(row.dataset.problem));
    });
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  // problems: those listed, in order; makeRow(problem) gives a row's children.
  show(problems, current, makeRow) {
    this.problems = problems;
    this.current = current;
    this.makeRow = makeRow;
    this.space.style.height = `${problems.length * ROW}px`;
    this.reveal();
    this.draw();
  }

  reveal() {
    const index = this.problems.indexOf(this.current);
    if (index < 0) return;
    const { scrollTop, clientHeight } = this.element;
    const top = index * ROW;
    if (top < scrollTop) this.element.scrollTop = Math.max(0, top - ROW);
    else if (top + ROW > scrollTop + clientHeight) this.element.scrollTop = top + 2 * ROW - clientHeight;
  }

  draw() {
    if (!this.problems) return;
    const { scrollTop, clientHeight } = this.element;
    const first = Math.max(0, Math.floor(scrollTop / ROW) - SPARE_ROWS);
    const last = Math.min(this.problems.length, Math.ceil((scrollTop + clientHeight) / ROW) + SPARE_ROWS);
    const rows = [];
    for (let index = first; index < last; index++) {
      const problem = this.problems[index];
      const isCurrent = problem === this.current;
      const attributes = {
        class: isCurrent ? "row current" : "row",
        role: "option",
        id: `row-${problem}`,
        "aria-selected": String(isCurrent),
        "aria-setsize": this.problems.length,
        "aria-posinset": index + 1,
        "data-problem": problem,
      };
      const row = el("div", attributes, ...this.makeRow(problem));
      row.style.top = `${index * ROW}px`;
      rows.push(row);
    }
    this.space.replaceChildren(...rows);
    if (this.current === -1) this.element.removeAttribute("aria-activedescendant");
    else this.element.setAttribute("aria-activedescendant", `row-${this.current}`);
  }
}

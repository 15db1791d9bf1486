// Which problems are listed.

const NO_FILTERS = { outcome: "", compare: "", level: "", finish: "", text: "" };
const WRONG = new Set(["wrong", "unparsed", "truncated", "failed"]); // all that counts as wrong

// The base alone with which a guided arm is compared: one that is shown, else of the same place, else any.
function aloneArm(data, guided, shown) {
  const alone = data.arms.map((_, arm) => arm).filter((arm) => data.arms[arm].alone);
  const near = alone.filter((arm) => guided >= 0 && data.arms[arm].source === data.arms[guided].source);
  return alone.find((arm) => shown.includes(arm)) ?? near[0] ?? alone[0] ?? -1;
}

// The guided arm among A and B, or -1.
function guidedArm(data, shown) {
  return shown.find((arm) => arm >= 0 && !data.arms[arm].alone) ?? -1;
}

// The comparisons that these arms allow.
function comparisons(data, a, b) {
  const guided = guidedArm(data, [a, b]);
  const pair = guided >= 0 && aloneArm(data, guided, [a, b]) >= 0;
  return { "": true, flipped: b >= 0, recovered: pair, lost: pair, split: data.arms.length > 1 };
}

// Whether a filter can have this value.
function isFilterValue(data, name, value) {
  if (name === "outcome") return value in OUTCOMES;
  if (name === "compare") return value in comparisons(data, 0, 0);
  if (name === "level") return levelsOf(data).includes(value);
  if (name === "finish") return endingsOf(data).includes(value);
  return true;
}

// Problem -> whether it passes, for these filters and arms.
function makeFilter(data, filters, a, b) {
  const text = filters.text.trim().toLowerCase();
  const guided = guidedArm(data, [a, b]);
  const alone = aloneArm(data, guided, [a, b]);
  const compare = {
    flipped: (problem) => {
      const [left, right] = graded(data, problem, a, b);
      return left !== null && left.correct !== right.correct;
    },
    recovered: (problem) => {
      const [before, after] = graded(data, problem, alone, guided);
      return before !== null && !before.correct && after.correct;
    },
    lost: (problem) => {
      const [before, after] = graded(data, problem, alone, guided);
      return before !== null && before.correct && !after.correct;
    },
    split: (problem) => {
      const outcomes = data.arms.map((_, arm) => data.run(arm, problem)).filter((run) => run !== null && run.graded);
      return outcomes.some((run) => run.correct) && outcomes.some((run) => !run.correct);
    },
  }[filters.compare];
  return (problem) => {
    const run = data.run(a, problem);
    const outcome = outcomeOf(run);
    if (filters.outcome === "wrong" ? !WRONG.has(outcome) : filters.outcome && outcome !== filters.outcome) return false;
    if (filters.level !== "" && levelText(data.problems[problem].level) !== filters.level) return false;
    if (filters.finish && (run === null || run.finish !== filters.finish)) return false;
    if (compare !== undefined && !compare(problem)) return false;
    return text === "" || hasText(data, problem, [a, b], text);
  };
}

// Both runs where both are there and graded, else two nulls.
function graded(data, problem, left, right) {
  const runs = [data.run(left, problem), data.run(right, problem)];
  return runs.every((run) => run !== null && run.graded) ? runs : [null, null];
}

function hasText(data, problem, arms, text) {
  const { id, gold, subject } = data.problems[problem];
  if ([id, gold, subject].some((value) => (value ?? "").toLowerCase().includes(text))) return true;
  return arms.some((arm) => {
    const run = data.run(arm, problem);
    if (run === null) return false;
    return run.prompt.toLowerCase().includes(text) || run.searchText().includes(text);
  });
}

function levelText(level) {
  return level === null || level === undefined ? "none" : String(level);
}

// Finish reasons in order of the alphabet.
function endingsOf(data) {
  const endings = data.arms.flatMap((_, arm) => data.runsOf(arm).map((run) => run?.finish));
  return [...new Set(endings.filter((ending) => ending))].sort();
}

// Levels in order: numbers by size, then texts.
function levelsOf(data) {
  const levels = [...new Set(data.problems.map((problem) => levelText(problem.level)))];
  return levels.sort((x, y) => x.localeCompare(y, "en", { numeric: true }));
}

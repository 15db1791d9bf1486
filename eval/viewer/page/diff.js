// Where two texts part, and which of their tokens are not in the other one.

const MOST_CELLS = 4_000_000; // of the table of common subsequences; beyond it every token after the split is marked

// Marks for both runs, or null where their tokens are not known.
function compareRuns(a, b) {
  if (a === null || b === null || (!a.count && !b.count)) return null;
  const keys = [a, b].map((run) => Array.from({ length: run.count }, (_, i) => tokenKey(run, i)));
  const [left, right] = keys;
  const shorter = Math.min(left.length, right.length);
  let first = 0;
  while (first < shorter && left[first] === right[first]) first++;
  if (first === left.length && first === right.length) return { first: -1, marks: [new Marks(-1, []), new Marks(-1, [])] };
  const unique = uniqueTokens(left, right, first);
  return { first, marks: unique.map((differing) => new Marks(first, differing)) };
}

// Equal for tokens that read alike, also in two vocabularies.
function tokenKey(run, position) {
  const number = run.token(position);
  const text = run.data.tokenTexts[number];
  if (text === null || run.data.tokenBytes.has(number)) return `#${run.data.ids[number]}`;
  return `${run.data.special.has(number) ? "!" : "="}${text}`;
}

// For each side, by position: 1 for a token that is in no longest common subsequence of what follows the split.
function uniqueTokens(left, right, first) {
  let tail = 0;
  while (
    tail < Math.min(left.length, right.length) - first &&
    left[left.length - 1 - tail] === right[right.length - 1 - tail]
  ) {
    tail++;
  }
  const [n, m] = [left.length - tail - first, right.length - tail - first];
  const marks = [new Uint8Array(left.length), new Uint8Array(right.length)];
  marks[0].fill(1, first, first + n);
  marks[1].fill(1, first, first + m);
  if (n * m === 0 || (n + 1) * (m + 1) > MOST_CELLS) return marks;
  const width = m + 1;
  const best = new Uint32Array((n + 1) * width);
  for (let i = n - 1; i >= 0; i--) {
    for (let j = m - 1; j >= 0; j--) {
      best[i * width + j] =
        left[first + i] === right[first + j]
          ? best[(i + 1) * width + j + 1] + 1
          : Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
    }
  }
  for (let i = 0, j = 0; i < n && j < m; ) {
    if (left[first + i] === right[first + j]) {
      marks[0][first + i++] = 0;
      marks[1][first + j++] = 0;
    } else if (best[(i + 1) * width + j] >= best[i * width + j + 1]) {
      i++;
    } else {
      j++;
    }
  }
  return marks;
}

class Marks {
  constructor(first, differing) {
    this.first = first;
    this._differing = differing;
  }

  differs(unit) {
    for (let i = unit.start; i < unit.start + unit.count; i++) if (this._differing[i]) return true;
    return false;
  }

  isFirst(unit) {
    return this.first >= unit.start && this.first < unit.start + unit.count;
  }

  endsHere(count) {
    return this.first >= 0 && this.first === count;
  }
}

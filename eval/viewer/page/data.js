// The data of the page: tables of texts, and columns of whole numbers that are unpacked when they are first asked for.
// eval/viewer/payload.py describes the layout.

const NO_VALUE = -(2 ** 31);
const MINUS_INFINITY = NO_VALUE + 1;
const INFINITY = 2 ** 31 - 1;
const FORMAT = 1;

async function readData() {
  if (typeof DecompressionStream === "undefined") {
    throw new Error("this browser has no DecompressionStream; any release since May 2023 has it");
  }
  const element = document.getElementById("data");
  const packed = atob(JSON.parse(element.textContent).data);
  element.remove();
  const bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const tree = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  if (tree.format !== FORMAT) throw new Error(`data of format ${tree.format}, and this page reads ${FORMAT}`);
  return new Data(tree, new Uint8Array(buffer, 4 + length));
}

class Data {
  constructor(tree, body) {
    this.title = tree.title;
    this.madeBy = tree.made_by;
    this.notes = tree.notes;
    this.arms = tree.arms;
    this.problems = tree.problems;
    this.texts = tree.texts;
    this.signals = tree.signals;
    this.choices = tree.choices;
    this.ids = tree.vocabulary.ids;
    this.tokenTexts = tree.vocabulary.texts;
    this.tokenBytes = new Map(Object.entries(tree.vocabulary.bytes).map(([number, hex]) => [Number(number), hex]));
    this.special = new Set(tree.vocabulary.special);
    this._body = body;
    this._places = new Map(tree.columns.map((place) => [place.name, place]));
    this._columns = new Map();
    this._runs = this.arms.map(() => new Array(this.problems.length).fill(null));
    for (const entry of tree.runs) this._runs[entry.arm][entry.problem] = new Run(this, entry);
  }

  // The run of an arm on a problem, or null where there is none.
  run(arm, problem) {
    return arm < 0 ? null : this._runs[arm][problem];
  }

  runsOf(arm) {
    return this._runs[arm];
  }

  signal(name) {
    return this.signals.find((signal) => signal.name === name) ?? null;
  }

  column(name) {
    if (!this._columns.has(name)) this._columns.set(name, this._unpack(this._places.get(name)));
    return this._columns.get(name);
  }

  // Four planes of bytes, the lowest first, as 32-bit integers.
  _unpack({ at, n }) {
    const body = this._body;
    const values = new Int32Array(n);
    const [p1, p2, p3] = [at + n, at + 2 * n, at + 3 * n];
    for (let i = 0; i < n; i++) {
      values[i] = body[at + i] | (body[p1 + i] << 8) | (body[p2 + i] << 16) | (body[p3 + i] << 24);
    }
    return values;
  }
}

// One text. A unit is what the page shows as one thing: a token, or where tokens' texts are not known a whole stretch.
class Run {
  constructor(data, entry) {
    this.data = data;
    this.arm = entry.arm;
    this.problem = entry.problem;
    this.outcome = entry.outcome;
    this.answer = entry.answer;
    this.finish = entry.finish;
    this.error = entry.error;
    this.starts = entry.starts;
    this.count = entry.count;
    this.traced = entry.signal !== null;
    this._entry = entry;
  }

  get prompt() {
    return this.data.texts[this._entry.prompt];
  }

  get byToken() {
    return this._entry.pieces === undefined;
  }

  // The vocabulary's number of the token at a position.
  token(position) {
    return this.data.column("token")[this._entry.token + position];
  }

  isOracle(position) {
    return (this.data.column("flags")[this._entry.token + position] & 1) === 1;
  }

  oracleCount() {
    let count = 0;
    for (let i = 0; i < this.count; i++) count += this.isOracle(i) ? 1 : 0;
    return count;
  }

  // Which consult wrote the token, from 0, or -1: the base did.
  consult(position) {
    if (!this.isOracle(position)) return -1;
    let consult = -1;
    while (consult + 1 < this.starts.length && this.starts[consult + 1] <= position) consult++;
    return consult;
  }

  // A signal's value, or null where its model has not looked.
  value(signal, position) {
    if (!this.traced) return null;
    const scaled = this.data.column(signal.name)[this._entry.signal + position];
    if (scaled === NO_VALUE) return null;
    if (scaled === INFINITY) return Infinity;
    return scaled === MINUS_INFINITY ? -Infinity : scaled / 10 ** signal.decimals;
  }

  // The vocabulary's number of a model's first choice, or null.
  choice(name, position) {
    if (!this.traced || !this.data.choices.includes(name)) return null;
    const distance = this.data.column(name)[this._entry.signal + position]; // from the written token's number
    return distance === NO_VALUE ? null : this.token(position) + distance;
  }

  // The text that a token shows in its place: its own, but for a character that several tokens make.
  tokenText(position) {
    this._exceptions ??= new Map(this._entry.exceptions ?? []);
    return this._exceptions.get(position) ?? this.data.tokenTexts[this.token(position)];
  }

  units() {
    if (this.byToken) {
      return Array.from({ length: this.count }, (_, position) => ({
        start: position,
        count: 1,
        oracle: this.isOracle(position),
        number: this.token(position),
        text: this.tokenText(position),
      }));
    }
    let start = 0;
    return this._entry.pieces.map(([source, count, text]) => {
      const unit = { start, count, oracle: source === "oracle", number: null, text: this.data.texts[text] };
      start += count;
      return unit;
    });
  }

  // All of the text in lower case, for searching.
  searchText() {
    this._searchText ??= this.units().map((unit) => unit.text ?? "").join("").toLowerCase();
    return this._searchText;
  }

  get correct() {
    return this.outcome === "correct";
  }

  get graded() {
    return this.outcome !== "ungraded";
  }
}

// Elements from JavaScript. Every text goes through text nodes, so none can become markup.

const SVG = "http://www.w3.org/2000/svg";

// Characters that would be invisible, or would reorder or break what is around them.
const CONTROL =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u00a0\u00ad\u034f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}\p{Cs}]/u;
const NAMES = new Map([
  [0x00, "NUL"],
  [0x07, "BEL"],
  [0x08, "BS"],
  [0x0d, "CR"],
  [0x1b, "ESC"],
  [0x7f, "DEL"],
  [0xa0, "NBSP"],
  [0xad, "SHY"],
  [0x200b, "ZWSP"],
  [0x200e, "LRM"],
  [0x200f, "RLM"],
  [0x2028, "LS"],
  [0x2029, "PS"],
  [0x202d, "LRO"],
  [0x202e, "RLO"],
  [0xfeff, "BOM"],
]);

function codePoint(character) {
  return `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
}

function controlName(character) {
  return NAMES.get(character.codePointAt(0)) ?? codePoint(character);
}

// A text as a label may hold it: control characters by their names.
function plain(text) {
  let shown = "";
  for (const character of String(text ?? "")) {
    if (character === "\n") shown += "↵";
    else if (character === "\t") shown += "→";
    else shown += CONTROL.test(character) ? `⟨${controlName(character)}⟩` : character;
  }
  return shown;
}

function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  setAll(element, attributes);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  setAll(element, attributes);
  element.append(...children);
  return element;
}

function setAll(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
}

function byId(id) {
  return document.getElementById(id);
}

function option(value, text, disabled = false) {
  return el("option", { value, disabled }, plain(text));
}

function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

// A signal's value as text, with all digits that the page has.
function shownValue(signal, value) {
  if (value === null) return "–";
  if (signal.kind === "bool") return value ? "yes" : "no";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  return value.toFixed(Math.max(0, signal.decimals)).replace("-", "−");
}

const OUTCOMES = {
  correct: { glyph: "✓", text: "correct" },
  wrong: { glyph: "✗", text: "wrong" },
  unparsed: { glyph: "?", text: "no answer found" },
  truncated: { glyph: "…", text: "cut off" },
  failed: { glyph: "!", text: "failed" },
  ungraded: { glyph: "○", text: "not graded" },
  missing: { glyph: "–", text: "not run" },
};

function outcomeOf(run) {
  return run === null ? "missing" : run.outcome in OUTCOMES ? run.outcome : "ungraded";
}

function outcomeMark(run, label = "") {
  const name = outcomeOf(run);
  const { glyph, text } = OUTCOMES[name];
  return el("span", { class: `mark ${name}`, title: `${label ? `${plain(label)}: ` : ""}${text}` }, glyph);
}

r"""Finds the answer in a completion: its last box, else what follows "the answer is", else all of a bare answer.

Else, in a longer text, what its last sentence says where that begins with a "therefore".
"""

from __future__ import annotations

import re
from collections import deque
from typing import Final

from dodona.eval.boxed import Box, boxes
from dodona.eval.checker.lexer import Unreadable
from dodona.eval.checker.reader import read

LONGEST_BARE_ANSWER = 300  # characters; a longer text has the answer that it marks or concludes with, or none
_LONGEST_CLAUSE = 2000
_MOST_MARKERS = 20

_MARKER: Final = re.compile(
    r"^[ \t#*_]*(?:final[ \t]+|correct[ \t]+)?answer[ \t*_]*\n"  # a heading
    r"|####(?![ \t]*step\b)|<answer>|\bans\s*:"
    r"|\b(?:final\s+|correct\s+)?answers?\b\**(?:\s+(?:to|for|of)\b[^.\n:]{0,80}?)?"
    r"\s*(?:\bis\b|\bare\b|\bwill\s+be\b|\bmust\s+be\b|\bshould\s+be\b|[:=])"
    r"(?:\s+(?:therefore|thus|then|simply|just|indeed|exactly|about|around|approximately|roughly)\b)?\s*[:*]*",
    re.IGNORECASE | re.MULTILINE,
)
_CONCLUSION: Final = re.compile(  # the last sentence: "So, James runs a total of 540 meters a week."
    r"(?:^[ \t*_]*|[.!]\s+)(?:so|thus|hence|therefore|consequently)\b,?\s+"
    r"((?:(?![.!]\s|\bnot\b|n['’]t\b)[^\n])*)[.!][*\s]*\Z",
    re.IGNORECASE | re.MULTILINE,
)
_TAKEN_BACK: Final = re.compile(r"\b(?:wait|actually|oops|correction|made a mistake)\b", re.IGNORECASE)
_LABEL: Final = re.compile(r"[*_ ]*[A-Za-z]{3,}(?: [a-z]+){0,3}[*_ ]*:[*_ ]*(\S.*)")  # Total cost: 42
_JOINED: Final = re.compile(
    r"(?:[\s$,;&]|\\[()\[\],;! ]|\\q?quad\b|\band\b|\bor\b|\\text\s*\{\s*,?\s*(?:and|or)\s*\}|\b[A-Za-z]\w{0,2}\s*=)*"
)
_SEPARATOR: Final = re.compile(r"[,;]|\band\b|\bor\b|=")
_BOX_WITHOUT_BRACES: Final = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z{])[ \t]*(?!\{)(?=\S)")
_OPEN_BOX: Final = re.compile(r"\\(?:boxed|fbox)\s*\{")  # of a text that was cut off: closed ones were found before
_MATH: Final = re.compile(  # $5 and $7 are two prices
    r"\$\$(.+?)\$\$|(?<![\\$])\$(?![\s$])((?:\\.|[^$\\])+)(?<!\s)\$(?!\d)|(?<![\\$])\$\s((?:\\.|[^$\\])+)\s\$"
    r"|\\\((.+?)\\\)|\\\[(.+?)\\\]",
    re.DOTALL,
)
_NUMBER: Final = re.compile(
    r"(?<![\w.])[-−]?\s?\\?[$£€]?\d+(?:,\d{3})*(?:\.\d+)?(?:\s?/\s?\d+)?(?:\s?\\?%)?(?![.,]?\d)", re.ASCII
)
_SENTENCE_END: Final = re.compile(  # n! is no end, and 5! at the end of a sentence is
    r"(?<!\\)[.?](?=\s|$)|(?:(?<=\d)|(?<=[a-z]{2}))!(?=\s|$)|\n|\s(?:because|since|as|so|which|where|for)\s"
)
_AFTER_MATH: Final = re.compile(  # an end, another part of the answer, or a unit
    r"\s*,?\s*(?:and|or|,)?\s*$|\s*(?:and|or|,)\s*[$\\\d-]|\s*[A-Za-z°%]+(?:\s[A-Za-z]+)?\s*$"
)
_SAYS: Final = re.compile(r".*[A-Za-z$)]\s+(?:is|are|equals)\b(.*)", re.DOTALL)
_IS_IT: Final = re.compile(  # $x > 2$ is the answer
    r"(.*\S)\s+(?:is|are)\s+(?:the|our|my)\s+(?:\w+\s+)?(?:answers?|solutions?|results?)\b.*", re.DOTALL
)
_BOUNDED: Final = re.compile(r"(?:\b(?:than|at\s+(?:least|most)|not|no))\s*$", re.IGNORECASE)  # less than 7
_SPECIAL_TOKENS: Final = re.compile(r"<\|[\w-]{1,40}\|>|</(?:s|answer)>|<(?:end_of_turn|eos)>")
_OPENING: Final = re.compile(
    r"(?:(?:thus|so|hence|therefore|then|finally|and|we (?:get|have|find|obtain)|it (?:is|equals)|it['’]s)\b[,:]?\s*)+",
    re.IGNORECASE,
)


_MIXED_IN_WORDS: Final = re.compile(  # 4 and 2/3
    r"(-?\$?\d+)(?:\s+and\s+|\s*\\text\s*\{\s*and\s*\}\s*)(\d+\s*/\s*\d+|\\[dt]?frac\s*(?:\d\d|\{\d+\}\s*\{\d+\}))(\s.*)?",
    re.DOTALL,
)
_GLOSS: Final = re.compile(r"(.*\S)\s+\([A-Za-z]{3,}(?:[ -][A-Za-z]+)*\)", re.DOTALL)  # 42 (forty-two)
_IS: Final = re.compile(r".*\b(?:is|are)\s+((?:an?\s+)?[a-z]+)[.\s]*", re.IGNORECASE | re.DOTALL)


def final_answers(completion: str) -> list[str]:
    """The answer that a completion ends on, as it is written there; none where none is found.

    Several boxes with only commas, an "and" or a name between them, in one line, may be one answer in parts or
    several answers: then there are two, all of them and the last.
    """
    text = _SPECIAL_TOKENS.sub(" ", completion)
    reasoning, end, after = text.rpartition("</think>")
    found = (_answers(after) or _answers(reasoning)) if end else _answers(text)
    found += [match[1] for answer in found if (match := _GLOSS.fullmatch(answer.strip(" .$")))]
    mixed = [match for answer in found if (match := _MIXED_IN_WORDS.fullmatch(answer.strip(" .$")))]
    return found + [f"{match[1]} {match[2]}{match[3] or ''}" for match in mixed]


def gold_answers(gold: str) -> list[str]:
    """The answer in a gold text: in a box or after ``####`` where it is a worked solution, else all of it.

    Of "The answer is 21.", which may be an answer or say one, there are two.
    """
    found = _boxes(gold)[:1]
    if not found and not boxes(gold):
        found = [gold.rpartition("####")[2].strip()]
        found += [] if "####" in gold else [_stated(gold) or ""]
    return list(dict.fromkeys(answer for answer in found if answer.strip()))


def _answers(text: str) -> list[str]:
    found = _boxes(text)
    if found:
        return _corrected(text) or found
    answer, whole = _stated(text), text.strip()
    if answer is not None:
        return [answer]
    answer = _bare(whole)
    if answer is None:
        return _concluded(whole)
    says = _IS.fullmatch(whole)  # the function is odd
    return list(dict.fromkeys([answer, whole, *([says[1]] if says else [])]))


def _corrected(text: str) -> list[str]:
    """What is stated after the last box, with a word that takes the box back; a statement without a number does not."""
    after = text[max((box.end for box in boxes(text)), default=len(text)) :]
    answer = _stated(after) if _TAKEN_BACK.search(after) else None
    return [answer] if answer and re.search(r"[\d\\$]", answer) else []


def _concluded(text: str) -> list[str]:
    """What a last sentence that begins with "so" or "therefore" says; a text that was cut off ends in no sentence."""
    match = _CONCLUSION.search(text, max(0, len(text) - 2 * LONGEST_BARE_ANSWER))
    said = match[1].strip(" *") if match and not _OPEN_BOX.search(text) else ""
    answer = said and (_readable(said) or _said(said) or _last_part(said))
    return [answer] if answer else []


def _boxes(text: str) -> list[str]:
    """The last box that holds something; before it, where they are not the same, that box with its neighbours."""
    found = [box for box in boxes(text) if box.content.strip()]
    if not found:
        matches = deque(_BOX_WITHOUT_BRACES.finditer(text), maxlen=1)
        clause = _clause(re.split(r"[$\n]", text[matches[0].end() :][:_LONGEST_CLAUSE])[0]) if matches else None
        return [clause] if clause else []
    together = _neighbours(text, found)
    last = found[-1].content.strip()
    return [last] if together == last else [together, last]


def _neighbours(text: str, found: list[Box]) -> str:
    group = [found[-1]]
    for box in reversed(found[:-1]):
        if box.end > group[0].start:  # around the one that was taken
            continue
        between = text[box.end : group[0].start]
        if len(between) > 60 or "\n\n" in between or not _JOINED.fullmatch(between) or not _SEPARATOR.search(between):
            break
        group.insert(0, box)
    return ", ".join(dict.fromkeys(box.content.strip() for box in group))


def _stated(text: str) -> str | None:
    """What follows the last "answer is" or ``####``, to the end of its sentence."""
    for match in reversed(deque(_MARKER.finditer(text), maxlen=_MOST_MARKERS)):
        rest = text[match.end() : match.end() + _LONGEST_CLAUSE].lstrip(" \t\n*:")
        line = rest.partition("\n")[0].strip()
        if match[0] == "####":
            return _readable(line) or _clause(rest) or line or None
        if match[0].endswith("\n") and "\n" in rest.strip() and not _MATH.match(rest):  # a heading, and a text below it
            answer = _readable(line)
        else:
            answer = None if re.match(r"not\b", rest) else _clause(rest)
        if answer:
            return answer
    return None


def _clause(rest: str) -> str | None:
    math = _MATH.match(rest)
    start = math.end() if math else 0
    ends = (match.start() for match in _SENTENCE_END.finditer(rest, start))
    end = next((at for at in ends if rest.count("{", 0, at) == rest.count("}", 0, at)), len(rest))  # \text{sq. units}
    clause = rest[:end].strip().strip("*").strip()
    if math and not _AFTER_MATH.match(rest[start:end]):
        clause = math[0]
    if len(clause) > LONGEST_BARE_ANSWER or _OPEN_BOX.search(clause) or not clause.strip("\\[($ "):  # cut off
        return None
    return _readable(clause) or _said(clause) or _last_part(clause) or clause or None


def _bare(text: str) -> str | None:
    """A text that is an answer itself; of one line that is not, its last formula or number."""
    if not text or len(text) > LONGEST_BARE_ANSWER or _OPEN_BOX.search(text):
        return None
    if readable := ((label := _LABEL.fullmatch(text)) and _readable(label[1])) or _readable(text):
        return readable
    if "\n" in text:
        return None
    text = _OPENING.sub("", text, count=1) if _OPENING.match(text) else text
    return _readable(text) or _said(text) or _last_part(text) or text


def _said(clause: str) -> str | None:
    """What follows the last "is": "Answer: the volume of the box is 120"."""
    if it := _IS_IT.fullmatch(clause):
        return _readable(it[1]) or _last_part(it[1])
    match = _SAYS.fullmatch(clause)
    said = match[1].strip(" .") if match else ""
    if not said:
        return None
    first = _NUMBER.match(said)
    return _readable(said) or (first[0].strip() if first and "\\" not in said and "$" not in said[1:] else None)


def _readable(text: str) -> str | None:
    try:
        node = read(text)
    except Unreadable:
        return None
    prose = node.op == "text" and len(text.split()) > 4
    kinds = {item.op == "text" for item in node.args} if node.op == "list" else set()
    return None if prose or len(kinds) > 1 else text  # "Thus, x = 5" is no list of two answers


def _last_part(text: str) -> str | None:
    """The last formula in a text, else the last number of a sentence; a formula that cannot be read has none."""
    formulas = [next(group for group in match.groups() if group is not None) for match in _MATH.finditer(text)]
    if formulas:
        return formulas[-1].strip()
    if "\\" in text or len(re.findall(r"(?<![A-Za-z])[A-Za-z]{2,}", text)) < 2:
        return None
    numbers = deque(_NUMBER.finditer(text), maxlen=1)
    return numbers[0][0].strip() if numbers and not _BOUNDED.search(text[: numbers[0].start()]) else None

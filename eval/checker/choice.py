r"""The letter that a completion to a multiple-choice question ends on; never one out of ordinary prose."""

from __future__ import annotations

import re
from typing import Final

from dodona.eval.boxed import boxes

LONGEST_BARE_CHOICE = 300  # characters of a completion that is nothing but a letter and perhaps its choice's text

_LETTER: Final = r"['‘]?[(\[]?(?P<letter>[A-Z])(?![A-Za-z0-9^=+]|['’][a-z]|-[A-Za-z])"
# A small letter counts where nothing but its sentence's end comes after it, or in brackets.
_SMALL: Final = r"(?:\((?P<small>[a-z])\)|(?P<last>[a-z])(?=[).]?(?: ?$| ?\x01)))"
_SURE: Final = r"(?: (?:therefore|thus|clearly|most likely|probably|likely|indeed))?"
_STATED: Final = re.compile(  # "the best answer is C"
    r"(?i:\b(?:answer|(?:(?:best|correct|right|final|most likely|most appropriate) )(?:choice|option)|choice|option)"
    r"(?: to (?:this|the) question)?(?: is| would be| must be| should be| will be| ?:| ?=)"
    rf"{_SURE} ?:? ?(?:(?:the )?(?:choice|option|letter|answer)\b ?:? ?)?)\x01?(?:{_LETTER}|{_SMALL})"
)
_CHOSEN: Final = re.compile(  # "I choose C"
    r"\b(?i:I(?: would|['’]d)? (?:choose|select|pick|go with)|I['’]ll go with|we choose|we select)"
    rf" (?i:(?:the )?(?:choice|option|answer) )?{_LETTER}"
)
_AFTERWARDS: Final = re.compile(  # "option C is correct", "(C) is the best answer"
    rf"(?:\b(?i:choice|option|answer) |(?:^|\x01|(?i:\b(?:so|thus|hence|therefore),? )) ?){_LETTER}[)\]]?"
    r" (?:is|must be) (?:the )?(?:most likely )?(?:correct|right|best|answer)\b(?!,? but)"
)
_BOXED: Final = re.compile("\x02(?P<letter>[A-Z])\x03")
_UNDER: Final = re.compile(  # a heading, and the letter below it
    r"(?:^|\x01) ?#* ?(?i:(?:(?:best|correct|right|final) )?answer) ?:?"
    rf"\x01{_LETTER}[).\]:]{{0,2}} ?(?=\x01|$)"
)
_MARKED: Final = re.compile(rf"####:? ?{_LETTER}[).\]:]{{0,2}}$")
_BARE: Final = re.compile(
    r"(?i:(?:(?:(?:so|thus|hence|therefore),? )?it(?: is|['’]s) )?(?:(?:the )?(?:choice|option|answer) )?)"
    rf"(?:{_LETTER}[)\].: ]{{0,4}}['’]?|(?P<small>[(\[]?[a-z][)\]]?\.?))"
)
_BARE_WITH_TEXT: Final = re.compile(r"\(?(?P<letter>[A-Z])[).:]\)? \S.*")
_LISTED: Final = re.compile("\x01 ?\\(?[A-Z][).:] ")  # a further choice, in a line of its own
_IN_BOX: Final = re.compile(rf"(?i:(?:choice|option|answer) ?:? ?)?(?:{_LETTER}(?:[)\].:].*)?|\(?(?P<small>[a-z])\)?)")
# What follows a letter that is meant as one: an end, a mark, or a reason; any other small word is a sentence's.
_PROSE: Final = re.compile(r"['’]? (?!because|since\b|as\b|which\b|and not\b|not\b|for\b|due\b|with\b|is\b)[a-z]")
_ANOTHER: Final = re.compile(
    r"[)\]'’]{0,2} ?(?:,|/|or\b|and\b|&) ?(?:(?:or|and) )?(?:(?:option|choice) )?[(\[]?[A-Z](?![A-Za-z0-9'’])"
)
_MARKUP: Final = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathsf)\s?\{|\\[()\[\]]|[*_`\"“”$\\{}]")
_SPECIAL_TOKENS: Final = re.compile(r"<\|[\w-]{1,40}\|>|</s>")


def chosen_letter(completion: str) -> str | None:
    r"""The last letter that is stated as the answer ("the best answer is C", ``\boxed{C}``), or a bare letter.

    A capital letter; a small one where it stands at an end, in brackets or in a box. None where none is found, and
    where the last statement names two.
    """
    _, end, after = completion.rpartition("</think>")
    text = _flat(after if end and after.strip() else completion)
    found = [(match.end(), match["letter"]) for match in _BOXED.finditer(text)]
    found += [at for pattern in (_STATED, _CHOSEN, _UNDER, _MARKED) for at in _stated(pattern, text)]
    found = found or [(match.end(), match["letter"]) for match in _AFTERWARDS.finditer(text)]
    if found:
        return max(found)[1] or None
    several = _LISTED.search(text)
    text = " ".join(text.replace("\x01", " ").split())
    if len(text) > LONGEST_BARE_CHOICE:
        return None
    match = _BARE.fullmatch(text)
    if match is not None:
        return (match["letter"] or match["small"]).strip("([)].").upper()
    match = _BARE_WITH_TEXT.fullmatch(text)
    return match["letter"] if match and not several else None


def _stated(pattern: re.Pattern[str], text: str) -> list[tuple[int, str]]:
    """Where and which letter; an empty one where two are named."""
    found = []
    for match in pattern.finditer(text):
        small = match.groupdict().get("small") or match.groupdict().get("last")
        if small:
            found.append((match.end(), small.upper()))
        elif _ANOTHER.match(text, match.end()):
            found.append((match.end(), ""))
        elif not _PROSE.match(text, match.end()):
            found.append((match.end(), match["letter"]))
    return found


def _flat(completion: str) -> str:
    r"""The text without markup, in one line, and with a box of a letter as that letter between marks.

    \x01 stands for the end of a line.
    """
    text, at = "", 0
    for box in boxes(completion):
        if box.start < at:
            continue
        match = _IN_BOX.fullmatch(_plain(box.content))
        letter = (match["letter"] or match["small"]).upper() if match else None
        text += completion[at : box.start] + (f" \x02{letter}\x03 " if letter else " ")
        at = box.end
    return _plain(text + completion[at:])


def _plain(text: str) -> str:
    text = _MARKUP.sub("", _SPECIAL_TOKENS.sub(" ", text)).replace("\x01", " ").replace("\n", " \x01 ")
    return re.sub(r"(?:\x01 ?)+", "\x01", " ".join(text.split())).strip("\x01 ")

"""Changes a number in token ids: one token of digits becomes another of as many digits, and all others stay."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from dodona.engine.tokenizer import Tokenizer

_NUMBER: Final = re.compile(r"([Ġ▁]?)([0-9]+)")  # a token's stored form, with the space that it may begin with


class Edit(NamedTuple):
    """What was changed."""

    position: int  # index of the token
    before: int  # its id
    after: int

    def as_dict(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """For a record."""
        texts = {"from": tokenizer.token_text(self.before), "to": tokenizer.token_text(self.after)}
        return {"position": self.position, **texts}


class NumberEditor:
    """Changes numbers in the ids of one vocabulary."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._form: dict[int, tuple[str, str]] = {}  # space and digits of each token that is a number
        self._alike: dict[tuple[str, int], list[int]] = {}  # ids by space and number of digits
        for token, i in sorted(tokenizer.vocabulary.items(), key=lambda pair: pair[1]):
            if (match := _NUMBER.fullmatch(token)) is not None and i not in tokenizer.special_ids:
                self._form[i] = match[1], match[2]
                self._alike.setdefault((match[1], len(match[2])), []).append(i)

    def edit(self, ids: Sequence[int], seed: str) -> Edit | None:
        """Choose a number and what it becomes; the same ids and seed give the same edit.

        Every token of digits is as likely, and so is everything that it can become. A number never gets a leading zero
        by it. None: there is no number that could be another.
        """
        places = [place for place in range(len(ids)) if self._others(ids, place)]
        if not places:
            return None
        draw = random.Random(seed)
        place = draw.choice(places)
        return Edit(place, ids[place], draw.choice(self._others(ids, place)))

    def _others(self, ids: Sequence[int], place: int) -> list[int]:
        """What the token at a place can become."""
        if ids[place] not in self._form:
            return []
        space, digits = self._form[ids[place]]
        inside = not space and place > 0 and ids[place - 1] in self._form  # of a number that goes on over tokens
        alike = self._alike[space, len(digits)]
        return [
            other
            for other in alike
            if other != ids[place] and (inside or digits[0] == "0" or not self._form[other][1].startswith("0"))
        ]


def applied(ids: Sequence[int], edit: Edit) -> tuple[int, ...]:
    """The ids with the edit made."""
    return (*ids[: edit.position], edit.after, *ids[edit.position + 1 :])

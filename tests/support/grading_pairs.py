"""All pairs of a gold answer and predictions that are right or wrong, by the trap that they are about."""

from __future__ import annotations

from grading_case import Case
from grading_collections import COLLECTIONS
from grading_expressions import EXPRESSIONS
from grading_numbers import NUMBERS
from grading_words import WORDS

PAIRS: dict[str, tuple[Case, ...]] = NUMBERS | COLLECTIONS | EXPRESSIONS | WORDS

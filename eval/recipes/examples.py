"""Eight worked word problems, written for this project, that stand before the question in the 8-shot recipe."""

from __future__ import annotations

from typing import Final, NamedTuple


class Example(NamedTuple):
    """A word problem, its solution in a few sentences, and the number that it asks for."""

    problem: str
    solution: str
    answer: int


EXAMPLES: Final = (
    Example(
        "A bakery sells 18 rolls before noon and 3 times as many after noon. How many rolls does it sell that day?",
        "After noon it sells 3 * 18 = 54 rolls. Over the whole day that is 18 + 54 = 72 rolls.",
        72,
    ),
    Example(
        "Nadia has 50 euros. She buys 4 notebooks at 6 euros each and a pen for 9 euros. How many euros are left?",
        "The notebooks cost 4 * 6 = 24 euros. With the pen she spends 24 + 9 = 33 euros. She has 50 - 33 = 17 left.",
        17,
    ),
    Example(
        "A train of 6 coaches has 80 seats in each coach. If 35 percent of all seats are empty, how many are taken?",
        "There are 6 * 80 = 480 seats. Of them 0.35 * 480 = 168 are empty. So 480 - 168 = 312 are taken.",
        312,
    ),
    Example(
        "Tomas is 5 years older than Ines. Together they are 37 years old. How old is Ines?",
        "Twice the age of Ines is 37 - 5 = 32 years. So Ines is 32 / 2 = 16 years old.",
        16,
    ),
    Example(
        "A tap fills 12 liters in 5 minutes. How many minutes does it take to fill a tank of 180 liters?",
        "The tank holds 180 / 12 = 15 times as much. That takes 15 * 5 = 75 minutes.",
        75,
    ),
    Example(
        "Of the 96 books on a shelf, a quarter are atlases and half of the rest are novels. How many are novels?",
        "There are 96 / 4 = 24 atlases. The rest is 96 - 24 = 72 books. Half of them, 72 / 2 = 36, are novels.",
        36,
    ),
    Example(
        "Priya walks 2 kilometers to school and back on each of 5 days a week. How many kilometers is that in 8 weeks?",
        "There and back is 2 + 2 = 4 kilometers a day. A week has 5 * 4 = 20 kilometers; 8 weeks have 8 * 20 = 160.",
        160,
    ),
    Example(
        "Chairs cost 45 dollars each, with 10 dollars off each chair if you buy more than 5. What do 7 chairs cost?",
        "Seven is more than 5, so each chair costs 45 - 10 = 35 dollars. Seven of them cost 7 * 35 = 245 dollars.",
        245,
    ),
)

"""Any gold answer equals itself in another dress, and never equals one that was changed."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dodona.eval.grading import check

# --- gold answers, each with answers that differ from it ---


def written(value: Fraction) -> str:
    """A fraction in LaTeX."""
    if value.denominator == 1:
        return str(value.numerator)
    sign = "-" if value < 0 else ""
    return rf"{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


whole = st.integers(-(10**12), 10**12)
small = st.integers(-30, 30)
positive = st.integers(2, 40)
rational = st.builds(Fraction, st.integers(-200, 200), st.integers(1, 60))
squarefree = st.sampled_from([2, 3, 5, 6, 7, 10, 11, 13, 14, 15, 17, 19, 21])
letters = st.sampled_from("abcmnpqrtxyz")
people = st.sampled_from(
    ["Evelyn", "Navin", "Briana", "Angela", "Monday", "Tuesday", "ellipse", "parabola", "even", "odd"]
)

Case = tuple[str, list[str]]  # a gold answer and answers that are wrong
Dress = Callable[[str], str]


@st.composite
def integers(draw: st.DrawFn) -> Case:
    value = draw(whole)
    digits = str(abs(value))
    at = draw(st.integers(0, len(digits) - 1))
    changed = digits[:at] + str((int(digits[at]) + draw(st.integers(1, 9))) % 10) + digits[at + 1 :]
    wrong = [changed if value >= 0 else f"-{changed}", str(value * 10 if value else 10), str(value + 1), f"{value}.5"]
    return str(value), wrong + ([str(-value)] if value else [])


@st.composite
def fractions(draw: st.DrawFn) -> Case:
    value = draw(rational)
    wrong = [written(value + Fraction(1, draw(st.integers(1, 10**6)))), written(2 * value + 1)]
    assume(2 * value + 1 != value)
    if value != 0:
        wrong.append(written(-value))
        if abs(value) != 1:
            wrong.append(written(1 / value))
    return written(value), wrong


@st.composite
def decimals(draw: st.DrawFn) -> Case:
    places = draw(st.integers(1, 9))
    value = Fraction(draw(st.integers(-(10**6), 10**6)), 10**places)
    text = f"{float(value):.{places}f}"
    wrong = [f"{float(value + Fraction(1, 10**places)):.{places}f}", written(value * 3 + 1)]
    assume(value * 3 + 1 != value)
    return text, wrong


@st.composite
def radicals(draw: st.DrawFn) -> Case:
    whole_part, factor, radicand = draw(small), draw(st.integers(1, 20)), draw(squarefree)
    times = "" if factor == 1 else str(factor)
    gold = rf"{whole_part}+{times}\sqrt{{{radicand}}}"
    return gold, [
        rf"{whole_part}-{times}\sqrt{{{radicand}}}",
        rf"{whole_part + 1}+{times}\sqrt{{{radicand}}}",
        rf"{whole_part}+{times}\sqrt{{{radicand + 1}}}",
        rf"{whole_part}+{factor + 1}\sqrt{{{radicand}}}",
        f"{whole_part + factor * radicand**0.5:.3f}",
    ]


@st.composite
def polynomials(draw: st.DrawFn) -> Case:
    x, coefficients = draw(letters), draw(st.lists(st.integers(1, 30), min_size=2, max_size=5))
    terms = [f"{c}{x}^{{{n}}}" for n, c in enumerate(coefficients, 1)]
    gold = "+".join(terms)
    other = "w" if x != "w" else "v"
    return gold, [
        "+".join([*terms[:-1], f"{coefficients[-1] + 1}{x}^{{{len(terms)}}}"]),
        "+".join(terms[:-1]) or "0",
        gold.replace(x, other),
        "-".join(terms),
        f"{gold}+1",
    ]


@st.composite
def points(draw: st.DrawFn) -> Case:
    values = draw(st.lists(rational, min_size=2, max_size=4, unique=True))
    texts = [written(value) for value in values]
    swapped = [texts[1], texts[0], *texts[2:]]
    return f"({', '.join(texts)})", [
        f"({', '.join(swapped)})",
        f"({', '.join(texts[:-1])})",
        f"({', '.join([*texts, '1'])})",
        f"({', '.join([written(values[0] + 1), *texts[1:]])})",
        rf"\{{{', '.join(texts)}\}}",
        *([f"[{', '.join(texts)}]"] if len(texts) == 2 else []),
    ]


@st.composite
def intervals(draw: st.DrawFn) -> Case:
    low = draw(rational)
    high = low + draw(st.builds(Fraction, st.integers(1, 90), st.integers(1, 9)))
    opening, closing = draw(st.sampled_from("([")), draw(st.sampled_from(")]"))
    wrong_brackets = [a + b for a in "([" for b in ")]" if a + b != opening + closing]
    return f"{opening}{written(low)},{written(high)}{closing}", [
        *(f"{pair[0]}{written(low)},{written(high)}{pair[1]}" for pair in wrong_brackets),
        f"{opening}{written(low)},{written(high + 1)}{closing}",
        f"{opening}{written(low)},\\infty)",
        f"(-\\infty,{written(high)}{closing}",
    ]


@st.composite
def unions(draw: st.DrawFn) -> Case:
    a, b, c = sorted(draw(st.lists(small, min_size=3, max_size=3, unique=True)))
    gold = rf"(-\infty,{a})\cup({b},{c}]"
    return gold, [
        rf"(-\infty,{a}]\cup({b},{c}]",
        rf"(-\infty,{a})\cup[{b},{c}]",
        rf"(-\infty,{a})\cap({b},{c}]",
        rf"(-\infty,{a})",
        rf"(-\infty,{c}]",
    ]


@st.composite
def sets(draw: st.DrawFn) -> Case:
    values = draw(st.lists(rational, min_size=2, max_size=5, unique=True))
    texts = [written(value) for value in values]
    extra = written(max(values) + 1)
    return rf"\{{{', '.join(texts)}\}}", [
        rf"\{{{', '.join(texts[1:])}\}}",
        rf"\{{{', '.join([*texts, extra])}\}}",
        rf"\{{{', '.join([extra, *texts[1:]])}\}}",
        f"({', '.join(texts)})",
    ]


@st.composite
def matrices(draw: st.DrawFn) -> Case:
    rows = draw(st.lists(st.lists(small, min_size=2, max_size=2), min_size=2, max_size=3))

    def matrix(cells: list[list[int]]) -> str:
        return r"\begin{pmatrix}" + r"\\".join(" & ".join(map(str, row)) for row in cells) + r"\end{pmatrix}"

    changed = [row[:] for row in rows]
    changed[0][1] += 1
    wrong = [matrix(changed), matrix(rows[:-1]), matrix([[*row, 0] for row in rows])]
    if rows[0] != rows[1]:
        wrong.append(matrix([rows[1], rows[0], *rows[2:]]))
    return matrix(rows), wrong


@st.composite
def measures(draw: st.DrawFn) -> Case:
    value = draw(st.integers(1, 5000))
    unit, others = draw(
        st.sampled_from(
            [
                ("cm", ["m", "km", "cm^2", "kg"]),
                ("hours", ["minutes", "days", "miles"]),
                ("dollars", ["cents", "euros"]),
                ("kg", ["g", "pounds", "m"]),
                ("mph", ["km/h", "miles"]),
                ("cm^2", ["cm", "cm^3", "m^2"]),
            ]
        )
    )

    def measured(number: int, name: str) -> str:
        name, _, power = name.partition("^")
        return rf"{number} \text{{ {name}}}" + (f"^{power}" if power else "")

    return measured(value, unit), [
        *(measured(value, other) for other in others),
        measured(value + 1, unit),
        f"-{value}",
    ]


@st.composite
def complexes(draw: st.DrawFn) -> Case:
    real, imaginary = draw(st.integers(1, 40)), draw(st.integers(2, 40))
    wrong = [
        f"{real}-{imaginary}i",
        f"-{real}+{imaginary}i",
        f"{real}+{imaginary + 1}i",
        f"{real}+{imaginary}",
        f"{real}",
    ]
    return f"{real}+{imaginary}i", wrong + ([f"{imaginary}+{real}i"] if real != imaginary else [])


@st.composite
def lines(draw: st.DrawFn) -> Case:
    slope, offset = draw(st.integers(2, 20)), draw(st.integers(1, 20))
    return f"y={slope}x+{offset}", [
        f"y={slope}x-{offset}",
        f"y=-{slope}x+{offset}",
        f"y={slope + 1}x+{offset}",
        f"x={slope}y+{offset}",
        f"y={slope}x",
    ]


@st.composite
def powers(draw: st.DrawFn) -> Case:
    base, exponent = draw(st.integers(2, 12)), draw(st.integers(50, 3000))
    sign = draw(st.sampled_from(["", "-"]))
    other = "-" if not sign else ""
    return f"{base}^{{{sign}{exponent}}}", [
        f"{base}^{{{sign}{exponent + 1}}}",
        f"{base + 1}^{{{sign}{exponent}}}",
        f"{base}^{{{other}{exponent}}}",
        f"-{base}^{{{sign}{exponent}}}",
        "0",
    ]


@st.composite
def words(draw: st.DrawFn) -> Case:
    word = draw(people)
    others = ["Carla", "Friday", "circle", "yes", word[:-1], f"not {word}", "0"]
    return rf"\text{{{word}}}", others


@st.composite
def percentages(draw: st.DrawFn) -> Case:
    value = draw(st.integers(1, 400))
    return rf"{value}\%", [rf"{value + 1}\%", rf"{value}0\%", rf"-{value}\%", f"{value / 1000}"]


@st.composite
def irrational_sums(draw: st.DrawFn) -> Case:
    number, base = draw(st.integers(1, 50)), draw(st.sampled_from(["e", r"\pi", r"\ln 2", r"\sqrt{2}"]))
    return rf"{number}-\frac{{1}}{{{base}}}", [
        rf"{number}+\frac{{1}}{{{base}}}",
        rf"{number + 1}-\frac{{1}}{{{base}}}",
        rf"\frac{{1}}{{{base}}}-{number}",
        str(number),
    ]


cases = st.one_of(
    integers(), fractions(), decimals(), radicals(), polynomials(), points(), intervals(), unions(), sets(), matrices(),
    measures(), complexes(), lines(), powers(), words(), percentages(), irrational_sums(),
)  # fmt: skip

# --- other dress ---


def spaced(answer: str) -> str:
    """Spaces around signs, but not in words or numbers."""
    return re.sub(r"(?<!\\)([-+=<>,()])(?![^{]*\})", r" \1 ", answer) if r"\text" not in answer else answer


def grouped(separator: str, answer: str) -> str:
    """Separators in integers; inside of brackets a bare comma would separate."""
    if separator == "," and re.search(r"[(\[{,]", answer):
        return answer

    def group(match: re.Match[str]) -> str:
        return re.sub(r"(?<=\d)(?=(?:\d{3})+$)", lambda _: separator, match[0])

    return re.sub(r"(?<![\d.])\d{4,}(?![\d.])", group, answer)


REWRITTEN = [
    lambda a: a,
    lambda a: a.replace(r"\frac", r"\dfrac"),
    lambda a: a.replace(r"\frac", r"\tfrac"),
    lambda a: a.replace("-", "−") if r"\text" not in a else a,
    lambda a: a.replace("(", r"\left(").replace(")", r"\right)") if a.count("(") == a.count(")") else a,
    lambda a: a.replace("[", r"\left[").replace("]", r"\right]") if a.count("[") == a.count("]") else a,
    lambda a: a.replace(r"\{", r"\left\{").replace(r"\}", r"\right\}"),
    lambda a: a.replace("pmatrix", "bmatrix"),
    lambda a: re.sub(r"\^\{(\d)\}", r"^\1", a),
    lambda a: re.sub(r"\\frac\{(\d)\}\{(\d)\}", r"\\frac\1\2", a),
    lambda a: a.replace(r"\text{", r"\mbox{"),
    lambda a: rf"\displaystyle {a}",
    lambda a: re.sub(r"(?<![\\{]),(?!\})", r",\\ ", a),
    spaced,
    lambda a: f"{a}.0" if re.fullmatch(r"-?\d+", a) else a,
]
GROUPED = [  # last: what rewrites commas would take these for separators
    lambda a: a,
    lambda a: grouped("{,}", a),
    lambda a: grouped(r"\,", a),
    lambda a: grouped(",", a),
]
WRAPPED = [
    lambda a: f"${a}$",
    lambda a: f"$${a}$$",
    lambda a: rf"\({a}\)",
    lambda a: rf"\boxed{{{a}}}",
    lambda a: rf"So the answer is $\boxed{{{a}}}$.",
    lambda a: rf"\boxed{{0}} was wrong. Now it is \boxed{{{a}}}, and so 17.",
    lambda a: f"Final Answer: The final answer is ${a}$. I hope it is correct.",
    lambda a: f"The answer is ${a}$.",
    lambda a: f"Some steps 1 + 1 = 2.\n#### {a}",
    lambda a: f"  {a} \n",
    lambda a: f"{a}.",
    lambda a: f"**{a}**",
]
rewritings, groupings, wrappers = map(st.sampled_from, (REWRITTEN, GROUPED, WRAPPED))


@settings(max_examples=250, deadline=None, derandomize=True)
@given(cases, rewritings, groupings, wrappers)
def test_an_answer_equals_itself_in_another_dress(case: Case, first: Dress, second: Dress, wrap: Dress) -> None:
    r"""A space, a \dfrac, a box or a separator that turns a right answer into a wrong one."""
    gold, _ = case
    for answer in (gold, first(gold), second(first(gold)), wrap(second(first(gold)))):
        assert check(answer, gold).correct, (answer, check(answer, gold))


@settings(max_examples=250, deadline=None, derandomize=True)
@given(cases, rewritings, wrappers, st.data())
def test_a_changed_answer_is_never_right(case: Case, rewrite: Dress, wrap: Dress, data: st.DataObject) -> None:
    """A tolerance, a lost sign or bracket, or an order that is overlooked turns a wrong answer into a right one."""
    gold, wrong = case
    answer = data.draw(st.sampled_from(wrong))
    for text in (answer, rewrite(answer), wrap(answer)):
        assert not check(text, gold).correct, (gold, text, check(text, gold))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.text(max_size=60), st.text(min_size=1, max_size=60))
def test_any_text_at_all_gives_a_verdict(prediction: str, gold: str) -> None:
    """An exception for an odd character ends an evaluation of hours."""
    assume(gold.strip() and "####" not in gold)
    assert check(prediction, gold).correct in (True, False)
    assert check(gold, gold).correct


SCRAPS = [
    *"0123456789+-*/^_=()[]{}|,.:;!%&$ xyzeiABC'\"<>~√½°",
    *(r"\frac", r"\sqrt", r"\pi", r"\text{", r"\left(", r"\right)", r"\{", r"\}", r"\pm", r"\cup", r"\infty", r"\in "),
    *(r"\boxed{", "\\\\", r"\begin{pmatrix}", r"\end{pmatrix}", r"\circ", r"\%", r"\mathbb{R}", r"\overline{"),
    *(r"\over", r"\sin", r"\log_", r"\binom", r"\le ", "and", "or", "cm", "answer is ", "####"),
]
fragments = st.lists(st.sampled_from(SCRAPS), max_size=25).map("".join)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(fragments, fragments)
def test_any_scraps_of_latex_give_a_verdict(prediction: str, gold: str) -> None:
    """The reader meets every wrong order of its own tokens."""
    assume(check_gold(gold))
    assert check(prediction, gold).correct in (True, False)
    assert check(gold, gold).correct
    assert check(rf"\boxed{{{gold}}}", gold).correct or not balanced(gold)


def check_gold(gold: str) -> bool:
    """Whether it is a gold answer at all."""
    return bool(gold.strip()) and "####" not in gold and "boxed" not in gold


def balanced(text: str) -> bool:
    """Whether it can stand in a box."""
    depth = 0
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth < 0:
            return False
    return depth == 0 and not text.endswith("\\") and "answer is" not in text

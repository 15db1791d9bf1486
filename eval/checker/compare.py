"""Whether two answers that were read say the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import gcd
from typing import Final

from dodona.eval.checker.dress import (
    coordinates,
    counted,
    in_numbers,
    matrix_of,
    minute_of_day,
    one_quantity,
    point,
    ratio_apart,
    row_of,
    same_line,
    solutions,
    spelling,
)
from dodona.eval.checker.equal import SAME, Equality, Judgement
from dodona.eval.checker.measures import digits_of, lettered, measured, spelt_like
from dodona.eval.checker.nodes import Node, inverse, name, negative, number, product, walk
from dodona.eval.checker.regions import same_region
from dodona.eval.checker.shape import (
    FLIPPED,
    NUMBER_SETS,
    SET_OPERATIONS,
    assignment,
    both_signs,
    is_name,
    is_quantity,
    is_region,
    items,
    region,
    rising,
    variable,
    without_name,
)
from dodona.eval.checker.values import Unevaluable, exact, is_value, symbols
from dodona.eval.checker.words import meaning

MOST_ITEMS = 60
_KINDS: Final = {"group": "a point or an interval", "matrix": "a matrix"}
_UNDECIDED: Final = Judgement(None, "", "more than arithmetic")


def different(reason: str) -> Judgement:
    """Not equal, seen by the form of the answers."""
    return Judgement(False, "structure", reason)


class Comparison:
    """Compares answers; one thread uses it at a time.

    Args:
        equality: how single values are compared.
    """

    def __init__(self, equality: Equality) -> None:
        self.equality = equality

    def compare(self, gold: Node, prediction: Node) -> Judgement:
        """Whether they are equal; not decided where that takes more than this grammar's arithmetic.

        Raises:
            TooLong: the clock ran out.
        """
        if gold == prediction:
            return SAME
        self.equality.clock.check()
        undecided: Judgement | None = None
        last = different("different answers")
        for one in self.approximated(gold):
            for other in self.approximated(prediction):
                last = self._compare(one, other)
                if last.equal:
                    return last
                undecided = undecided or (last if last.equal is None else None)
        return undecided or last

    def approximated(self, node: Node) -> list[Node]:
        r"""Both sides of ``\frac{1}{3} \approx 0.33``, if that is so; the value of ``x \approx 0.33``."""
        if node.op != "relation" or "approx" not in node.label.split():
            return [node]
        sides = [arg for arg in node.args if not is_name(arg)] or [node.args[-1]]
        first = sides[0]
        return [first, *(side for side in sides[1:] if self._is_near(first, side))]

    def _is_near(self, value: Node, rounded: Node) -> bool:
        places = (rounded.args[0] if rounded.op == "neg" else rounded).places or 0
        unit = number(Fraction(1, 10**places) if places >= 0 else Fraction(10**-places))
        distance = Node("abs", (Node("add", (value, negative(rounded))),))
        return self.equality.order(distance, unit) == -1

    def _compare(self, gold: Node, prediction: Node) -> Judgement:
        if gold.op == "text" or prediction.op == "text":
            return self._texts(gold, prediction)
        if "mod" in (gold.op, prediction.op):
            return self._residues(gold, prediction)
        if (gold.op == "list") != (prediction.op == "list"):
            gold, prediction = one_quantity(gold), one_quantity(prediction)
        gold, prediction = (solutions(ratio_apart(node)) for node in (gold, prediction))
        minutes = minute_of_day(gold), minute_of_day(prediction)
        if {gold.op, prediction.op} == {"unit", "relation"} and None not in minutes:
            same = minutes[0] == minutes[1]
            return Judgement(same, "exact", "the same time of day" if same else "different times of day")
        regions = self._regions(gold, prediction)
        if regions is not None:
            return regions
        if "relation" not in (gold.op, prediction.op) or gold.op != prediction.op:
            gold, prediction = point(gold), point(prediction)
        if any(node.op in ("list", "set") or len(both_signs(node)) > 1 for node in (gold, prediction)):
            return self._lists(gold, prediction)
        if gold.op == "relation" or prediction.op == "relation":
            return self._relations(gold, prediction)
        gold, prediction = (
            counted(node) if other.op != "group" else without_name(node)
            for node, other in ((gold, prediction), (prediction, gold))
        )
        if gold.op in SET_OPERATIONS or prediction.op in SET_OPERATIONS or "builder" in (gold.op, prediction.op):
            return Judgement(None, "", "sets")
        if NUMBER_SETS & {gold.label, prediction.label}:
            return different("different sets")
        if gold.op in ("group", "matrix", "cases") or prediction.op in ("group", "matrix", "cases"):
            return self._grouped(gold, prediction)
        return self._values(gold, prediction)

    # --- lists, sets, points, matrices ---

    def _lists(self, gold: Node, prediction: Node) -> Judgement:
        """Items in any order; a point's coordinates without their brackets in the point's order."""
        gold, prediction = (self._one_of_list(node) for node in (gold, prediction))
        if "group" in (gold.op, prediction.op):
            return self._point_and_list(gold, prediction)
        if name("emptyset") in (gold, prediction):
            return different("the empty set against one that holds something")
        left, right = items(gold), items(prediction)
        named = [[assignment(item) for item in side] for side in (left, right)]
        other_relations = [item.op == "relation" and not pair for item, pair in zip(right, named[1], strict=True)]
        if any(named[0]) and any(other_relations):
            return self._unordered(left, right)  # 2x = 1, which gives no value to x
        one_unknown = _is_one_unknown(*named)
        several = None not in named[0] and len({pair[0] for pair in named[0] if pair}) > 1
        if several and any(named[1]) and not one_unknown:
            return self._unordered(left, right)  # x = 1, y = 2
        pairs = [pair for pair in named[0] if pair]
        if len(pairs) == len(left) and len({pair[0].label.partition("_")[0] for pair in pairs}) > 1:
            return self._without_names(pairs, right, prediction)
        if None not in (*named[0], *named[1]) and not one_unknown:
            left, right = ([Node("group", pair, "=") for pair in side if pair is not None] for side in named)
        elif all(map(any, named)) and not one_unknown:
            return different("values of different names")
        else:
            left, right = [without_name(item) for item in left], [without_name(item) for item in right]
        if "set" in (gold.op, prediction.op):
            left, right = self._distinct(left), self._distinct(right)
        return self._unordered(left, right)

    def _without_names(self, pairs: Sequence[tuple[Node, Node]], given: Sequence[Node], prediction: Node) -> Judgement:
        """x = 1, y = 2, of which only the values were given: in this order, or in that of the names."""
        if prediction.op == "set":
            return different("values of several names against a set")
        in_order = self._ordered([value for _, value in pairs], given)
        by_name = sorted(pairs, key=lambda pair: pair[0].label)
        return in_order if in_order.equal else self._ordered([value for _, value in by_name], given)

    def _one_of_list(self, node: Node) -> Node:
        r"""The list of x \in {1, 2}; without a domain as in ``k\pi, k \in \mathbb{Z}``; one of "1/2 or 0.5"."""
        if node.op == "relation" and node.label == "in":
            return node.args[1]
        if node.op != "list":
            return node
        kept = [item for item in node.args if not _is_domain(item)]
        return replace(node, args=tuple(self._distinct(kept) if node.label == "or" else kept))

    def _point_and_list(self, gold: Node, prediction: Node) -> Judgement:
        group, other = (gold, prediction) if gold.op == "group" else (prediction, gold)
        named = [pair for item in items(other) if (pair := assignment(item)) is not None and pair[0].op == "name"]
        bare = [without_name(item) for item in items(other)]
        if len(named) == len(bare):  # y = 2, x = 1
            bare = [value for _, value in sorted(named, key=lambda pair: pair[0].label)]
        brackets = ("()", "[]") if len(group.args) > 2 else ("()",)
        if other.op == "set" or len(bare) != len(group.args) or group.label not in brackets:
            return different("a point or an interval against a list or a set")
        return self._ordered(group.args, bare) if gold is group else self._ordered(bare, group.args)

    def _distinct(self, nodes: Sequence[Node]) -> list[Node]:
        kept: list[Node] = []
        for node in nodes[: MOST_ITEMS + 1]:
            if not any(self.compare(other, node).equal for other in kept):
                kept.append(node)
        return kept

    def _unordered(self, gold: Sequence[Node], prediction: Sequence[Node]) -> Judgement:
        if len(gold) != len(prediction) or len(gold) > MOST_ITEMS:
            return different(f"{len(gold)} parts against {len(prediction)}")
        left, best = list(prediction), SAME
        for item in gold:
            doubt = False
            for index, other in enumerate(left):
                if (item.op == "set") != (other.op == "set"):  # 1 and {1} are two things in a set
                    continue
                judgement = self.compare(item, other)
                if judgement.equal:
                    del left[index]
                    best = judgement if best is SAME else best
                    break
                doubt = doubt or judgement.equal is None
            else:
                return Judgement(None if doubt else False, "structure", "different parts")
        return best

    def _grouped(self, gold: Node, prediction: Node) -> Judgement:
        if gold.op == prediction.op == "group":
            return self._groups(gold, prediction)
        if {gold.op, prediction.op} == {"group", "matrix"}:
            gold, prediction = matrix_of(gold), matrix_of(prediction)
        if gold.op == prediction.op == "matrix":
            return self._matrices(gold, prediction)
        if gold.op == prediction.op == "cases":
            return self._unordered([row_of(row) for row in gold.args], [row_of(row) for row in prediction.args])
        left, right = coordinates(gold), coordinates(prediction)
        if left is not None and right is not None:
            return self._ordered(left, right)
        if any(not is_value(node) and node.op not in _KINDS for node in (gold, prediction)):
            return Judgement(None, "", "matrices")
        both = [_KINDS.get(node.op, "one value") for node in (gold, prediction)]
        return different(f"{both[0]} against {both[1]}")

    def _groups(self, gold: Node, prediction: Node) -> Judgement:
        if len(gold.args) != len(prediction.args):
            return different(f"{len(gold.args)} coordinates against {len(prediction.args)}")
        if gold.label != prediction.label:
            vectors = {gold.label, prediction.label} <= ({"()", "<>"} if len(gold.args) == 2 else {"()", "<>", "[]"})
            if not vectors:
                return different(f"brackets {gold.label} against {prediction.label}")
        if gold.label == "=" and not self._same_name(gold.args[0], prediction.args[0]):
            return different("values of different names")
        skipped = 1 if gold.label == "=" else 0
        return self._ordered(gold.args[skipped:], prediction.args[skipped:])

    def _same_name(self, gold: Node, prediction: Node) -> bool:
        """Also y and f(x)."""
        if gold.op == prediction.op == "text":
            return meaning(gold.label) == meaning(prediction.label)
        kinds = {gold.op, prediction.op}
        if kinds == {"name", "apply"} and name("y") in (gold, prediction):
            return True
        if gold == prediction or same_line(gold, prediction):
            return True
        return "mul" in kinds and self.equality.same(gold, prediction).equal is True

    def _matrices(self, gold: Node, prediction: Node) -> Judgement:
        if [len(row.args) for row in gold.args] != [len(row.args) for row in prediction.args]:
            return different("matrices of different sizes")
        left, right = ([cell for row in matrix.args for cell in row.args] for matrix in (gold, prediction))
        return self._ordered(left, right)

    # --- inequalities and equations ---

    def _regions(self, gold: Node, prediction: Node) -> Judgement | None:
        """Compares an inequality or a union with what else says which numbers are allowed; None for other answers."""
        about = [node for node in (gold, prediction) if is_region(node)]
        if not about:
            return None
        left, right = region(gold), region(prediction)
        if left is None or right is None:
            return None
        if all(node.op in ("relation", "list") for node in (gold, prediction)):
            names = {variable(node) for node in (gold, prediction)}
            if len(names) > 1 and None not in names:
                return different("inequalities in different variables")
        same = same_region(left, right, self.equality)
        if same is not None:
            return Judgement(same, "exact", "the same numbers" if same else "different numbers")
        if left.op == right.op == "group":
            return self._groups(left, right)
        if left.op == right.op and left.op in SET_OPERATIONS:
            match = self._ordered if left.op == "difference" else self._unordered
            parts = match(left.args, right.args)
            return parts if parts.equal else Judgement(None, "", "sets")
        return Judgement(None, "", "sets") if {left.op, right.op} & SET_OPERATIONS else None

    def _ordered(self, gold: Sequence[Node], prediction: Sequence[Node]) -> Judgement:
        if len(gold) != len(prediction):
            return different(f"{len(gold)} parts against {len(prediction)}")
        return _all([self.compare(*pair) for pair in zip(gold, prediction, strict=True)])

    def _relations(self, gold: Node, prediction: Node) -> Judgement:
        named = assignment(gold), assignment(prediction)
        if named[0] and named[1] and self._same_name(named[0][0], named[1][0]):
            return self.compare(named[0][1], named[1][1])
        ratios = [pair[1] if pair and pair[1].op == "relation" else None for pair in named]  # A:B = 2:3
        if any(ratios):
            if all(named):
                return different("ratios of different things")
            return self.compare(ratios[0] or gold, ratios[1] or prediction)
        if gold.op == prediction.op == "relation":
            return self._ratios(gold, prediction) if gold.label[0] == ":" else self._equations(gold, prediction)
        relation, other = (gold, prediction) if gold.op == "relation" else (prediction, gold)
        value = self._meant(relation, wanted=relation is gold)
        if value is None:
            return different("a relation against a value") if relation.label == "=" or is_value(other) else _UNDECIDED
        return self.compare(*((value, other) if relation is gold else (other, value)))

    def _meant(self, relation: Node, *, wanted: bool) -> Node | None:
        """The value that a relation gives to something; of the gold answer only where that is a name."""
        signs = set(relation.label.split())
        if signs == {":"} and len(relation.args) == 2:
            hours, minutes = relation.args
            return hours if minutes == number(0) else product(hours, inverse(minutes))
        if signs == {"in"}:
            return relation.args[1]
        if signs != {"="}:
            return None
        first, *others = relation.args
        asked_for = is_name(first) or (not wanted and is_quantity(first) and not symbols(others[-1]))  # x + y = 7
        if asked_for or all(self.compare(first, other).equal for other in others):  # 10/2 = 5
            return others[-1]
        return None

    def _ratios(self, gold: Node, prediction: Node) -> Judgement:
        """2:3 is 4:6; but 7:15 is not 14:30, as both may be times of day."""
        if gold.label != prediction.label:
            return different("different ratios")
        same = self._ordered(gold.args, prediction.args)
        parts = [_exact(part) for part in (*gold.args, *prediction.args)]
        if same.equal or any(part is None or part.denominator != 1 for part in parts):
            return same
        wanted = [int(part) for part in parts[: len(gold.args)] if part is not None]
        given = [int(part) for part in parts[len(gold.args) :] if part is not None]
        times = len(wanted) == 2 and all(9 < second < 60 for second in (wanted[1], given[1]))
        if times or gcd(*wanted) != 1 or not all(given):
            return different("different ratios")
        equal = all(given[0] * part == wanted[0] * other for part, other in zip(wanted, given, strict=True))
        return Judgement(equal, "exact", "the same ratio" if equal else "different ratios")

    def _equations(self, gold: Node, prediction: Node) -> Judgement:
        if len(gold.args) == len(prediction.args) == 2:
            wanted, given = gold.label, prediction.label
            left, right = (gold.args[0], gold.args[1]), (prediction.args[0], prediction.args[1])
            if wanted in ("=", "!=") and wanted == given and self.equality.same_equation(left, right):
                return Judgement(True, "numeric", "the same equation up to a factor")
            sign = 1 if wanted == given else -1 if FLIPPED.get(wanted) == given else 0
            if wanted in FLIPPED and sign and self.equality.same_equation(left, right) == sign:
                return Judgement(True, "numeric", "the same inequality up to a factor")
            if wanted == given == "=" and symbols(gold) != symbols(prediction):
                return different("equations in different variables")
        gold, prediction = rising(gold), rising(prediction)
        if gold.label == prediction.label and self._ordered(gold.args, prediction.args).equal:
            return Judgement(True, "structure", "equal parts")
        return Judgement(None, "", "relations")

    def _residues(self, gold: Node, prediction: Node) -> Judgement:
        """3 (mod 7), which is also 10 (mod 7); the modulus may be left out."""
        if gold.op != "mod" or prediction.op != "mod":
            value, other = (node.args[0] if node.op == "mod" else node for node in (gold, prediction))
            return self.compare(value, other)
        if not self.compare(gold.args[1], prediction.args[1]).equal:
            return different("different moduli")
        left, right, modulus = (_exact(node) for node in (gold.args[0], prediction.args[0], gold.args[1]))
        if left is None or right is None or not modulus:
            return self.compare(gold.args[0], prediction.args[0])
        same = (left - right) % modulus == 0
        return Judgement(same, "exact", "the same residue" if same else "different residues")

    # --- words and values ---

    def _texts(self, gold: Node, prediction: Node) -> Judgement:
        numbers = in_numbers(gold), in_numbers(prediction)
        if numbers != (gold, prediction) and "text" not in (numbers[0].op, numbers[1].op):
            return self.compare(*numbers)
        for text, other in ((gold, prediction), (prediction, gold)):
            has_power = other.op == "mul" and any(arg.op == "pow" for arg in other.args)
            if has_power and re.fullmatch("[a-z]{2,4}", text.label):
                return self.equality.same(product(*map(name, text.label)), other)  # abb
        left, right = spelling(gold), spelling(prediction)
        if left is not None and left == right:
            return Judgement(True, "text", "the same words")
        for node, other in ((gold, prediction), (prediction, gold)):
            if node.op == "text" and meaning(node.label) == "all real numbers" and other.op != "text":
                return self.compare(name("R_set"), other)
        return different("different words")

    def _values(self, gold: Node, prediction: Node) -> Judgement:
        """Values with or without units, signs of degrees and of per cent."""
        gold, prediction = spelt_like(gold, prediction), spelt_like(prediction, gold)
        (left, unit), (right, other_unit) = measured(gold), measured(prediction)
        if "based" in (left.op, right.op):
            return different("a unit") if unit.says or other_unit.says else self._numerals(left, right)
        if bool(unit.dimensions) != bool(other_unit.dimensions):  # a single letter is a unit where the other has one
            (left, unit), (right, other_unit) = lettered(left, unit), lettered(right, other_unit)
        elif not unit.dimensions and not symbols(left):
            right, other_unit = lettered(right, other_unit)
        percent = left.op == "percent", right.op == "percent"
        mixed = percent[0] != percent[1] and (unit if percent[1] else other_unit).says  # 20 % of 20 m
        if unit.contradicts(other_unit) or mixed:
            return different("different units")
        if unit.dimensions and other_unit.dimensions and unit.factor != other_unit.factor:
            left, right = product(left, number(unit.factor)), product(right, number(other_unit.factor))
        if "relation" in (left.op, right.op):  # times of day
            return self._relations(left, right)
        if percent[0] != percent[1]:
            return self._per_cent(left, right)
        if same_line(left, right):
            return SAME
        judgement = self._unknown_functions(left, right) or self.equality.same(left, right)
        angles = [u.dimensions == (("angle", 1),) for u in (unit, other_unit)]
        if judgement.equal is False and angles[0] != angles[1]:
            left, right = (Node("degree", (v,)) if a else v for v, a in zip((left, right), angles, strict=True))
            return self.equality.same(left, right)
        return judgement

    def _unknown_functions(self, left: Node, right: Node) -> Judgement | None:
        if left.op == right.op == "apply" and left.label == right.label:
            return self._ordered(left.args, right.args)
        functions = [{part.label for part in walk(node) if part.op == "apply"} for node in (left, right)]
        return different("different functions") if all(functions) and functions[0] != functions[1] else None

    def _numerals(self, left: Node, right: Node) -> Judgement:
        """Numbers with their base written under them; the base may be left out of one."""
        if left.op == right.op == "based" and not self.compare(left.args[0], right.args[0]).equal:
            return different("different bases")
        digits = digits_of(left)
        same = digits is not None and digits == digits_of(right)
        return Judgement(same, "exact", "the same digits" if same else "different digits")

    def _per_cent(self, left: Node, right: Node) -> Judgement:
        """50 % is 0.5; it is 50 too, as the sign may be left out like a unit, but not where the number is below 1."""
        judgement = self.equality.same(left, right)
        if judgement.equal is not False:
            return judgement
        numbers = [node.args[0] if node.op == "percent" else node for node in (left, right)]
        size = _exact(numbers[0])
        return self.equality.same(*numbers) if size is None or abs(size) >= 1 else judgement


def _is_domain(node: Node) -> bool:
    r"""Whether it is ``k \in \mathbb{Z}``; an "in" may also be inches."""
    return node.op == "relation" and node.label == "in" and node.args[1].label in NUMBER_SETS


def _exact(node: Node) -> Fraction | None:
    """The value, where it is a rational number that is found at once."""
    try:
        return exact(node) if is_value(node) else None
    except Unevaluable:
        return None


def _all(judgements: Sequence[Judgement]) -> Judgement:
    """Equal where all are; decided where one is different."""
    for wanted in (False, None):
        for judgement in judgements:
            if judgement.equal is wanted:
                return judgement
    return next((judgement for judgement in judgements if judgement is not SAME), SAME)


def _is_one_unknown(gold: Sequence[tuple[Node, Node] | None], prediction: Sequence[tuple[Node, Node] | None]) -> bool:
    """Whether all are values of one unknown: of x, or of its solutions x_1 and x_2 where the other answer has x."""
    names = [{pair[0].label for pair in side if pair} for side in (gold, prediction)]
    unknown = {label.partition("_")[0] for side in names for label in side}
    return len(unknown) == 1 and unknown in names

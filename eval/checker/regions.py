"""Whether two sets of real numbers are the same: unions, intersections and differences of intervals and points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dodona.eval.checker.equal import Equality
from dodona.eval.checker.nodes import Node, name, negative
from dodona.eval.checker.shape import items, regions_within

MOST_ENDS = 40
_INFINITE: Final = (name("oo"), negative(name("oo")))


class NotASet(Exception):
    """It is no set of real numbers whose ends are known."""


def same_region(gold: Node, prediction: Node, equality: Equality) -> bool | None:
    """Whether two sets, in the form that ``shape.region`` gives, are the same; None where an end is no number.

    All ends of both, in order, cut the line into points and gaps; a set is the list of those that it holds.
    """
    try:
        line = _Line((gold, prediction), equality)
        return line.held(gold) == line.held(prediction)
    except NotASet:
        return None


class _Line:
    def __init__(self, regions: Sequence[Node], equality: Equality) -> None:
        self.equality = equality
        self.ends: list[Node] = []  # smallest first; position 2i + 1 is the gap below end i, and 2i + 2 the end itself
        for region in regions:
            for part in regions_within(region):
                for end in items(part) if part.op == "set" else part.args:
                    self.add(end)

    def add(self, end: Node) -> None:
        if end in _INFINITE:
            return
        for index, other in enumerate(self.ends):
            order = self.equality.order(end, other)
            if order is None:
                raise NotASet
            if order <= 0:
                if order < 0:
                    self.ends.insert(index, end)
                break
        else:
            if self.equality.order(end, end) is None or len(self.ends) == MOST_ENDS:
                raise NotASet
            self.ends.append(end)

    def position(self, end: Node) -> int:
        if end in _INFINITE:
            return 0 if end.op == "neg" else 2 * len(self.ends) + 2
        return next(2 * index + 2 for index, other in enumerate(self.ends) if self.equality.order(end, other) == 0)

    @property
    def places(self) -> range:
        """Every gap and every end; at both sides infinity, which only a wrong bracket holds, as in (3, oo]."""
        return range(2 * len(self.ends) + 3)

    def held(self, region: Node) -> list[bool]:
        """For each gap and each end in turn whether the set holds it."""
        places = self.places
        if region == name("R_set"):
            return [places[0] < place < places[-1] for place in places]
        if region == name("emptyset"):
            return [False for _ in places]
        if region.op == "set":
            points = {self.position(item) for item in items(region)}
            return [place in points for place in places]
        if region.op == "group":
            return self.interval(region)
        parts = [self.held(arg) for arg in region.args]
        if region.op == "difference":
            return [all((parts[0][place], *(not part[place] for part in parts[1:]))) for place in places]
        common = [all(part[place] for part in parts) for place in places]
        if region.op == "union" or (region.op == "both" and not any(common)):
            return [any(part[place] for part in parts) for place in places]
        return common

    def interval(self, group: Node) -> list[bool]:
        if len(group.args) != 2 or group.label not in ("()", "(]", "[)", "[]"):
            raise NotASet
        low, high = map(self.position, group.args)
        if low > high or (low == high and group.label != "[]"):
            raise NotASet
        return [
            low < place < high or (place == low and group.label[0] == "[") or (place == high and group.label[1] == "]")
            for place in self.places
        ]

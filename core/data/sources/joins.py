"""Joins by ids: what stands under an id, where 1, 1.0 and "1" are one; what fits nothing or more than one thing."""

from collections.abc import Sequence
from itertools import islice
from typing import Any, Generic, TypeVar

from diptych.core.data.records import BadExample

Thing = TypeVar("Thing")

_MOST_DIGITS = 18


def plain_id(value: Any) -> int | str | None:
    """An id as tools write it: whole numbers as int also where they were written as 1.0 or "1", other texts as they
    are, None for what is no id.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        digits = value.removeprefix("-")
        whole = digits.isascii() and digits.isdecimal() and len(digits) <= _MOST_DIGITS
        return int(value) if whole and str(int(value)) == value else value
    return value if isinstance(value, int) and not isinstance(value, bool) else None


class Join(Generic[Thing]):
    """Things under the ids of one file.

    Args:
        what: the things, for people: "images".
        reason: of the `BadExample` where an id fits nothing or several things.
        where: the file.

    Attributes:
        listed: whether the file has any, be it under something that is no id.
    """

    def __init__(self, what: str, reason: str, where: object):
        self._what, self._reason, self._where = what, reason, where
        self._things: dict[int | str, Thing] = {}
        self._several: set[int | str] = set()
        self._holders: Sequence[Join[Thing]] = (self,)
        self._unknown: list[Any] = []
        self._asked = self._found = 0
        self.listed = False

    def put(self, given: Any, thing: Thing) -> None:
        """Enter a thing under an id; an id of several things is of no use for any of them."""
        self.listed = True
        name = plain_id(given)
        if name is not None and self._things.setdefault(name, thing) != thing:
            self._several.add(name)

    def borrow(self, others: "Sequence[Join[Thing]]") -> None:
        """Find from now on what others have: each thing under an id that one of them alone has."""
        self._holders = others

    def find(self, given: Any) -> Thing:
        """The thing under an id; raises `BadExample` for one that fits nothing, or several things."""
        name = plain_id(given)
        self._asked += 1
        holders = [join for join in self._holders if name in join._things]
        if name is None or not holders:
            self._unknown.append(given)
            raise BadExample(self._reason, f"none of the {self._what} has the id {given!r:.40}")
        thing, *more = (join._things[name] for join in holders)
        if any(name in join._several for join in holders) or any(one != thing for one in more):
            raise BadExample(self._reason, f"{given!r:.40} is the id of several {self._what}")
        self._found += 1
        return thing

    def check(self) -> None:
        """Raises ValueError where none of the ids that were asked for fits anything."""
        if self._unknown and not self._found:
            there = islice((name for join in self._holders for name in join._things), 3)
            asked, known = (", ".join(f"{name!r:.40}" for name in some) for some in (self._unknown[:3], there))
            raise ValueError(
                f"none of the {self._asked:,} times that {self._where} speaks of {self._what} by id is there one: it "
                f"asks for {asked}, ..., and there are {known or 'none'}. Are the ids of one data set?"
            )

"""Joins by ids: what stands under an id, where 1, 1.0 and "1" are one; what fits nothing or more than one thing."""

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
    """

    def __init__(self, what: str, reason: str, where: object):
        self._what, self._reason, self._where = what, reason, where
        self._things: dict[int | str, Thing] = {}
        self._several: set[int | str] = set()
        self._unknown: list[Any] = []
        self._asked = self._found = 0

    def __len__(self) -> int:
        return len(self._things)

    def put(self, given: Any, thing: Thing) -> None:
        """Enter a thing under an id; an id of several things is of no use for any of them."""
        name = plain_id(given)
        if name is not None and self._things.setdefault(name, thing) != thing:
            self._several.add(name)

    def find(self, given: Any) -> Thing:
        """The thing under an id; raises `BadExample` for one that fits nothing, or several things."""
        name = plain_id(given)
        self._asked += 1
        if name in self._several:
            raise BadExample(self._reason, f"{given!r:.40} is the id of several {self._what}")
        if name is None or name not in self._things:
            self._unknown.append(given)
            raise BadExample(self._reason, f"none of the {self._what} has the id {given!r:.40}")
        self._found += 1
        return self._things[name]

    def check(self) -> None:
        """Raises ValueError where none of the ids that were asked for fits anything."""
        if self._unknown and not self._found:
            asked, there = (", ".join(f"{name!r:.40}" for name in some) for some in (self._unknown[:3], [*self][:3]))
            raise ValueError(
                f"none of the {self._asked:,} times that {self._where} speaks of {self._what} by id is there one: it "
                f"asks for {asked}, ..., and there are {there or 'none'}. Are the ids of one data set?"
            )

    def __iter__(self):
        return iter(self._things)

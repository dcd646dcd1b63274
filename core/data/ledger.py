"""The ledger of a data set: what of it is not used, each thing once, by its name and a reason; and the one way to visit
records, which keeps it.

Three kinds are told apart. A record is skipped where it, or its picture, cannot be used. A part, such as one box of
many, is left out of a record that is used. A file that is not data by its name is passed over, by a rule.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

from diptych.core.data.records import BadExample, Record, Source
from diptych.core.files.errors import Failure

Answer = TypeVar("Answer")

MAX_SKIPPED = 0.05
"""The share of a data set's records that may be bad where a run says nothing else."""
MOST_NAMES = 10_000  # of parts and passed-over files, for each reason; their number is always exact
_NAMES_SHOWN, _REASONS_SHOWN = 3, 10


class TooManySkipped(Failure):
    """More records are bad than a run should put up with; `reasons` counts them by reason, `ledger` names them where
    there is one.
    """

    def __init__(self, message: str, reasons: Mapping[str, int]):
        super().__init__(message, dict(reasons))
        self.reasons = dict(reasons)
        self.ledger: Ledger | None = None

    def __str__(self) -> str:
        return self.args[0]


class Skipped(NamedTuple):
    """A record that could not be used: what its source calls it, and why."""

    name: str
    reason: str
    detail: str = ""


@dataclass
class Named:
    """How many things share a reason, and what they are called: all of them up to `MOST_NAMES`."""

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.names) < MOST_NAMES:
            self.names.append(name)


class Ledger:
    """What of a data set is not used.

    Views of one source (its held-out part, a mixture) share its ledger, so a record counts once whoever met it, and
    however often. A ledger is pickled empty: what worker processes meet, they hand to the process that keeps it.

    Attributes:
        name: of the data, for people; "" where nobody gave it one.   size: records, bad ones included.
        max_skipped: share of the records that may be bad, in [0, 1]; one bad record alone never is too many, unless
            this is 0.
        skipped: records by name.   left_out: parts of records by reason.   passed_over: files by the rule that says so.
        heard: is called with each record that is skipped.
    """

    def __init__(self, name: str, size: int = 0, max_skipped: float = 1.0):
        self.name, self.size, self.max_skipped = name, size, max_skipped
        self.skipped: dict[str, Skipped] = {}
        self.left_out: dict[str, Named] = {}
        self.passed_over: dict[str, Named] = {}
        self.heard: Callable[[Ledger, Skipped], None] | None = None

    def __reduce__(self) -> tuple:
        return Ledger, (self.name, self.size, self.max_skipped)

    def __bool__(self) -> bool:
        return bool(self.skipped or self.left_out or self.passed_over)

    def skip(self, skipped: Skipped) -> None:
        """Count a record; one that is counted already stays as it is."""
        if skipped.name not in self.skipped:
            self.skipped[skipped.name] = skipped
            if self.heard is not None:
                self.heard(self, skipped)

    def leave_out(self, reason: str, name: str) -> None:
        """Count a part of a record."""
        self.left_out.setdefault(reason, Named()).add(name)

    def pass_over(self, rule: str, name: str) -> None:
        """Count what is not data by a rule."""
        self.passed_over.setdefault(rule, Named()).add(name)

    @property
    def skipped_by_reason(self) -> dict[str, Named]:
        """The skipped records, by reason."""
        found: dict[str, Named] = {}
        for one in self.skipped.values():
            found.setdefault(one.reason, Named()).add(one.name)
        return found

    def check(self) -> None:
        """Raises `TooManySkipped` where more records are bad than may be."""
        try:
            check_skipped(self.skipped.values(), of=self.size, max_skipped=self.max_skipped, name=self.name)
        except TooManySkipped as error:
            error.ledger = self
            raise

    def what_was_seen(self) -> str:
        """For an error about data in which nothing is found: " Passed over: ...", or nothing."""
        return f" Passed over: {with_names(self.passed_over)}." if self.passed_over else ""

    def lines(self) -> Iterator[dict[str, Any]]:
        """A JSON object for each thing: data, what (skipped, left out, passed over), reason, name, detail."""
        for one in self.skipped.values():
            yield self.line(one)
        for what, named in (("left out", self.left_out), ("passed over", self.passed_over)):
            for reason, those in named.items():
                yield from (self._line(what, reason, name=name) for name in those.names)
                if those.count > len(those.names):
                    yield self._line(what, reason, more=those.count - len(those.names))

    def line(self, skipped: Skipped) -> dict[str, Any]:
        """That of one skipped record."""
        return self._line("skipped", skipped.reason, name=skipped.name, detail=skipped.detail)

    def restore(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Take up the records that an earlier process skipped; the rest is found anew by whoever opens the data."""
        for line in lines:
            if line.get("data") == self.name and line.get("what") == "skipped":
                self.skip(Skipped(line["name"], line["reason"], line.get("detail", "")))

    def _line(self, what: str, reason: str, **rest: Any) -> dict[str, Any]:
        return {"data": self.name, "what": what, "reason": reason, **rest}


class HasLedger(Protocol):
    """What a source offers that keeps a ledger itself, because it passes files over or joins them."""

    ledger: Ledger

    def record_name(self, index: int) -> str:
        """What the record at an index is called, readable or not: the path of a file, or a place in one."""
        ...


def ledger_of(source: Source | HasLedger) -> Ledger:
    """The ledger of a source; one that has none is given one."""
    ledger = getattr(source, "ledger", None)
    if ledger is None:
        ledger = Ledger("", len(source))  # type: ignore[arg-type]
        try:
            source.ledger = ledger  # type: ignore[union-attr]
        except AttributeError:  # a frozen one: it is counted for whoever asked, and forgotten
            return ledger
    return ledger


def name_of(source: Source | HasLedger, index: int) -> str | None:
    """What the source calls the record at an index, None where it says nothing."""
    named = getattr(source, "record_name", None)
    return named(index) if named is not None else None


def tried(name: str, make: Callable[..., Answer], *arguments: Any) -> Answer | Skipped:
    """make(*arguments), or why it cannot be made."""
    try:
        return make(*arguments)
    except BadExample as error:
        return Skipped(name, error.reason, error.detail)


def examined(source: Source, index: int, use: Callable[[Record], Answer]) -> Answer | Skipped:
    """use(record) of one record, or why it cannot be used; nothing is written down."""
    name = name_of(source, index)
    record = tried(name or f"record {index}", source.record, index)
    if isinstance(record, Skipped):
        return record
    return tried(name or record.key, use, record)


def visit(
    source: Source,
    use: Callable[[Record], Answer],
    indices: Iterable[int] | None = None,
    *,
    skipped: list[Skipped] | None = None,
) -> Iterator[tuple[int, Answer]]:
    """(index, use(record)) of each record that can be used; the others are counted in the source's ledger.

    Args:
        use: may read the record's pictures, too; raises `BadExample` for what is no use to it.
        indices: of the records to visit, by default all.
        skipped: those that this visit skips are added to it.

    Raises:
        TooManySkipped: at the end, where more are bad than the ledger allows.
    """
    ledger = ledger_of(source)
    for index in range(len(source)) if indices is None else indices:
        answer = examined(source, index, use)
        if isinstance(answer, Skipped):
            ledger.skip(answer)
            if skipped is not None:
                skipped.append(answer)
        else:
            yield index, answer
    ledger.check()


def check_skipped(skipped: Iterable[Skipped], *, of: int, max_skipped: float, name: str) -> None:
    """Raises `TooManySkipped` where more of `of` records are bad than the share `max_skipped` of them."""
    bad = list(skipped)
    if len(bad) <= (max(1.0, max_skipped * of) if max_skipped else 0.0):
        return
    reasons = Counter(one.reason for one in bad)
    raise TooManySkipped(
        f"{len(bad):,} of {of:,} records of {name or 'the data'} cannot be used ({len(bad) / of:.1%}, and "
        f"--max-skipped allows {max_skipped:.1%}): {reasons_with_names(bad)}. Repair or remove them, or raise "
        "--max-skipped.",
        reasons,
    )


def reasons_with_names(skipped: Iterable[Skipped]) -> str:
    """Skipped records by reason, some by name: "image_truncated 12 (a.jpg, b.jpg, c.jpg, ...), caption_empty 1 (d)"."""
    found: dict[str, Named] = {}
    for one in skipped:
        found.setdefault(one.reason, Named()).add(one.name)
    return with_names(found)


def with_names(found: Mapping[str, Named]) -> str:
    """Reasons with numbers and some names, the most frequent first."""
    shown = [f"{reason} {named.count:,} ({some_names(named)})" for reason, named in most_frequent(found)]
    return ", ".join(shown + (["..."] if len(found) > len(shown) else []))


def most_frequent(found: Mapping[str, Named]) -> list[tuple[str, Named]]:
    """The first few reasons, the most frequent first, as they can be printed."""
    ordered = sorted(found.items(), key=lambda item: -item[1].count)
    return [(printable(reason), named) for reason, named in ordered[:_REASONS_SHOWN]]


def some_names(named: Named, most: int = _NAMES_SHOWN) -> str:
    """The first names, as they can be printed: "a.jpg, b.jpg, c.jpg, ..."."""
    return ", ".join([*map(printable, named.names[:most]), *(["..."] if named.count > most else [])])


def printable(text: str) -> str:
    """The text with everything escaped that is no character to look at: names of files may hold any bytes."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def listed(reasons: Mapping[str, int]) -> str:
    """Reasons with their counts, the most frequent first: "image_truncated 12, caption_empty 3"."""
    return ", ".join(f"{reason} {number}" for reason, number in Counter(reasons).most_common())

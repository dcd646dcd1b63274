"""The ledger of a data set: each thing that is not used, once, with a reason; and the one walk through records.

Three kinds are told apart. A record is skipped where it, all its pictures or all its captions cannot be used. A part,
such as one box of many, is left out of a record that is used. A file that is not data by its name is passed over, by a
rule.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, NotRequired, Protocol, TypedDict, TypeVar, cast

from diptych.core.data.reasons import Named, with_names
from diptych.core.data.records import BadExample, LeftOut, Record, Source
from diptych.core.files.errors import Failure

Answer = TypeVar("Answer")

MAX_SKIPPED = 0.05
"""The share of a data set's records that may be bad where a run says nothing else."""


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
    """A record that could not be used: what its source calls it, why, and its place (`place_of`), which tells it from
    others of the same name; None for what is no record.
    """

    name: str
    reason: str
    detail: str = ""
    place: int | None = None


class RecordParts(NamedTuple):
    """What is left out of a record that is used: its place (`place_of`), what its source calls it, and the parts."""

    place: int
    name: str
    parts: tuple[LeftOut, ...]


class LedgerLine(TypedDict):
    """A JSON object about one thing that is not used, as `core.data.left_out_file` explains it."""

    data: str
    what: str  # "skipped", "left out" or "passed over"
    reason: str
    name: NotRequired[str]
    record: NotRequired[int | None]
    detail: NotRequired[str]
    more: NotRequired[int]


class Ledger:
    """What of a data set is not used.

    Views of one source (its held-out part, a mixture) share its ledger, so a record counts once whoever met it, and
    however often; so does a part of it. What is left out is part of a record that is used: a record that is skipped
    takes its parts along. A ledger is pickled empty: what worker processes meet, they hand to the process that keeps
    it.

    Attributes:
        name: of the data, for people; "" where nobody gave it one.   size: records, bad ones included.
        max_skipped: share of the records that may be bad, in [0, 1]; one bad record alone never is too many, unless
            this is 0.
        skipped: records by their place in the source.   left_out: parts of records by reason.
        passed_over: files by the rule that says so.
        heard: is called with the line (`lines`) of each record that is skipped, and of each part whose name is kept.
    """

    def __init__(self, name: str, size: int = 0, max_skipped: float = 1.0):
        self.name, self.size, self.max_skipped = name, size, max_skipped
        self.skipped: dict[int, Skipped] = {}
        self.left_out: dict[str, Named] = {}
        self.passed_over: dict[str, Named] = {}
        self.heard: Callable[[LedgerLine], None] | None = None
        self._parts: dict[int, tuple[LeftOut, ...]] = {}  # by their record's place, and without a detail
        self._shared: dict[tuple[LeftOut, ...], tuple[LeftOut, ...]] = {}  # the parts of millions of records are alike

    def __reduce__(self) -> tuple:
        return Ledger, (self.name, self.size, self.max_skipped)

    def __bool__(self) -> bool:
        return bool(self.skipped or self.left_out or self.passed_over)

    def skip(self, skipped: Skipped) -> None:
        """Count a record; one that is counted already stays as it is."""
        if skipped.place is None:
            raise ValueError(f"{skipped} has no place in the data, so it cannot be told from others.")
        if skipped.place in self.skipped:
            return
        self.skipped[skipped.place] = skipped
        for part in self._parts.pop(skipped.place, ()):
            self.left_out[part.reason].remove(f"{skipped.name}, {part.part}")
            if not self.left_out[part.reason].count:
                del self.left_out[part.reason]
        self._tell(self.line(skipped))

    def enter(self, skipped: Iterable[Skipped], left_out: Iterable[RecordParts]) -> None:
        """Count what another process, or a thread, has met."""
        for one in skipped:
            self.skip(one)
        for record in left_out:
            self.leave_out_parts(record)

    def leave_out(self, reason: str, name: str) -> None:
        """Count what joins no record, or not all of one, when the data are opened: an annotation about no image."""
        self.left_out.setdefault(reason, Named()).add(name)

    def leave_out_parts(self, record: RecordParts) -> None:
        """Count the parts of a record that are left out, each once."""
        place, name, parts = record
        for part in parts if place not in self.skipped else ():
            known = self._parts.get(place, ())
            if all(one.part != part.part for one in known):
                together = (*known, part._replace(detail=""))
                self._parts[place] = self._shared.setdefault(together, together)
                full_name = f"{name}, {part.part}"
                if self.left_out.setdefault(part.reason, Named()).add(full_name, place):
                    self._tell(self._line("left out", part.reason, name=full_name, record=place))

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

    def lines(self) -> Iterator[LedgerLine]:
        """A JSON object for each thing."""
        for one in self.skipped.values():
            yield self.line(one)
        for what, named in (("left out", self.left_out), ("passed over", self.passed_over)):
            for reason, those in named.items():
                for name in those.names:
                    place = {"record": those.places[name]} if name in those.places else {}
                    yield self._line(what, reason, name=name, **place)
                if those.count > len(those.names):
                    yield self._line(what, reason, more=those.count - len(those.names))

    def line(self, skipped: Skipped) -> LedgerLine:
        """That of one skipped record."""
        name, reason, detail, place = skipped
        return self._line("skipped", reason, name=name, record=place, detail=detail)

    def restore(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Take up the records and parts of records that an earlier process met; the rest is found anew by whoever opens
        the data.
        """
        for line in lines:
            name, reason, place = line.get("name"), line.get("reason"), line.get("record")
            if line.get("data") != self.name or not isinstance(name, str) or not isinstance(place, int):
                continue
            if not 0 <= place < self.size:
                continue  # of other data
            if line.get("what") == "skipped":
                self.skip(Skipped(name, str(reason), line.get("detail", ""), place))
            elif line.get("what") == "left out":
                record, _, part = name.rpartition(", ")
                self.leave_out_parts(RecordParts(place, record, (LeftOut(part, str(reason)),)))

    def _line(self, what: str, reason: str, **rest: Any) -> LedgerLine:
        return cast(LedgerLine, {"data": self.name, "what": what, "reason": reason, **rest})

    def _tell(self, line: LedgerLine) -> None:
        if self.heard is not None:
            self.heard(line)


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


def place_of(source: Source | HasLedger, index: int) -> int:
    """Where the record at an index lies in the source that keeps the ledger: through all views, by which one record may
    be met at several indices.
    """
    placed = getattr(source, "record_place", None)
    return placed(index) if placed is not None else index


def leave_out(source: Source | HasLedger, index: int, record: Record, parts: Iterable[LeftOut]) -> None:
    """Enter parts of the record at an index, which is used, into the source's ledger."""
    ledger_of(source).leave_out_parts(left_out_of(source, index, record, parts))


def left_out_of(source: Source | HasLedger, index: int, record: Record, parts: Iterable[LeftOut]) -> RecordParts:
    """Parts of the record at an index, as a ledger takes them."""
    return RecordParts(place_of(source, index), name_of(source, index) or record.key, tuple(parts))


def tried(name: str, make: Callable[..., Answer], *arguments: Any) -> Answer | Skipped:
    """make(*arguments), or why it cannot be made."""
    try:
        return make(*arguments)
    except BadExample as error:
        return Skipped(name, error.reason, error.detail)


def examined(source: Source, index: int, use: Callable[[Record], Answer]) -> Answer | Skipped:
    """use(record) of one record, or why it cannot be used, with its place; nothing is written down."""
    name = name_of(source, index)
    record = tried(name or f"record {index}", source.record, index)
    answer = record if isinstance(record, Skipped) else tried(name or record.key, use, record)
    return answer._replace(place=place_of(source, index)) if isinstance(answer, Skipped) else answer


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

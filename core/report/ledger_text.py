"""Table of what of the data was read, skipped, left out and passed over, as plain text."""

from collections.abc import Iterable, Mapping

from diptych.core.data.ledger import Ledger
from diptych.core.data.reasons import Named, most_frequent, some_names

_NAMES = 5


def tell_left_out(ledgers: Iterable[Ledger], all_names: object = None) -> None:
    """Prints it, where there is anything to say; arguments as for `ledger_text`."""
    text = ledger_text(ledgers, all_names)
    if text:
        print(f"\n{text}", flush=True)


def ledger_text(ledgers: Iterable[Ledger], all_names: object = None) -> str:
    """For people: records read of each data set, and what was not used by reason, the most frequent first.

    Args:
        ledgers: those of data without a name are shown where they hold something.
        all_names: the file that has all names; None where there is none.
    """
    shown = list({id(ledger): ledger for ledger in ledgers if ledger.name or ledger}.values())
    lines = []
    for ledger in shown:
        read = ledger.size - len(ledger.skipped)
        lines.append(f"{ledger.name or 'data'}: {read:,} of {ledger.size:,} records read")
        lines += _lines("skipped", ledger.skipped_by_reason)
        lines += _lines("left out", ledger.left_out)
        lines += _lines("passed over", ledger.passed_over)
    if all_names is not None and any(shown):
        lines.append(f"All of them by name: {all_names}")
    return "\n".join(lines)


def _lines(what: str, found: Mapping[str, Named]) -> list[str]:
    lines = [
        f"  {what:<11} {named.count:>7,}  {reason}: {some_names(named, _NAMES)}"
        for reason, named in most_frequent(found)
    ]
    rest = sum(named.count for named in found.values()) - sum(named.count for _, named in most_frequent(found))
    return [*lines, f"  {what:<11} {rest:>7,}  for {len(found) - len(lines)} other reasons"] if rest else lines

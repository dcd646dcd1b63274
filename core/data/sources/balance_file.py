"""Files that say how a data set is balanced: groups of people and labels by their words, and how even they shall be."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from diptych.core.data.records import Source
from diptych.core.data.sources.balancing import Balance, BalancedSource
from diptych.core.data.sources.word_attributes import WordAttributes, Words
from diptych.core.files.fields import Fields, read_fields

GROUPS, LABELS, TARGETS = "groups", "labels", "targets"


@dataclass(frozen=True)
class BalanceFile:
    """What a file says.

    attributes: of a record, from the words of its captions.   targets: the wanted share of each group among records
        that name one, None for all alike.   config: how even.
    """

    attributes: WordAttributes
    targets: tuple[float, ...] | None
    config: Balance

    @classmethod
    def read(cls, path: Path) -> "BalanceFile":
        """Reads JSON: `{"groups": {"women": ["woman", "she"], "men": {"en": ["man"], "de": ["Mann"]}}, "labels":
        {"nurse": ["nurse"]}}`, and where wanted "targets", `{"women": 0.5, "men": 0.5}`, and fields of `Balance`.

        Raises:
            FileNotFoundError, ValueError: no such file, a field of another kind or name, or numbers that do not fit.
        """
        given = read_fields(path)
        numbers = {field.name for field in fields(Balance)}
        unknown = sorted(given.values.keys() - {GROUPS, LABELS, TARGETS} - numbers)
        if unknown:
            raise ValueError(
                f"{path} has the fields {', '.join(unknown)}, expected {GROUPS}, {LABELS}, {TARGETS} and "
                f"{', '.join(sorted(numbers))}."
            )
        groups = given.require(GROUPS, dict)
        attributes = WordAttributes(_words(given, GROUPS), _words(given, LABELS))
        targets = given.object(TARGETS)
        if targets.values and targets.values.keys() != groups.keys():
            raise ValueError(f"{path}: targets name {', '.join(targets.values)}, expected {', '.join(groups)}.")
        shares = tuple(targets.require(name, float) for name in groups) if targets.values else None
        settings: dict[str, Any] = {name: given.require(name, float) for name in numbers if name in given}
        if "steady_examples" in settings:
            settings["steady_examples"] = int(settings["steady_examples"])
        return cls(attributes, shares, Balance(**settings))

    def balanced(self, source: Source, seed: int) -> BalancedSource:
        """The records of a source that balancing keeps. Raises ValueError as `BalancedSource`."""
        return BalancedSource(source, self.attributes, targets=self.targets, config=self.config, seed=seed)

    def told(self, source: BalancedSource) -> str:
        """What balancing did, a line for people."""
        shares = [
            f"{group} {before:.1%} -> {after:.1%}"
            for group, before, after in zip(
                self.attributes.groups,
                source.balancer.targets + source.before.representation,
                source.balancer.targets + source.after.representation,
                strict=True,
            )
        ]
        told = f"Balanced: {len(source):,} of {len(source.source):,} records are kept; {', '.join(shares)}"
        if source.before.association.size:
            before, after = (abs(found.association).max() for found in (source.before, source.after))
            told += f"; a label goes with a group by {before:.2%} too often at most, {after:.2%} then"
        return f"{told}."


def _words(given: Fields, name: str) -> Mapping[str, Words]:
    found = given.object(name).values
    for group, words in found.items():
        lists = list(words.values()) if isinstance(words, dict) else [words]
        if not all(isinstance(some, list) and all(isinstance(word, str) for word in some) for some in lists):
            raise ValueError(f"{given.where}: {name} has {group!r} as {words!r:.100}, expected a list of words.")
    return found

"""The choice of weights by their path, such as "image/encoder/block_00/mlp/in_kernel", by regular expressions."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence


def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern, ready to match; raises ValueError for one that is no regular expression."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"The pattern {pattern!r} is no regular expression: {error}. Patterns match a whole path, as "
            "image/encoder/.*/mlp/in_kernel does."
        ) from error


def matching(patterns: Sequence[str], paths: Iterable[str], *, of: str = "weight") -> list[bool]:
    """For each path, whether any of the patterns matches it whole; `of` says what has the paths.

    Raises:
        ValueError: for a pattern that is no regular expression, or matches no path; it is probably misspelt.
    """
    paths = list(paths)
    expressions = [compiled(pattern) for pattern in patterns]
    for pattern in expressions:
        if not any(pattern.fullmatch(path) for path in paths):
            near = difflib.get_close_matches(pattern.pattern, paths, n=3, cutoff=0.0)
            raise ValueError(
                f"The pattern {pattern.pattern!r} matches no {of}. Patterns are regular expressions for a whole path; "
                f"paths look like {', '.join(near)}."
            )
    return [any(pattern.fullmatch(path) for pattern in expressions) for path in paths]


def multipliers(rules: Mapping[str, float], paths: Iterable[str], *, default: float = 1.0) -> list[float]:
    """For each path, the value of the first rule that matches it, else `default`."""
    paths = list(paths)
    matching(list(rules), paths, of="weight that is trained")
    expressions = [(compiled(rule), value) for rule, value in rules.items()]
    return [next((value for rule, value in expressions if rule.fullmatch(path)), default) for path in paths]


def freeze(model, patterns: Sequence[str]) -> list[str]:
    """Makes the matching weights of a Keras model untrainable; returns the paths of those that were trainable.

    Do this before an optimizer is built or the model is compiled.
    """
    if not patterns:
        return []
    frozen = [
        v for v, hit in zip(model.weights, matching(patterns, [v.path for v in model.weights]), strict=True) if hit
    ]
    held = [variable.path for variable in frozen if variable.trainable]
    for variable in frozen:
        variable.trainable = False
    if not model.trainable_variables:
        more = f" and {len(patterns) - 3:,} more" if len(patterns) > 3 else ""
        raise ValueError(
            f"The patterns {', '.join(patterns[:3])}{more} freeze every weight: nothing is left to train. Leave out "
            "one of them."
        )
    return held

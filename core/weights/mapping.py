"""Two-way tables of names: which tensors of ours are which of theirs, and how they lie in memory.

A rule is read from right to left when weights are loaded and from left to right when they are saved. Both directions
only move numbers, so a round trip is exact to the bit.
"""

import difflib
import glob
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from diptych.core.weights.files import WeightFiles

SHOWN = 20  # names of each kind in an error message

Arrays = Mapping[str, Callable[[], np.ndarray]]
"""Names, and functions that give the arrays, so that one at a time is in memory."""


class WeightsMismatch(ValueError):
    """Weights that are not those of the model: what is missing, what is left over, and what has another shape."""


@dataclass(frozen=True)
class Layout:
    """How the tensors of one side become those of the other.

    `to_ours` takes their arrays; `to_theirs` takes ours and the number of arrays that are wanted.
    """

    to_ours: Callable[[list[np.ndarray]], list[np.ndarray]]
    to_theirs: Callable[[list[np.ndarray], int], list[np.ndarray]]


def _each(to_ours: Callable, to_theirs: Callable) -> Layout:
    """One tensor of theirs for one of ours."""
    return Layout(lambda arrays: [to_ours(arrays[0])], lambda arrays, _: [to_theirs(arrays[0])])


def _joined(to_ours: Callable, to_theirs: Callable) -> Layout:
    """One or several tensors of theirs, side by side along the last axis of one of ours."""
    return Layout(
        lambda arrays: [np.concatenate([to_ours(array) for array in arrays], axis=-1)],
        lambda arrays, count: [to_theirs(part) for part in np.split(arrays[0], count, axis=-1)],
    )


SAME = _each(lambda x: x, lambda x: x)
TRANSPOSED = _each(np.transpose, np.transpose)
"""torch's Linear [out, in] and a kernel [in, out]."""
STACKED = _joined(lambda x: x, lambda x: x)
"""Several vectors and one."""
STACKED_TRANSPOSED = _joined(np.transpose, np.transpose)
"""Several of torch's Linear [out, in] and one kernel [in, several · out]."""


def stacked_transposed(*shares: int) -> Layout:
    """Several of torch's Linear [out, in] and one kernel [in, sum of out], whose columns they share in these
    proportions.
    """
    ends = np.cumsum(shares)

    def to_theirs(arrays: list[np.ndarray], _: int) -> list[np.ndarray]:
        unit = arrays[0].shape[-1] // int(ends[-1])
        return [np.transpose(part) for part in np.split(arrays[0], ends[:-1] * unit, axis=-1)]

    return Layout(lambda arrays: [np.concatenate([np.transpose(array) for array in arrays], axis=-1)], to_theirs)


CONV = _each(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
"""torch's convolution [out, in, height, width] and a kernel [height, width, in, out]."""
LEADING_AXIS = _each(lambda x: np.squeeze(x, axis=0), lambda x: x[None])
"""A first axis of one that only they have."""
SQUARE_GRID = _each(lambda x: x.reshape(math.isqrt(len(x)), -1, x.shape[-1]), lambda x: x.reshape(-1, x.shape[-1]))
"""A list of positions [rows · columns, width] and a square table [rows, columns, width]."""


def _patches(x: np.ndarray) -> np.ndarray:
    side = math.isqrt(len(x) // 3)
    return x.reshape(side, side, 3, x.shape[-1])


FLAT_PATCHES = _each(_patches, lambda x: x.reshape(-1, x.shape[-1]))
"""A kernel of flattened patches [patch · patch · 3, out] and one [patch, patch, 3, out]."""
FLAT_PATCHES_TRANSPOSED = _each(lambda x: _patches(x.T), lambda x: x.reshape(-1, x.shape[-1]).T)
"""torch's Linear [out, patch · patch · 3] and a kernel [patch, patch, 3, out]."""


def split(layout: Layout, *shares: int) -> Layout:
    """One tensor of theirs, laid out as `layout` says, and several of ours that share its last axis in these
    proportions.
    """
    ends = np.cumsum(shares)

    def to_ours(arrays: list[np.ndarray]) -> list[np.ndarray]:
        (whole,) = layout.to_ours(arrays)
        unit = whole.shape[-1] // int(ends[-1])
        return np.split(whole, ends[:-1] * unit, axis=-1)

    return Layout(to_ours, lambda arrays, count: layout.to_theirs([np.concatenate(arrays, axis=-1)], count))


def heads_out(num_heads: int) -> Layout:
    """Kernels [width, heads, head size] or biases [heads, head size], and one [width, several · heads · head size]."""

    def join_heads(x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:-2], num_heads * x.shape[-1])

    def split_heads(x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:-1], num_heads, -1)

    return _joined(join_heads, split_heads)


def heads_in(num_heads: int) -> Layout:
    """A kernel [heads, head size, width] and one [heads · head size, width]."""
    return _each(
        lambda x: x.reshape(num_heads * x.shape[1], x.shape[2]), lambda x: x.reshape(num_heads, -1, x.shape[-1])
    )


def stacked_layers(layout: Layout) -> Layout:
    """Their tensors hold every layer along a first axis; of ours there is one for each layer."""

    def to_ours(arrays: list[np.ndarray]) -> list[np.ndarray]:
        return [layout.to_ours(list(layers))[0] for layers in zip(*arrays, strict=True)]

    def to_theirs(arrays: list[np.ndarray], count: int) -> list[np.ndarray]:
        layers = [layout.to_theirs([array], count) for array in arrays]
        return [np.stack(parts) for parts in zip(*layers, strict=True)]

    return Layout(to_ours, to_theirs)


class Rule:
    """Names of ours, names of theirs, and how the one's tensors become the other's."""

    def __init__(self, ours: str | Sequence[str], theirs: str | Sequence[str], layout: Layout = SAME):
        self.ours = (ours,) if isinstance(ours, str) else tuple(ours)
        self.theirs = (theirs,) if isinstance(theirs, str) else tuple(theirs)
        self.layout = layout


class Table:
    """Rules that name every weight once on either side.

    Args:
        rules: in any order.
        ignored: patterns (`*.position_ids`) of names of theirs that are no weights.
        within: the first parts of names (`vision_model`) that it is about, all others being somebody else's; None for
            a table about the whole file.
    """

    def __init__(self, rules: Iterable[Rule], *, ignored: Sequence[str] = (), within: Collection[str] | None = None):
        self.rules = tuple(rules)
        self.ignored = tuple(ignored)
        self.within = within

    @classmethod
    def same_names(cls, names: Iterable[str]) -> "Table":
        """Both sides call everything the same."""
        return cls(Rule(name, name) for name in names)

    def only(self, prefix: str, *, without: str = "") -> "Table":
        """The rules of ours under a prefix, the rest of theirs ignored; their names lose `without` at the front.

        What stands beside that part in the files, such as another model's classifier, is ignored too.
        """
        rules = [rule for rule in self.rules if all(name.startswith(prefix) for name in rule.ours)]
        rest = [glob.escape(name) for rule in self.rules if rule not in rules for name in rule.theirs]
        renamed = [Rule(rule.ours, [name.removeprefix(without) for name in rule.theirs], rule.layout) for rule in rules]
        within = {_first_part(name) for rule in renamed for name in rule.theirs}
        return Table(renamed, ignored=[*self.ignored, *rest], within=within)

    def holds(self, prefix: str, files: WeightFiles, without: str = "") -> bool:
        """Whether the files have any weight that is ours under a prefix, by its name or one `without` its front."""
        names = [name for rule in self.rules if rule.ours[0].startswith(prefix) for name in rule.theirs]
        return any(name in files.shapes or (without and name.removeprefix(without) in files.shapes) for name in names)

    def check(self, shapes: Mapping[str, tuple[int, ...]] | None, files: WeightFiles) -> None:
        """Compares names and shapes with those in the files, without reading a weight.

        Args:
            shapes: of the model's weights; None before there is a model: then names alone are compared.

        Raises:
            WeightsMismatch: listing all that is missing, left over or misshapen.
        """
        ours, theirs = ([name for rule in self.rules for name in getattr(rule, side)] for side in ("ours", "theirs"))
        twice = {name for name, count in Counter(ours).items() if count > 1}
        if wrong := twice | (set() if shapes is None else set(ours) ^ set(shapes)):
            raise WeightsMismatch(f"The table does not name each of the model's weights once: {_list(sorted(wrong))}.")
        missing = [name for name in theirs if name not in files.shapes]
        known = set(theirs)
        extra = [name for name in files.shapes if name not in known and not self._ignores(name)]
        misshapen = [text for rule in self.rules for text in _misshapen(rule, shapes, files)] if shapes else []
        if not (missing or extra or misshapen):
            return
        lines = [f"{files.source} does not hold the weights of this model."]
        lines += [f"{len(missing)} missing: {_list(missing)}"] if missing else []
        lines += [f"{len(extra)} left over: {_list(extra)}"] if extra else []
        lines += [f"{len(misshapen)} of another shape: {_list(misshapen)}"] if misshapen else []
        unknown = [name for name in files.shapes if name not in known]
        raise WeightsMismatch("\n".join(lines + _likely_names(missing, unknown)))

    def load(self, files: WeightFiles) -> Iterator[tuple[str, np.ndarray]]:
        """Our names and float32 arrays, the largest first, so that no large one is read when memory is already full."""

        def elements(rule: Rule) -> int:
            return sum(math.prod(files.shapes[name]) for name in rule.theirs)

        for rule in sorted(self.rules, key=elements, reverse=True):
            arrays = _loaded(rule, files)
            arrays.reverse()
            for name in rule.ours:
                yield name, arrays.pop()  # let go of, so that who receives it can free it

    def save(self, arrays: Arrays) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
        """Their names, and functions that give the arrays as they lie there."""
        for rule in self.rules:
            for place, name in enumerate(rule.theirs):
                yield name, _part(rule, place, arrays)

    def _ignores(self, name: str) -> bool:
        if self.within is not None and _first_part(name) not in self.within:
            return True
        return any(fnmatchcase(name, pattern) for pattern in self.ignored)


def _loaded(rule: Rule, files: WeightFiles) -> list[np.ndarray]:
    return rule.layout.to_ours([files.read_float32(name) for name in rule.theirs])


def _part(rule: Rule, place: int, arrays: Arrays) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        ours = [arrays[name]() for name in rule.ours]
        return rule.layout.to_theirs(ours, len(rule.theirs))[place]

    return read


def _misshapen(rule: Rule, shapes: Mapping[str, tuple[int, ...]], files: WeightFiles) -> Iterator[str]:
    if any(name not in files.shapes for name in rule.theirs):
        return
    wanted = [tuple(shapes[name]) for name in rule.ours]
    theirs = [files.shapes[name] for name in rule.theirs]
    try:
        got = [array.shape for array in rule.layout.to_ours([np.broadcast_to(np.int8(0), shape) for shape in theirs])]
    except (ValueError, IndexError, TypeError):  # the layout does not apply to arrays of this rank or size
        got = []
    if got != wanted or sum(map(math.prod, wanted)) != sum(map(math.prod, theirs)):
        yield f"{_with_shapes(rule.theirs, theirs)} for {_with_shapes(rule.ours, wanted)}"


def _first_part(name: str) -> str:
    return re.split("[./]", name, maxsplit=1)[0]


def _with_shapes(names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> str:
    return " and ".join(f"{name} {shape}" for name, shape in zip(names, shapes, strict=True))


def _likely_names(missing: Sequence[str], extra: Sequence[str]) -> list[str]:
    """What the missing names may be called instead, in a sentence: with a prefix more or less, or by a similar name."""
    there = set(extra)
    for name in missing[:SHOWN]:
        for other in extra:
            longer, shorter = (other, name) if other.endswith(name) else (name, other)
            prefix = longer.removesuffix(shorter)
            if prefix == longer or prefix[-1] not in "./":
                continue
            if longer == other:
                count = sum(prefix + each in there for each in missing)
                return [f"{count} of the missing names are there with {prefix!r} before them."]
            count = sum(each.removeprefix(prefix) in there for each in missing)
            return [f"{count} of the missing names are there without {prefix!r}."]
    near = difflib.get_close_matches(missing[0], extra, n=1) if missing else []
    return [f"{missing[0]} may be called {near[0]} there."] if near else []


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more

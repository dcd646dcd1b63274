"""Tables of what is in results.jsonl, and beside them what the figures are to reach."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.gpu import journal
from benchmarks.gpu.stages import GPU

NAME = "summary.txt"
Line = dict[str, Any]


def write(folder: Path) -> str:
    """Writes the summary of a folder's results, and returns it."""
    text = summarized(journal.read(folder / journal.NAME))
    (folder / NAME).write_text(text + "\n", encoding="utf-8")
    return text


def summarized(lines: list[Line]) -> str:
    parts = [_facts(lines)]
    parts += [_products(lines), _blocks(lines, "block"), _sweeps(lines), _blocks(lines, "mosaic")]
    parts += [
        _losses(lines, contest) for contest in dict.fromkeys(line["contest"] for line in lines if "contest" in line)
    ]
    parts += [_faults(lines), aims(lines), _stages(lines)]
    return "\n\n".join(part for part in parts if part)


def aims(lines: list[Line]) -> str:
    """Each aim with the figure, where there is one."""
    rows = [(what, wanted, *_judged(figure(lines), reached)) for what, wanted, figure, reached in AIMS]
    return _table("Aims", ("", "aim", "measured", ""), rows)


def _judged(figure: float | None, reached: Callable[[float], bool]) -> tuple[str, str]:
    return ("not measured", "") if figure is None else (f"{figure:.3g}", "reached" if reached(figure) else "missed")


def _ms(lines: list[Line], contest: str, name: str, size: int, **fields) -> float | None:
    """The last time of a contender."""
    wanted = {"contest": contest, "contender": name, "size": size, "width": GPU.width, **fields}
    found = [line["ms"] for line in _of(lines, "loss") if "ms" in line and wanted.items() <= line.items()]
    return found[-1] if found else None


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below is not None else None


def _share_of_square(lines: list[Line]) -> float | None:
    """The rate of the loss over that of the square product in the same turns."""
    loss, square = (_ms(lines, "alone", name, GPU.batch, stage="torch loss") for name in ("triton", "square product"))
    if loss is None or square is None:
        return None
    return (6 * GPU.batch**2 * GPU.width / loss) / (2 * GPU.square**3 / square)


def _rival_over_triton(*rivals: str) -> Callable[[list[Line]], float | None]:
    """The time of the fastest of the rivals as they are, in units of ours in the same turns."""

    def figure(lines: list[Line]) -> float | None:
        known = [ms for name in rivals if (ms := _ms(lines, "as they are", name, GPU.batch)) is not None]
        return _ratio(min(known, default=None), _ms(lines, "as they are", "triton", GPU.batch))

    return figure


def _worst_of_the_small(lines: list[Line]) -> float | None:
    """Our time, the faster of eager and compiled, over the compiled plain loss's, at the size where it is largest."""
    ratios = []
    for size in GPU.small:
        ours = [_ms(lines, "small", name, size) for name in ("triton", "triton, torch.compile")]
        rival = _ms(lines, "small", "naive, torch.compile", size)
        if rival is not None and (known := [ms for ms in ours if ms is not None]):
            ratios.append(min(known) / rival)
    return max(ratios, default=None)


def _gigabytes(lines: list[Line]) -> float | None:
    found = [
        line["extra_mib"]
        for line in _of(lines, "loss")
        if line.get("contender") == "triton" and line["size"] == GPU.batch and line.get("extra_mib") is not None
    ]
    return found[-1] * 2**20 / 1e9 if found else None


def _pallas_over_triton(lines: list[Line]) -> float | None:
    pallas = _ms(lines, "alone", "pallas_gpu", GPU.batch)
    return _ratio(pallas, _ms(lines, "alone", "triton", GPU.batch))


def _largest_sum_error(lines: list[Line]) -> float | None:
    checked = [line for line in _of(lines, "checked") if line["stage"] == "torch block"]
    return max((line["sum_error"] for line in checked if line.get("sum_error") is not None), default=None)


AIMS: tuple[tuple[str, str, Callable[[list[Line]], float | None], Callable[[float], bool]], ...] = (
    ("triton, B = 65,536: share of the square product's rate", "at least 0.75", _share_of_square, lambda x: x >= 0.75),
    (
        "siglip-kernel's time in units of triton's",
        "at least 1.4",
        _rival_over_triton("siglip-kernel", "siglip-kernel, pipelined"),
        lambda x: x >= 1.4,
    ),
    (
        "eager open_clip's time in units of triton's",
        "at least 2",
        _rival_over_triton("open_clip"),
        lambda x: x >= 2,
    ),
    ("triton, B = 65,536: extra memory, GB", "at most 0.75", _gigabytes, lambda x: x <= 0.75),
    ("triton, B = 1,048,576, ms", "runs", lambda lines: _ms(lines, "million", "triton", GPU.million), lambda x: x > 0),
    ("pallas_gpu's time in units of triton's", "at most 1.1", _pallas_over_triton, lambda x: x <= 1.1),
    (
        "B up to 8,192: triton's time in units of the compiled plain loss's",
        "at most 1",
        _worst_of_the_small,
        lambda x: x <= 1,
    ),
    ("relative error of the kernel's sums", "at most 1e-6", _largest_sum_error, lambda x: x <= 1e-6),
)
"""(what, the aim in words, the figure in the lines, whether it is reached)."""


def _of(lines: list[Line], kind: str) -> list[Line]:
    return [line for line in lines if line["kind"] == kind]


def _facts(lines: list[Line]) -> str:
    said = [f"{key}: {value}" for line in _of(lines, "machine") for key, value in line.items() if key not in COMMON]
    return "\n".join(dict.fromkeys(said + [f"{line['when']}: {line['said']}" for line in _of(lines, "state")]))


COMMON = ("stage", "kind", "time")


def _products(lines: list[Line]) -> str:
    names = {
        (line["name"], line["m"], line["k"]): ", ".join(line.get("kernels", ())) or line.get("failed", "")
        for line in _of(lines, "library")
    }
    rows: list[tuple] = [
        (line["name"], f"{line['m']} x {line['n']} x {line['k']}", line["layout"], line["ms"], line["tflops"])
        + (names.get((line["name"], line["m"], line["k"]), "")[:60],)
        for line in _of(lines, "product")
    ]
    rows += [("copy", "", "", line["ms"], line["bytes_per_second"] / 1e12, "TB/s") for line in _of(lines, "copy")]
    return _table("Plain products, bfloat16", ("", "m x n x k", "layout", "ms", "TFLOP/s", "kernel"), rows)


def _blocks(lines: list[Line], kind: str) -> str:
    """The last time of every tile, and what was wrong with others."""
    title, stage = {
        "block": ("The Triton kernel alone", "torch block"),
        "mosaic": ("The Mosaic kernel alone", "jax block"),
    }[kind]
    checked = [line for line in _of(lines, "checked") if line["stage"] == stage]
    errors = {line["variant"]: line["sum_error"] for line in checked if line.get("sum_error") is not None}
    last = {(line["variant"], line["size"]): line for line in _of(lines, kind)}
    rows: list[tuple] = [
        (variant + (" (shipped)" if line["shipped"] else ""), size, line["ms"], line["tflops"], errors.get(variant, ""))
        for (variant, size), line in last.items()
    ]
    rows += [(line["variant"], line.get("size", ""), line["wrong"], "", "") for line in checked if "wrong" in line]
    return _table(title, ("tile", "S", "ms", "TFLOP/s", "error of sums"), rows)


def _sweeps(lines: list[Line]) -> str:
    rows = [(line["variant"], line["largest"], line["ms"], line["tflops"]) for line in _of(lines, "sweep")]
    return _table("The sweep with the best tiles", ("tile", "S", "ms", "TFLOP/s"), rows)


def _losses(lines: list[Line], contest: str) -> str:
    """The last that is known of each contender."""
    last = {
        (line["stage"], line["size"], line["width"], line["contender"]): line
        for line in _of(lines, "loss")
        if line["contest"] == contest
    }
    columns = ("ms", "fastest_ms", "tflops", "extra_mib", "gradient_error", "float32_gradient_error", "host_us")
    rows = [
        (stage.partition(" ")[0], size, width, name)
        + tuple(line[column] if line.get(column) is not None else "" for column in columns)
        + (line.get("wrong", line.get("failed", "" if "ms" in line else "no time")),)
        for (stage, size, width, name), line in last.items()
    ]
    heads = ("", "B", "D", "", "ms", "fastest", "TFLOP/s", "MiB", "error", "in float32", "host us", "")
    return _table(f"The whole loss and its gradients: {contest}", heads, rows)


def _faults(lines: list[Line]) -> str:
    rows = [(line["stage"], line["name"], line["failed"]) for line in _of(lines, "compiled") if "failed" in line]
    rows += [(line["stage"], line["test"], line["said"].strip().splitlines()[-1]) for line in _of(lines, "failure")]
    return _table("What went wrong", ("stage", "", ""), rows)


def _stages(lines: list[Line]) -> str:
    counts = {
        line["stage"]: f"{line['passed']} passed, {line['failed']} failed, {line['skipped']} skipped"
        for line in _of(lines, "tests")
    }
    stages = _of(lines, "stage")
    rows = [(line["stage"], line["outcome"], line["seconds"], counts.get(line["stage"], "")) for line in stages]
    return _table("Stages", ("", "", "s", ""), rows)


def _table(title: str, heads: tuple[str, ...], rows: Iterable[tuple]) -> str:
    """Columns as wide as what is in them; nothing where there are no rows."""
    cells = [tuple(_shown(cell) for cell in row) for row in rows]
    if not cells:
        return ""
    widths = [max(len(row[i]) for row in (heads, *cells)) for i in range(len(heads))]
    body = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (heads, *cells)
    ]
    return "\n".join([title, *(f"  {line}" for line in body if line)])


def _shown(cell: Any) -> str:
    if not isinstance(cell, float):
        return " ".join(str(cell).split())[:90]
    return f"{cell:.1e}" if 0 < abs(cell) < 1e-2 else f"{cell:,.3g}" if abs(cell) < 100 else f"{cell:,.0f}"

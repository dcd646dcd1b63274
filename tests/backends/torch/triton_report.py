"""Triton's report on the sigmoid loss's kernel for a GPU that need not be there: registers, spills, code.

    python -m tests.backends.torch.triton_report

prints a table of every config in use and every candidate. Triton's own ptxas compiles, its cuobjdump and nvdisasm read.
"""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from diptych.backends.torch.contrastive.triton_block import (
    CANDIDATES,
    CONFIGS,
    SIGMOID,
    Config,
    constants,
    negatives_kernel,
    options,
)

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
TYPE_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16"}
WIDTH = 768

INSTRUCTIONS = {
    "local_loads": r"\bLDL\b",
    "local_stores": r"\bSTL\b",
    "hgmma": r"\bHGMMA\b",  # matrix products of compute capability 9.0,
    "hmma": r"\bHMMA\b",  # of 8.0,
    "utcmma": r"\bUTC\w*MMA\b",  # of 10.0
    "tma_loads": r"\bUTMALDG\b",
    "tma_stores": r"\bUTMASTG\b",
    "asynchronous_copies": r"\bLDGSTS\b",
}
"""Field of `Report` -> what it counts in the machine code."""

EXPONENTIAL = "MUFU.EX2"
"""One for each pair: what marks the code that turns logits into probabilities and sums."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """One compiled kernel; bytes are of a thread's stack and of a program's shared memory."""

    registers: int
    stack_bytes: int
    shared_bytes: int
    local_loads: int
    local_stores: int
    hgmma: int
    hmma: int
    utcmma: int
    tma_loads: int
    tma_stores: int
    asynchronous_copies: int
    epilogue_instructions_per_pair: float


def compiled_report(
    config: Config, capability: int, dtype=torch.bfloat16, *, write: bool = True, epilogue=SIGMOID
) -> Report:
    """The kernel for ten times a compute capability, with probabilities written or sums alone."""
    return machine_report(compile_kernel(config, capability, dtype, write=write, epilogue=epilogue))


def compile_kernel(config: Config, capability: int, dtype, *, write: bool, epilogue=SIGMOID):
    """As Triton compiles `negatives_kernel` when it is first launched on such a GPU."""
    values = constants(config, WIDTH, dtype if write else None, epilogue)
    logarithms = "constexpr" if epilogue == SIGMOID else "*fp32"

    def matrix(rows: int, columns: int) -> str:
        name = TYPE_NAMES[dtype]
        return f"tensordesc<{name}[{rows}, {columns}]>" if config.copy_engine else f"*{name}"

    signature = {
        "x": matrix(config.block_m, config.block_k),
        "y": matrix(config.block_n, config.block_k),
        "probabilities": matrix(config.block_m, config.block_n // config.slices) if write else "constexpr",
        "rows_logarithms": logarithms,
        "columns_logarithms": logarithms,
        "scale_and_bias": "*fp32",
        "sums": "*fp32",
        **dict.fromkeys(("m", "n", "offset", "x_stride", "y_stride", "probability_stride"), "i32"),
        **dict.fromkeys(values, "constexpr"),
    }
    pointers = [i for i, name in enumerate(negatives_kernel.arg_names) if signature[name].startswith("*")]
    source = ASTSource(
        fn=negatives_kernel,
        signature=signature,
        constexprs=values
        | {name: None for name, kind in signature.items() if kind == "constexpr" and name not in values},
        attrs={(i,): [["tt.divisibility", 16]] for i in pointers},
    )
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options(config))


def machine_report(compiled) -> Report:
    """Read a compiled kernel's machine code."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(compiled.asm["cubin"])
        usage = _output("cuobjdump", "--dump-resource-usage", path)
        code = _output("nvdisasm", "-c", path)
    return Report(
        registers=_number(r"REG:(\d+)", usage),
        stack_bytes=_number(r"STACK:(\d+)", usage),
        shared_bytes=compiled.metadata.shared,
        epilogue_instructions_per_pair=_epilogue_instructions_per_pair(code),
        **{field: len(re.findall(pattern, code)) for field, pattern in INSTRUCTIONS.items()},
    )


def _epilogue_instructions_per_pair(code: str) -> float:
    """All instructions of the stretches without a jump that contain exponentials, over the exponentials.

    What a tile with a masked pair has more of lies in stretches of its own, which other tiles jump over.
    """
    stretches = re.split(r"^\s*\.L_x_\d+:|\bBRA\b.*$", code, flags=re.MULTILINE)
    epilogue = [stretch for stretch in stretches if EXPONENTIAL in stretch]
    instructions = sum(len(re.findall(r"/\*[0-9a-f]{4,}\*/", stretch)) for stretch in epilogue)
    return instructions / sum(stretch.count(EXPONENTIAL) for stretch in epilogue)


def _output(tool: str, *arguments) -> str:
    return subprocess.run([TOOLS / tool, *arguments], check=True, capture_output=True, text=True).stdout


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if not found:
        raise ValueError(f"Cannot find {pattern} in what cuobjdump wrote:\n{text}\nIts format may have changed.")
    return int(found.group(1))


def main() -> None:
    print(f"Triton {triton.__version__}, width {WIDTH}; tile, warps, stages, slices, group, register limit\n")
    columns = (
        "registers",
        "stack_bytes",
        "shared_bytes",
        "hgmma",
        "hmma",
        "utcmma",
        "tma_loads",
        "asynchronous_copies",
        "epilogue_instructions_per_pair",
    )
    print("capability dtype writes  tile        w s l  g   r  " + " ".join(columns))
    tiles = list(CONFIGS.items()) + [(90, config) for config in CANDIDATES if config != CONFIGS[90]]
    for capability, config in tiles:
        for dtype, name in TYPE_NAMES.items():
            for write in (True, False):
                report = compiled_report(config, capability, dtype, write=write)
                tile = f"{config.block_m}x{config.block_n}x{config.block_k}"
                counts = f"{config.num_warps} {config.num_stages} {config.slices} {config.group_m:2}"
                print(
                    f"{capability:10} {name:5} {'yes' if write else 'no':6}  {tile:11} {counts} "
                    f"{config.max_registers or '-':>3}  "
                    + " ".join(f"{round(getattr(report, column), 1):{len(column)}}" for column in columns),
                    flush=True,
                )


if __name__ == "__main__":
    main()

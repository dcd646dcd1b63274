"""Mosaic's program for a GPU that need not be there, counted: barriers, products, exponentials.

    python -m tests.backends.jax.mosaic_report

prints a table of every tile that is worth timing. It counts in the program that jax hands to the GPU's compiler, whose
loops are written out where Python wrote them: a tile's epilogue is there once.
"""

from collections import Counter
from dataclasses import asdict, dataclass

import jax
import jax.experimental.mosaic.gpu as mosaic
from jax._src.interpreters import mlir
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh
from jaxlib.mlir import ir

from diptych.backends.jax.contrastive import pallas_gpu

H100 = AbstractMesh((), (), abstract_device=AbstractDevice("NVIDIA H100 80GB HBM3", 132, "cuda"))

INSTRUCTIONS = {
    "barriers": "bar.sync",
    "products": "wgmma.mma_async",
    "exponentials": "ex2.approx",
    "divisions": "div.",
}
"""Field of `Report` -> how the instructions begin that it counts."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """How often a kernel's program has an instruction; barriers are those at which a warpgroup waits for itself."""

    barriers: int
    products: int
    exponentials: int
    divisions: int


def report(block, *arguments) -> Report:
    """Of the only Mosaic kernel in a function of arrays, or of their shapes."""
    with use_abstract_mesh(H100):
        program = jax.jit(block).trace(*arguments).lower(lowering_platforms=("cuda",)).compiler_ir()
    (kernel,) = (found for found in _operations(program) if found.name == "stablehlo.custom_call" and _is_mosaic(found))
    context = mlir.make_ir_context()
    mosaic.dialect.register_dialect(context)
    context.allow_unregistered_dialects = True  # its operations are stored under names of their own
    module = ir.Module.parse(kernel.attributes["mhlo.backend_config"]["module"].value_bytes, context=context)
    counted = Counter(
        field
        for operation in _operations(module)
        if "asm_string" in operation.attributes
        for field, begins in INSTRUCTIONS.items()
        if begins in ir.StringAttr(operation.attributes["asm_string"]).value
    )
    return Report(**{field: counted[field] for field in INSTRUCTIONS})


def _operations(module) -> list:
    found: list = []

    def visit(operation):
        found.append(operation)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    return found


def _is_mosaic(call) -> bool:
    return "mosaic_gpu" in ir.StringAttr(call.attributes["call_target_name"]).value


def arguments(size: int, dtype) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Those of a block of the sigmoid loss."""
    shapes = (((size, 768), dtype), ((size, 768), dtype), ((2,), "float32"), ((3,), "int32"))
    return tuple(jax.ShapeDtypeStruct(*shape) for shape in shapes)


def main() -> None:
    print(f"jax {jax.__version__}, width 768")
    for config in pallas_gpu.CANDIDATES:

        def block(*given, config=config):
            return pallas_gpu.negatives_block(*given, config=config)

        print(
            config, *(f"{name} {count}" for name, count in asdict(report(block, *arguments(768, "bfloat16"))).items())
        )


if __name__ == "__main__":
    main()

"""The losses for TPUs by their own compiler, which needs no TPU: every tile, and the ring that overlaps.

`nox -s tpu` runs it, as `nox -s tests` does for jax, where the compiler, libtpu, is on the path of this process alone.
"""

import os
import re
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="the kernels are jax's")
if find_spec("libtpu") is None:
    pytest.skip("libtpu is not on the path: nox -s tpu has it there", allow_module_level=True)

from jax import numpy as jnp  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding  # noqa: E402

from diptych.backends.jax.contrastive import pallas_tpu, pallas_tpu_softmax  # noqa: E402
from diptych.backends.jax.contrastive.distributed import ManyDevices  # noqa: E402
from diptych.backends.jax.contrastive.sigmoid import SigmoidLoss  # noqa: E402

# What a TPU's host would say of itself.
HOST = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
}


@pytest.fixture(scope="module")
def devices():
    """Sixteen chips of a TPU v5e, as the compiler knows them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in HOST.items():
            patch.setenv(name, os.environ.get(name, value))
        yield topologies.get_topology_desc(platform="tpu", topology_name="v5e:4x4").devices


@pytest.mark.parametrize("config", pallas_tpu.CANDIDATES, ids=str)
def test_a_tile_compiles(devices, config):
    shapes = [((2048, 768), jnp.bfloat16), ((2048, 768), jnp.bfloat16), ((2,), jnp.float32), ((3,), jnp.int32)]
    one = SingleDeviceSharding(devices[0])
    arguments = [jax.ShapeDtypeStruct(shape, of, sharding=one) for shape, of in shapes]
    block = partial(pallas_tpu.negatives_block, config=config)
    assert "tpu_custom_call" in jax.jit(block).lower(*arguments).compile().as_text()


def test_the_softmaxs_blocks_compile(devices):
    shapes = [((2048, 768), jnp.bfloat16), ((2048, 768), jnp.bfloat16), ((), jnp.float32), ((3,), jnp.int32)]
    one = SingleDeviceSharding(devices[0])
    arguments = [jax.ShapeDtypeStruct(shape, of, sharding=one) for shape, of in shapes]
    beside = [jax.ShapeDtypeStruct((2048,), jnp.float32, sharding=one)] * 2

    def weights(x, y, scale, limits, rows, columns):
        return pallas_tpu_softmax.weights_block(x, y, scale, limits, True, rows, columns)

    for block, given in ((pallas_tpu_softmax.normalisers_block, arguments), (weights, arguments + beside)):
        assert "tpu_custom_call" in jax.jit(block).lower(*given).compile().as_text()


def test_the_ring_sends_texts_and_gradient_while_the_kernel_runs(devices):
    """In the order in which the compiler has scheduled the loop's body."""
    mesh = Mesh(np.array(devices), ("data",))
    rows, everywhere = (NamedSharding(mesh, spec) for spec in (PartitionSpec("data"), PartitionSpec()))
    embeddings = jax.ShapeDtypeStruct((32_768, 768), "bfloat16", sharding=rows)
    scalar = jax.ShapeDtypeStruct((), "float32", sharding=everywhere)
    plan = ManyDevices(SigmoidLoss(pallas_tpu.BLOCK), mesh, "data", "ring")
    program = jax.jit(partial(plan, with_gradients=True)).lower(embeddings, embeddings, (scalar, scalar)).compile()
    assert program.memory_analysis().temp_size_in_bytes <= 2**20
    loop, around = [body for body in computations(program.as_text()) if body]
    assert loop == ["start", "start", "kernel", "done", "done"]
    assert around == ["start", "kernel", "done", "start", "done"]  # the first hop; the gradient's way home


def computations(program: str) -> list[list[str]]:
    """Of each computation of a scheduled program, in order: where a transfer starts and is done, and kernels."""
    found: list[list[str]] = []
    for line in program.splitlines():
        if line and not line.startswith((" ", "}")):
            found.append([])
        elif match := re.search(r" collective-permute-(start|done)\(", line):
            found[-1].append(match.group(1))
        elif "tpu_custom_call" in line:
            found[-1].append("kernel")
    return found

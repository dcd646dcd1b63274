"""The losses' kernel compiled for GPUs that are not here: registers, instructions, room."""

import os
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("triton", reason="Triton is not installed: pip install triton (Linux)")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("TRITON_INTERPRET=1: this process interprets kernels", allow_module_level=True)

from diptych.backends.torch.contrastive.triton_block import (  # noqa: E402
    CANDIDATES,
    CONFIGS,
    LARGE_TILE,
    NORMALISERS,
    SMALL_TILE,
    SOFTMAX,
    config_for,
)
from tests.backends.torch.triton_report import compiled_report  # noqa: E402

KIBIBYTE = 1024
SHARED_MEMORY = {80: 163 * KIBIBYTE, 90: 227 * KIBIBYTE, 100: 227 * KIBIBYTE, 120: 99 * KIBIBYTE}
"""Ten times a compute capability -> what one program may have; the multiprocessor has a KiB more and takes one for
each.
"""

STACK = {80: 0, 90: 0, 100: 32, 120: 32}
"""Bytes of registers that a thread may spill."""

MULTIPLIES = {80: "hmma", 90: "hgmma", 100: "utcmma", 120: "hmma"}
COPIES = {80: "asynchronous_copies", 90: "tma_loads", 100: "tma_loads", 120: "tma_loads"}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


def faults(report, config, capability) -> list[str]:
    """What is wrong with a compiled kernel."""
    found = []
    if report.stack_bytes > STACK[capability]:
        found.append(f"spills {report.stack_bytes} bytes")
    if (report.local_loads or report.local_stores) and not STACK[capability]:
        found.append(f"{report.local_loads} loads and {report.local_stores} stores of spilled registers")
    room = (SHARED_MEMORY[capability] + KIBIBYTE) // config.programs_per_sm - KIBIBYTE
    if report.shared_bytes > room:
        found.append(f"takes {report.shared_bytes} bytes of shared memory, has {room}")
    if config.programs_per_sm * config.num_warps * 32 * report.registers > 65536:
        found.append(f"{config.programs_per_sm} programs of {report.registers} registers do not fit")
    instructions = (MULTIPLIES[capability], COPIES[capability])
    found += [f"has no {instruction}" for instruction in instructions if not getattr(report, instruction)]
    return found


@pytest.mark.parametrize("write", [True, False], ids=["probabilities", "sums alone"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("capability", CONFIGS)
def test_the_config_in_use_compiles_well(capability, dtype, write):
    config = CONFIGS[capability]
    report = compiled_report(config, capability, dtype, write=write)
    assert faults(report, config, capability) == [], report
    assert bool(report.tma_stores) == (write and capability >= 90)


@pytest.mark.parametrize("epilogue", [NORMALISERS, SOFTMAX], ids=["normalisers", "weights"])
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_the_softmaxs_epilogues_compile_well(capability, epilogue):
    """A pair has two exponentials, and instructions are counted for each."""
    config = CONFIGS[capability]
    report = compiled_report(config, capability, write=epilogue == SOFTMAX, epilogue=epilogue)
    assert faults(report, config, capability) == [], report
    assert capability != 90 or 2 * report.epilogue_instructions_per_pair <= 22


@pytest.mark.parametrize("config", [config for config in CANDIDATES if config != SMALL_TILE], ids=str)
def test_a_candidate_compiles_well(config):
    assert faults(compiled_report(config, 90), config, 90) == []


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (replace(LARGE_TILE, block_m=256), "spills"),
        (replace(SMALL_TILE, num_stages=4), "shared memory"),
        (replace(LARGE_TILE, num_stages=3, programs_per_sm=2), "registers do not fit"),
    ],
    ids=["a tile too large", "too many stages", "too many programs"],
)
def test_a_bad_config_is_refused(config, words):
    assert words in "; ".join(faults(compiled_report(config, 90), config, 90))


@pytest.mark.parametrize("config", [SMALL_TILE, LARGE_TILE], ids=str)
def test_the_epilogue_is_short(config):
    """Instructions issued are what bounds it, 128 a clock on a multiprocessor, before the exponentials, 16 a clock."""
    assert compiled_report(config, 90).epilogue_instructions_per_pair <= 22


def test_a_slice_whose_product_overflows_is_refused():
    with pytest.raises(ValueError, match="at most 64 columns wide"):
        replace(SMALL_TILE, slices=1)


def test_code_for_another_gpu_is_refused():
    """Neither have the other's matrix product nor its copies."""
    assert faults(compiled_report(CONFIGS[80], 80), CONFIGS[80], 90) == ["has no hgmma", "has no tma_loads"]
    found = faults(compiled_report(CONFIGS[90], 90), CONFIGS[90], 80)
    assert {"has no hmma", "has no asynchronous_copies"} <= set(found)


def test_the_copy_engine_is_not_for_capability_8():
    """There Triton takes its descriptors apart into loads of two bytes, one after the other."""
    config = replace(CONFIGS[80], copy_engine=True)
    assert "has no asynchronous_copies" in faults(compiled_report(config, 80), config, 80)


def test_every_capability_from_8_on_has_a_config():
    assert [config_for(c) for c in [(8, 0), (8, 9), (9, 0), (10, 3), (12, 0)]] == [
        CONFIGS[key] for key in (80, 80, 90, 100, 120)
    ]
    with pytest.raises(ValueError, match=r"7\.5: expected 8\.0"):
        config_for((7, 5))

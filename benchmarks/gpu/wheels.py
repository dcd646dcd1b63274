"""The packages that a rented GPU machine without a network lacks, as wheels to carry there.

    python -m benchmarks.gpu.wheels FOLDER

It has torch, Triton and jax for CUDA; keras needs namex and optree beside what these bring, and siglip-kernel and
open_clip (with ftfy and wcwidth) are whom the loss is compared with. There, in the checkout, without a network:

    python3 -m pip install --no-index --no-deps --target site FOLDER/*.whl
    PYTHONPATH=site python3 -m benchmarks.gpu --output results
"""

import argparse
import subprocess
import sys
from pathlib import Path

WANTED = (
    "keras==3.15.1",
    "namex==0.1.0",
    "optree==0.20.0",
    "siglip_kernel==0.1.2",
    "open_clip_torch==3.3.0",
    "ftfy==6.3.1",
    "wcwidth",
)
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def command(folder: Path) -> list[str]:
    """pip's, for the machine there, whatever this one is."""
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    target = ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp", *platforms]
    return [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *target, "-d", str(folder), *WANTED]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    if there := list(folder.glob("*.whl")):
        raise SystemExit(f"{there[0]} is there already, and pip refuses two versions of one package: empty {folder}.")
    subprocess.run(command(folder), check=True)
    wheels = sorted(folder.glob("*.whl"))
    print(f"{len(wheels)} wheels, {sum(wheel.stat().st_size for wheel in wheels) / 1e6:.1f} MB. There:\n")
    print(f"    python3 -m pip install --no-index --no-deps --target site {folder}/*.whl")
    print("    PYTHONPATH=site python3 -m benchmarks.gpu --output results")


if __name__ == "__main__":
    main()

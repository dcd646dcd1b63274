"""diptych: the SigLIP family of image-text models, defined once in Keras 3 for jax, torch and tensorflow."""

from pathlib import Path

__version__ = "0.1.0"

if (Path(__file__).parent / "core").is_file():
    raise ImportError(
        "diptych/core is a text file, where a symbolic link to ../core was expected: git wrote the links of this "
        "checkout as files. Clone again with `git clone -c core.symlinks=true` (on Windows with developer mode on, "
        "or inside WSL); CONTRIBUTING.md says more."
    )

"""diptych: the SigLIP family of image-text models, defined once in Keras 3 for jax, torch and tensorflow.

Models, processors, the sigmoid loss and finished runs are reached from here. Keras, and with it a framework, is
imported with the first name that needs it; `KERAS_BACKEND` says which. `keras.saving.load_model` opens `.keras` files
of our models once this has been imported, before or after Keras.
"""

from pathlib import Path
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if (Path(__file__).parent / "core").is_file():
    raise ImportError(
        "diptych/core is a text file, where a symbolic link to ../core was expected: git wrote the links of this "
        "checkout as files. Clone again with `git clone -c core.symlinks=true` (on Windows with developer mode on, "
        "or inside WSL); CONTRIBUTING.md says more."
    )

from diptych.registration import register

register()

if TYPE_CHECKING:
    from diptych.backends import (
        distributed_sigmoid_loss,
        distributed_softmax_contrastive_loss,
        sigmoid_loss,
        sigmoid_loss_and_gradients,
        softmax_contrastive_loss,
        softmax_contrastive_loss_and_gradients,
    )
    from diptych.core.data.processor.processor import Processor
    from diptych.core.data.processor.prompted import PaliGemmaProcessor
    from diptych.engine.embedding.encoder import Encoder
    from diptych.engine.embedding.zero_shot_classifier import ZeroShotClassifier
    from diptych.engine.trained_run import load_run
    from diptych.models import CLIP, GPT, Gemma, ImageClassifier, PaliGemma, SigLIP, SigLIP2, from_preset

__all__ = [
    "CLIP",
    "Encoder",
    "GPT",
    "Gemma",
    "ImageClassifier",
    "PaliGemma",
    "PaliGemmaProcessor",
    "Processor",
    "SigLIP",
    "SigLIP2",
    "ZeroShotClassifier",
    "distributed_sigmoid_loss",
    "distributed_softmax_contrastive_loss",
    "from_preset",
    "load_run",
    "sigmoid_loss",
    "sigmoid_loss_and_gradients",
    "softmax_contrastive_loss",
    "softmax_contrastive_loss_and_gradients",
]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    if name in ("Processor", "PaliGemmaProcessor"):  # the only ones that need no framework
        from diptych.core.data.processor.processor import Processor
        from diptych.core.data.processor.prompted import PaliGemmaProcessor

        return Processor if name == "Processor" else PaliGemmaProcessor
    from diptych import backends
    from diptych.engine.embedding.encoder import Encoder
    from diptych.engine.embedding.zero_shot_classifier import ZeroShotClassifier
    from diptych.engine.trained_run import load_run
    from diptych.models import CLIP, GPT, Gemma, ImageClassifier, PaliGemma, SigLIP, SigLIP2, from_preset

    losses = [getattr(backends, loss) for loss in backends.__all__ if loss in __all__]
    models = (CLIP, GPT, Gemma, ImageClassifier, PaliGemma, SigLIP)
    others = (Encoder, ZeroShotClassifier, from_preset, load_run)
    found = {each.__name__: each for each in (*models, *others, *losses)} | {"SigLIP2": SigLIP2}
    globals().update(found)
    return found[name]


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

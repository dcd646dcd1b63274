"""A sorter of drawings into the nine groups of the emoji standard: a trained image tower with a new head.

    KERAS_BACKEND=jax python app.py            # or torch, or tensorflow

The tower is frozen and the head is fitted on one designer's drawings; then it is judged on another's, saved, loaded and
exported.
"""

import argparse
import tempfile
from pathlib import Path

import keras
import numpy as np

import diptych
from diptych import Processor, SigLIP
from diptych.core.data.emoji import GROUPS, evaluation_set
from models import classifier

PRESET = "emoji_36_languages"


def drawings(designer: str, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 48, 48, 3] in [-1, 1] of every so-many-th concept by one designer, and their groups [n]."""
    source, processor = evaluation_set("all", designer=designer), Processor.from_preset(PRESET)
    chosen = range(0, len(source), max(1, len(source) // limit))
    images = processor.images([source.read(source.record(index).images[0]) for index in chosen])["images"]
    return images, np.array([GROUPS.index(source.concept(index).group) for index in chosen])


def main() -> None:
    """Fit, judge, save, load, export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=600, help="drawings to fit on, and to judge by")
    parser.add_argument("--epochs", type=int, default=30)
    arguments = parser.parse_args()

    tower = SigLIP.from_preset(PRESET).image_embedder()
    tower.trainable = False
    model = classifier(tower, classes=len(GROUPS))
    model.compile(optimizer=keras.optimizers.Adam(1e-2), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(*drawings("noto", arguments.examples), epochs=arguments.epochs, batch_size=64, verbose=0)
    images, groups = drawings("twemoji", arguments.examples)
    _, accuracy = model.evaluate(images, groups, verbose=0)
    largest = np.bincount(groups).max() / len(groups)
    if accuracy < largest:
        raise SystemExit(f"accuracy {accuracy:.3f} is no better than always answering the largest group, {largest:.3f}")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "classifier.keras")
        model.save(path)
        again = keras.saving.load_model(path)
        if not np.array_equal(again.predict(images[:8], verbose=0), model.predict(images[:8], verbose=0)):
            raise SystemExit("the loaded classifier does not answer as the saved one")
        exported = export(model, Path(folder))
    print(
        f"accuracy {accuracy:.1%} on another designer's drawings (the largest group: {largest:.1%}); exported as "
        f"{exported}"
    )
    print(
        f"keras {keras.__version__} on {keras.config.backend()}, diptych {diptych.__version__} from {diptych.__file__}"
    )


def export(model: keras.Model, folder: Path) -> str:
    """Writes the classifier in the form its framework serves; jax's goes through tensorflow."""
    if keras.config.backend() == "torch":
        model.export(folder / "classifier.pt2", format="torch", verbose=False)
        return "torch.export"
    model.export(folder / "classifier", format="tf_saved_model", verbose=False)
    return "SavedModel"


if __name__ == "__main__":
    main()

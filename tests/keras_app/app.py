"""Takes SigLIP from the installed diptych, and a classifier from the app's own `models`, and fits the two together."""

import keras
import numpy as np

import diptych
from diptych.models import SigLIP
from models import classifier


def main() -> None:
    """Fit one batch, and print where diptych came from."""
    siglip = SigLIP.from_preset("siglip_mu16_224")
    model = classifier(siglip.image_embedder(), classes=3)
    model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy")
    images = np.random.default_rng(0).uniform(-1, 1, (4, 224, 224, 3)).astype("float32")
    history = model.fit(images, np.array([0, 1, 2, 0]), verbose=0)
    if not np.isfinite(history.history["loss"]).all():
        raise SystemExit(f"the loss is {history.history['loss']}")
    print(
        f"keras {keras.__version__} on {keras.config.backend()}, diptych {diptych.__version__} from {diptych.__file__}"
    )


if __name__ == "__main__":
    main()

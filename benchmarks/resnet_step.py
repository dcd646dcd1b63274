"""Images a second of training R50: ours beside timm's `resnetv2_50x1_bit` on torch, with the same weights.

    KERAS_BACKEND=torch python -m benchmarks.resnet_step
    KERAS_BACKEND=torch python -m benchmarks.resnet_step --batch-size 16 --compile

A step is the cross-entropy of 1,000 classes, gradients and SGD with momentum, in float32, in turn. No time is reported
unless the losses of the first steps agree to 1e-3. It needs timm (pip install timm), which no recipe does.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.contest import training_steps
from benchmarks.device import write_results
from diptych.backends.selection import select_backend

RATE, MOMENTUM = 1e-3, 0.9


def main() -> None:
    """Measure, print and write results/<device>/resnet_step-<backend>.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each")
    parser.add_argument("--compile", action="store_true", help="compiled steps of both, too")
    options = parser.parse_args()
    backend = select_backend()
    from diptych.models.bit.presets import bit_size
    from diptych.models.classifier.config import ClassifierConfig
    from diptych.models.classifier.model import classifier_of

    vision = bit_size("R50x1", image_size=options.image_size, pre_activation=True)
    config = ClassifierConfig(vision=vision, classes=tuple(f"class {number}" for number in range(1_000)))
    rng, side = np.random.default_rng(0), options.image_size
    images = rng.integers(0, 256, (options.batch_size, side, side, 3), dtype=np.uint8)
    batch = {"image": images, "label": rng.integers(0, 1_000, options.batch_size).astype(np.int32)}
    model = classifier_of(config)
    steps = {"timm": _timm_step(model), "diptych": _our_step(model)}
    rivals = dict.fromkeys(steps, "timm")
    if options.compile:
        steps |= {
            "timm, compiled": _timm_step(classifier_of(config), compiled=True),
            "diptych, compiled": _our_step(classifier_of(config), compiler="inductor"),
        }
        rivals |= {"timm, compiled": "timm", "diptych, compiled": "timm, compiled"}
    times = training_steps(
        steps, rivals, batch, repeats=options.repeats, tolerance=1e-3, amount=options.batch_size, unit="images"
    )
    print(write_results(f"resnet_step-{backend}", {"backend": backend, **vars(options), "steps": times}))


def _our_step(model, compiler: str | None = None) -> Callable:
    from diptych import backends
    from diptych.core.training.objectives import Objective
    from diptych.core.training.optimizers import SGD
    from diptych.engine.training.terms.classification import Classification

    objective = Objective({"classification": Classification()})
    step = backends.train_step(model, objective, SGD(RATE, momentum=MOMENTUM), compiler=compiler)
    return lambda batch: float(step(batch)["loss"])


def _timm_step(ours, *, compiled: bool = False) -> Callable:
    import timm
    import torch
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as folder:
        ours.save_to_preset(folder, format="timm")
        weights = load_file(Path(folder) / "model.safetensors")
    model = timm.create_model("resnetv2_50x1_bit", num_classes=len(ours.config.classes))
    model.load_state_dict(weights)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
    called = torch.compile(model) if compiled else model

    def step(batch):
        images = torch.from_numpy(batch["image"]).float() / 127.5 - 1
        logits = called(images.permute(0, 3, 1, 2))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(batch["label"]).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


if __name__ == "__main__":
    main()

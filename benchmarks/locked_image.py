"""Training steps with a locked image tower against the same steps on pictures that were embedded once, in one run.

    KERAS_BACKEND=jax python -m benchmarks.locked_image
    KERAS_BACKEND=torch python -m benchmarks.locked_image --image B/16 --image-size 224 --batch-size 32

Both train a fresh text tower, from the same weights and on the same batches; no time is reported unless their losses
agree to 1e-6. They are timed in turn, step by step, so that whatever else the machine does hits both.
"""

import argparse
import statistics
import time

import numpy as np

from benchmarks.device import device_name, write_results
from benchmarks.step_time import recipe_step
from diptych.backends.selection import select_backend


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default="L/16", help="size of the image tower")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--text", default="B", help="size of the text tower")
    parser.add_argument("--context-length", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2, help="timed steps of each")
    options = parser.parse_args()
    backend = select_backend()
    import keras

    from diptych.core.training.objectives import to_model_range
    from diptych.core.training.patterns import freeze
    from diptych.models import SigLIP
    from diptych.models.siglip.presets import siglip_config

    config = siglip_config(
        options.image, image_size=options.image_size, text_size=options.text, context_length=options.context_length
    )
    rng, side = np.random.default_rng(0), options.image_size
    images = rng.integers(0, 256, (options.batch_size, side, side, 3), dtype=np.uint8)
    text = rng.integers(0, config.text.vocab_size, (options.batch_size, options.context_length), dtype=np.int32)
    models = [SigLIP(config, seed=0) for _ in range(2)]  # a step takes hold of its model's weights
    for model in models:
        freeze(model, ["image/.*"])
    tower = models[1].image_encoder
    pooled = keras.Model(tower.input, tower.output["pooled"])
    features = keras.ops.convert_to_numpy(pooled.predict_on_batch(to_model_range(images)))
    batches = {"tower": {"image": images, "text": text}, "vectors": {"image_features": features, "text": text}}
    steps = dict(zip(batches, map(recipe_step, models), strict=True))
    losses = {name: [step(batches[name]) for _ in range(2)] for name, step in steps.items()}
    if not np.allclose(losses["tower"], losses["vectors"], rtol=1e-6, atol=0.0):
        raise SystemExit(f"The losses differ, so no time is reported: {losses}")

    seconds: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in steps}
    for _ in range(options.steps):
        for name, step in steps.items():
            wall, cpu = time.perf_counter(), time.process_time()
            step(batches[name])
            seconds[name]["wall"].append(time.perf_counter() - wall)
            seconds[name]["cpu"].append(time.process_time() - cpu)
    print(f"{backend}, image {options.image} at {side} px, text {options.text}, {device_name()}: losses {losses}")
    taken, ratios = {}, {}
    for clock in ("wall", "cpu"):
        taken[clock] = {name: statistics.median(times[clock]) for name, times in seconds.items()}
        ratios[clock] = taken[clock]["tower"] / taken[clock]["vectors"]
        shown = "   ".join(f"{name} {1 / taken[clock][name]:.3f}" for name in steps)
        print(f"  {clock:<5} {shown} steps a second: {ratios[clock]:.1f} times as many with vectors")
    results = {"backend": backend, **vars(options), "seconds_a_step": taken, "ratio": ratios, "losses": losses}
    slug = f"{options.image}-{options.text}-{options.batch_size}".replace("/", "").lower()
    print(write_results(f"locked_image-{backend}-{slug}", results))


if __name__ == "__main__":
    main()

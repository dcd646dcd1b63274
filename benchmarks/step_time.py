"""A training step of the recipe against a hand-written one of the same model in the native framework, in one run.

    KERAS_BACKEND=jax python -m benchmarks.step_time --size tiny
    KERAS_BACKEND=torch python -m benchmarks.step_time --size B/16 --batch-size 32 --steps 3
    KERAS_BACKEND=torch python -m benchmarks.step_time --compile

Both start from the same weights and see the same batches; no time is reported unless their losses agree. They are timed
in turn, step by step, so that whatever else the machine does hits both.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from benchmarks.device import device_name, write_results
from diptych.backends.selection import select_backend

SIZES = {
    "tiny": {"width": 128, "depth": 2, "mlp_dim": 512, "num_heads": 2, "patch_size": 12, "image_size": 48},
    "S/16": {"width": 384, "depth": 12, "mlp_dim": 1536, "num_heads": 6, "patch_size": 16, "image_size": 224},
    "B/16": {"width": 768, "depth": 12, "mlp_dim": 3072, "num_heads": 12, "patch_size": 16, "image_size": 224},
}
RATE, DECAY = 1e-3, 1e-4


def config_of(size: str):
    """The tower pair of a size, in SigLIP's own arrangement."""
    from diptych.models import SigLIPConfig, TextConfig, VisionConfig

    vision = VisionConfig(**SIZES[size])
    same = {field: SIZES[size][field] for field in ("width", "depth", "mlp_dim", "num_heads")}
    context, vocab = (16, 8_000) if size == "tiny" else (64, 32_000)
    text = TextConfig(**same, context_length=context, vocab_size=vocab, embed_dim=vision.width)
    return SigLIPConfig(vision=vision, text=text, init_logit_bias=-5.0)


def recipe_step(model, compiler: str | None = None) -> Callable:
    """The recipe's step, AdamW with clipping: batch -> loss as a number."""
    from diptych import backends
    from diptych.core.training.objectives import Objective
    from diptych.core.training.optimizers import AdamW
    from diptych.engine.training.terms.contrastive import Contrastive

    optimizer = AdamW(RATE, weight_decay=DECAY)
    objective = Objective({"contrastive": Contrastive(backends.sigmoid_loss)})
    step = backends.train_step(model, objective, optimizer, clip_norm=1.0, compiler=compiler)
    return lambda batch: float(step(batch)["loss"])


def native_step(backend: str, weights: dict[str, np.ndarray], config) -> Callable:
    """The hand-written step: batch -> loss as a number."""
    if backend == "jax":
        import jax.numpy as jnp

        from benchmarks.native import jax_siglip

        parameters = {name: jnp.array(array) for name, array in weights.items()}
        zeros = [{name: jnp.zeros_like(x) for name, x in parameters.items()} for _ in range(2)]
        state = (parameters, *zeros, jnp.zeros(()))

        def step(batch):
            nonlocal state
            state, loss = jax_siglip.train_step(state, batch, config=config, rate=RATE, decay=DECAY)
            return float(loss)

        return step
    if backend == "torch":
        return _torch_step(weights, config)
    import tensorflow as tf

    from benchmarks.native import tensorflow_siglip

    graph = tensorflow_siglip.train_step(
        {name: tf.Variable(array) for name, array in weights.items()}, config, rate=RATE, decay=DECAY
    )
    return lambda batch: float(graph({name: tf.constant(array) for name, array in batch.items()}))


def _torch_step(weights, config) -> Callable:
    import torch

    from benchmarks.native import torch_siglip

    model = torch_siglip.SigLIP(config)
    model.load(weights)
    kernels = [p for path, p in _torch_parameters(model, weights) if path.endswith("kernel")]
    others = [p for path, p in _torch_parameters(model, weights) if not path.endswith("kernel")]
    groups = [{"params": kernels, "weight_decay": DECAY / RATE}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), eps=1e-8, fused=True)

    def step(batch):
        images = torch.from_numpy(batch["image"]).float() / 127.5 - 1
        loss = model.loss(images, torch.from_numpy(batch["text"]).long())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss.detach())

    return step


def _torch_parameters(model, weights):
    from benchmarks.native.torch_siglip import torch_name

    named = dict(model.named_parameters())
    return [(path, named[torch_name(path)]) for path in weights]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=12, help="timed steps of each")
    parser.add_argument("--compile", action="store_true", help="on torch, time the recipe's compiled step, too")
    options = parser.parse_args()
    backend = select_backend()
    import keras

    from diptych.models import SigLIP

    config = config_of(options.size)
    model = SigLIP(config, seed=0)
    weights = {v.path: np.array(keras.ops.convert_to_numpy(v.value)) for v in model.weights}
    rng = np.random.default_rng(0)
    side, text = config.vision.image_size, config.text
    batch = {
        "image": rng.integers(0, 256, (options.batch_size, side, side, 3), dtype=np.uint8),
        "text": rng.integers(0, text.vocab_size, (options.batch_size, text.context_length), dtype=np.int32),
    }
    steps = {"native": native_step(backend, weights, config), "recipe": recipe_step(model)}
    if options.compile:
        steps["compiled"] = recipe_step(SigLIP(config, seed=0), compiler="inductor")
    losses = {name: [step(batch) for _ in range(2)] for name, step in steps.items()}
    if not all(np.allclose(losses["native"], found, rtol=1e-4) for found in losses.values()):
        raise SystemExit(f"The losses differ, so no time is reported: {losses}")

    seconds: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in steps}
    for _ in range(options.steps):
        for name, step in steps.items():
            wall, cpu = time.perf_counter(), time.process_time()
            step(batch)
            seconds[name]["wall"].append(time.perf_counter() - wall)
            seconds[name]["cpu"].append(time.process_time() - cpu)
    results = {"backend": backend, "size": options.size, "batch_size": options.batch_size, "steps": options.steps}
    print(f"{backend}, {options.size}, batch {options.batch_size}, {device_name()}")
    for clock in ("wall", "cpu"):
        for summary in (min, statistics.median):
            taken = {name: summary(seconds[name][clock]) for name in steps}
            ratios = {name: time / taken["native"] for name, time in taken.items()}
            key = f"{clock} {summary.__name__}"
            results[key] = {f"{name}_ms": time * 1e3 for name, time in taken.items()} | {"ratio": ratios["recipe"]}
            shown = [f"{name} {time * 1e3:9.1f} ms ({ratios[name]:.3f})" for name, time in taken.items()]
            print(f"  {key:<12} {'   '.join(shown)}")
    name = f"step_time-{backend}-{options.size.replace('/', '')}-{options.batch_size}".lower()
    print(write_results(name, results))


if __name__ == "__main__":
    main()

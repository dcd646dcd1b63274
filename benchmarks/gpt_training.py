"""Tokens a second of GPT training: ours beside transformers' GPT-1 on torch, and a GPT written in plain jax on jax.

    KERAS_BACKEND=torch python -m benchmarks.gpt_training --compile
    KERAS_BACKEND=jax python -m benchmarks.gpt_training

A step is next-token loss over windows, gradients and AdamW, in float32 without dropout, at equal sizes and with the
same weights: 12 blocks of width 256 over 4,096 tokens in windows of 256, 10.6 M parameters, as nanoGPT's for
Shakespeare. No time is reported unless the losses of the first steps agree to 1e-4. Ours is the step of `recipes.gpt1`.
"""

import argparse
import tempfile
from collections.abc import Callable

import numpy as np

from benchmarks.contest import training_steps
from benchmarks.device import write_results
from diptych.backends.selection import select_backend

RATE, BETAS = 1e-3, (0.9, 0.95)


def main() -> None:
    """Measure, print and write results/<device>/gpt_training-<backend>.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=8, help="windows")
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=7, help="timed steps of each")
    parser.add_argument("--compile", action="store_true", help="on torch, compiled steps of both, too")
    parser.add_argument("--tiny", action="store_true", help="a few thousand parameters, without results")
    options = parser.parse_args()
    backend = select_backend()
    from diptych.models.gpt.config import GPTConfig
    from diptych.models.siglip.student import Student

    size = {"width": 256, "depth": options.depth, "mlp_dim": 1024, "num_heads": 8, "vocab_size": 4_096}
    config = GPTConfig(**size, context_length=256)
    if options.tiny:
        config = GPTConfig(width=16, depth=1, mlp_dim=64, num_heads=2, vocab_size=64, context_length=16)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (options.batch_size, config.context_length))
    model = Student(config)
    peer = _jax_step(model) if backend == "jax" else _transformers_step(model)
    steps = {"peer": peer, "diptych": _our_step(model)}
    rivals = dict.fromkeys(steps, "peer")
    if options.compile:
        steps |= {
            "peer, compiled": _transformers_step(Student(config), compiled=True),
            "diptych, compiled": _our_step(Student(config), compiler="inductor"),
        }
        rivals |= {"peer, compiled": "peer", "diptych, compiled": "peer, compiled"}
    ids = ids.astype(np.int32)
    times = training_steps(steps, rivals, ids, repeats=options.repeats, tolerance=1e-4, amount=ids.size, unit="tokens")
    if not options.tiny:
        print(write_results(f"gpt_training-{backend}", {"backend": backend, "steps": times, "tokens": ids.size}))


def _our_step(student, compiler: str | None = None) -> Callable:
    """The recipe's step, AdamW: windows -> loss as a number."""
    from diptych import backends
    from diptych.core.training.objectives import Objective
    from diptych.core.training.optimizers import AdamW
    from diptych.engine.training.terms.language import Language

    objective = Objective({"language": Language()})
    step = backends.train_step(student, objective, AdamW(RATE, weight_decay=0.0), compiler=compiler)

    def call(ids):
        return float(step({"token_ids": ids, "token_weights": np.ones(ids.shape, np.float32)})["loss"])

    return call


def _jax_step(student) -> Callable:
    import jax.numpy as jnp
    import keras

    from benchmarks.native import jax_gpt

    arrays = {w.path: jnp.array(keras.ops.convert_to_numpy(w.value)) for w in student.towers.weights}
    zeros = [{name: jnp.zeros_like(x) for name, x in arrays.items()} for _ in range(2)]
    state = (arrays, *zeros, jnp.zeros(()))

    def step(ids):
        nonlocal state
        state, loss = jax_gpt.train_step(state, ids, config=student.towers.config, rate=RATE)
        return float(loss)

    return step


def _transformers_step(student, *, compiled: bool = False) -> Callable:
    import torch
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        student.towers.save_to_preset(folder, format="transformers")
        model = transformers.OpenAIGPTLMHeadModel.from_pretrained(folder).train()
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=BETAS, weight_decay=0.0, fused=True)
    called = torch.compile(model) if compiled else model

    def step(ids):
        ids = torch.from_numpy(ids).long()
        loss = called(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


if __name__ == "__main__":
    main()

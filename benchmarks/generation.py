"""Tokens a second and the time to the first one: ours and transformers, with the same random weights and prompts.

    KERAS_BACKEND=torch python -m benchmarks.generation
    KERAS_BACKEND=torch python -m benchmarks.generation --models gemma --batch-sizes 1 --repeats 9

Ours is `model.generate` on the running backend (torch eager; on jax and tensorflow the loop compiled once),
transformers is torch, `generate` with its own cache. Both take the likeliest tokens behind the same prompts, end at no
token, and use as many threads, in turn. "gemma" is a Gemma of 97 M parameters, "paligemma" the same behind a tower of
22 M at 224 px. No time is reported unless both write the same tokens.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.contest import take_turns
from benchmarks.device import RESULTS, write_results
from diptych.backends.selection import select_backend
from diptych.core.training.card import machine

MODELS = ("gemma", "paligemma")
PROMPT = 32


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and write results/<device>/generation-<backend>.json."""
    options = _options(arguments)
    backend = select_backend()
    import torch

    torch.set_num_threads(options.threads or torch.get_num_threads())
    rows = {}
    print(f"{backend}, {options.tokens} tokens behind prompts of {PROMPT}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            ours, theirs, inputs = _models(name, Path(folder) / name, tiny=options.tiny)
            for batch in options.batch_sizes:
                given = {key: x[:batch] for key, x in inputs(batch).items()}
                for steps in (options.tokens, 1):
                    row = _contest(ours, theirs, given, steps, options)
                    rows[f"{name}, batch {batch}, {'first token' if steps == 1 else f'{steps} tokens'}"] = row
    results = {"backend": backend, "tokens": options.tokens, "prompt": PROMPT, "rows": rows, **machine()}
    if not options.tiny:
        print(write_results(f"generation-{backend}", results, options.out))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--tokens", type=int, default=64, help="that are written")
    parser.add_argument("--threads", type=int, help="of torch; by default its own choice")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each")
    parser.add_argument(
        "--tiny", action="store_true", help="models of a few thousand parameters, and no results written"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    return parser.parse_args(arguments)


def _contest(ours: Callable, theirs: Callable, given: dict, steps: int, options) -> dict[str, float]:
    batch = len(given["token_ids"])
    contestants = {"diptych": lambda: ours(given, steps), "transformers": lambda: theirs(given, steps)}
    tokens = {name: np.asarray(write()) for name, write in contestants.items()}
    if not np.array_equal(tokens["diptych"], tokens["transformers"]):
        share = float(np.mean(tokens["diptych"] == tokens["transformers"]))
        raise SystemExit(f"The tokens differ ({share:.1%} are equal), so no time is reported.")
    times = take_turns(contestants, dict.fromkeys(contestants, "transformers"), repeats=options.repeats)
    found = {f"{name}_ms": row["ms"] for name, row in times.items()}
    found |= {"ratio": times["diptych"]["ratio"], "cpu_ratio": times["diptych"]["cpu_ratio"]}
    rates = [1e3 * batch * steps / row["ms"] for row in times.values()]
    said = f"{rates[0]:7.1f} and {rates[1]:7.1f} tokens a second"
    if steps == 1:
        said = f"{times['diptych']['ms']:7.1f} and {times['transformers']['ms']:7.1f} ms to the first token"
    print(
        f"  {given.get('name', '')}batch {batch}: ours and transformers {said}; our time is {found['ratio']:.2f} of "
        f"theirs, {found['cpu_ratio']:.2f} in CPU time",
        flush=True,
    )
    return found


def middle_gemma():
    """The configuration of a Gemma of 97 M parameters."""
    from diptych.models import GemmaConfig

    return GemmaConfig(
        width=640,
        depth=12,
        mlp_dim=2560,
        num_heads=8,
        num_key_value_heads=1,
        head_dim=128,
        vocab_size=32_000,
        context_length=1024,
    )


def _models(name: str, folder: Path, *, tiny: bool) -> tuple[Callable, Callable, Callable]:
    """What writes, ours and theirs: (inputs, steps) -> tokens; and what makes inputs of a batch."""
    from diptych.models import Gemma, GemmaConfig, PaliGemma, PaliGemmaConfig
    from diptych.models.siglip.config import VisionConfig

    text = middle_gemma()
    vision = VisionConfig(width=384, depth=12, mlp_dim=1536, num_heads=6, patch_size=16, image_size=224, pooling="gap")
    if tiny:
        text = GemmaConfig(
            width=16,
            depth=2,
            mlp_dim=32,
            num_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            vocab_size=300,
            context_length=128,
        )
        vision = VisionConfig(width=16, depth=1, mlp_dim=24, num_heads=2, patch_size=16, image_size=32, pooling="gap")
    rng = np.random.default_rng(0)
    model = Gemma(text) if name == "gemma" else PaliGemma(PaliGemmaConfig(vision=vision, text=text))
    for variable in model.weights:
        if variable.path.startswith("projector/kernel"):
            variable.assign(rng.normal(0, 0.05, variable.shape).astype("float32"))
    model.save_to_preset(folder)
    if name == "gemma":
        ours, theirs = _texts(model, folder)
    else:
        ours, theirs = _answers(model, folder)

    def inputs(batch: int) -> dict[str, np.ndarray]:
        given = {"token_ids": rng.integers(3, text.vocab_size - 200, (batch, PROMPT)).astype(np.int32)}
        if name == "paligemma":
            side = vision.image_size
            given["images"] = rng.uniform(-1, 1, (batch, side, side, 3)).astype(np.float32)
        return given

    return ours, theirs, inputs


def _texts(model, folder: Path) -> tuple[Callable, Callable]:
    import transformers

    peer = transformers.GemmaForCausalLM.from_pretrained(folder).eval()

    def ours(given, steps: int):
        return _numpy(_compiled(model, steps)(given["token_ids"]))

    def theirs(given, steps: int):
        return _transformers_tokens(peer, steps, input_ids=_tensor(given["token_ids"]).long())

    return ours, theirs


def _answers(model, folder: Path) -> tuple[Callable, Callable]:
    import transformers

    peer = transformers.PaliGemmaForConditionalGeneration.from_pretrained(folder).eval()
    generators: dict[int, Callable] = {}

    def ours(given, steps: int):
        from diptych.models.paligemma.generation import AnswerGenerator

        if steps not in generators:
            generators[steps] = AnswerGenerator(model, steps=steps, eos_id=None)
        mask = np.ones(given["token_ids"].shape, bool)
        return _numpy(generators[steps].predict_on_batch({**given, "token_mask": mask}))

    def theirs(given, steps: int):
        batch, length = given["token_ids"].shape
        picture = np.full((batch, model.config.vision.num_patches), peer.config.image_token_id)
        return _transformers_tokens(
            peer,
            steps,
            input_ids=_tensor(np.concatenate([picture, given["token_ids"]], axis=1)).long(),
            pixel_values=_tensor(given["images"].transpose(0, 3, 1, 2)),
            token_type_ids=_tensor(np.zeros((batch, picture.shape[1] + length), np.int64)),
        )

    return ours, theirs


_COMPILED: dict[int, Callable] = {}


def _compiled(model, steps: int) -> Callable:
    """`model.generate` for texts, on jax and tensorflow compiled once for each shape."""
    import keras

    def write(ids):
        return model.generate(ids, steps=steps, eos_id=None)

    if keras.config.backend() == "torch":
        return write
    if steps not in _COMPILED:
        if keras.config.backend() == "jax":
            import jax

            _COMPILED[steps] = jax.jit(write)
        else:
            import tensorflow as tf

            _COMPILED[steps] = tf.function(write, jit_compile=True)
    return _COMPILED[steps]


def _transformers_tokens(peer, steps: int, **inputs):
    import torch

    with torch.inference_mode():
        found = peer.generate(
            **inputs,
            attention_mask=torch.ones_like(inputs["input_ids"]),
            max_new_tokens=steps,
            min_new_tokens=steps,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    return found[:, inputs["input_ids"].shape[1] :].numpy()


def _tensor(array: np.ndarray):
    import torch

    return torch.from_numpy(np.ascontiguousarray(array))


def _numpy(tensor) -> np.ndarray:
    import keras

    return keras.ops.convert_to_numpy(tensor)


if __name__ == "__main__":
    main()

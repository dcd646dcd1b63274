"""What a run will cost, before it starts."""

from diptych import backends
from diptych.core.training.recipe import Recipe
from diptych.models import SigLIPConfig
from diptych.models.counting import count_flops, count_parameters, estimate_memory

_SLOTS = {"adamw": 2, "adafactor": 1.01, "lion": 1}


def plan_text(recipe: Recipe, config: SigLIPConfig) -> str:
    """Parameters, memory, FLOPs and steps, as lines for people. Nothing is allocated for it."""
    optimization, model = recipe.optimization, recipe.model
    parameters = count_parameters(config)
    flops = count_flops(config, batch_size=optimization.batch_size, rematerialize=model.grad_checkpointing)
    memory = estimate_memory(
        config,
        batch_size=optimization.batch_size // optimization.accum_freq,
        optimizer_slots=_SLOTS[optimization.optimizer],
        ema=optimization.ema_decay is not None,
        rematerialize=model.grad_checkpointing,
        dtype="mixed_bfloat16" if model.precision == "bfloat16" else "float32",
    )
    step = flops["training"] * optimization.batch_size
    lines = {
        "backend": backends.name(),
        "image tower": f"{parameters['image']:,} parameters, {flops['image'] / 1e9:,.3g} GFLOP an image forward",
        "text tower": f"{parameters['text']:,} parameters, {flops['text'] / 1e9:,.3g} GFLOP a text forward",
        "parameters": f"{parameters['total']:,}",
        "steps": f"{recipe.steps:,} of {optimization.batch_size:,} pairs, {recipe.steps * optimization.batch_size:,} pairs in all",
        "FLOPs": f"{step / 1e9:,.4g} GFLOP a step, {step * recipe.steps / 1e15:,.4g} PFLOP in all",
        "memory": f"about {memory['total'] / 2**30:,.2f} GiB: "
        + ", ".join(f"{name} {size / 2**30:,.2f}" for name, size in memory.items() if name != "total" and size),
    }
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines.items())

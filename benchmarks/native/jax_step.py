"""The statements of jax's compiler about a training step."""


def temporary_bytes(step, batch) -> int:
    """Memory of the compiled step beside its arguments and results; the step must have been called once."""
    fixed = [variable.value for variable in step._fixed]
    return step._compiled.lower(step._state, fixed, batch).compile().memory_analysis().temp_size_in_bytes

"""The teacher of self-distillation: a copy of the student's image tower and heads that follows them slowly."""

from collections.abc import Mapping

from diptych.core.training.ema import Ema


class EmaTeacher(Ema):
    """teacher <- momentum · teacher + (1 - momentum) · student, after every optimizer step; it has no gradients and no
    slots.

    The momentum is constant: one that rises to 1 would stop the teacher from learning what captions teach the student
    (SILC, Naeem et al. 2023).

    Args:
        student, teacher: parts by name, such as {"image": tower, "global_head": head}: built Keras layers or models
            with the same weights in the same order. The teacher starts as a copy of the student and is no longer
            trained.
        momentum: in (0, 1); see `momentum_at`.

    Raises:
        ValueError: for parts that one of them lacks, or weights of other shapes.
    """

    def __init__(self, student: Mapping, teacher: Mapping, *, momentum: float):
        if student.keys() != teacher.keys():
            raise ValueError(f"Student and teacher differ in parts: {sorted(student)} and {sorted(teacher)}.")
        followed, following = [], []
        for name, part in student.items():
            mine, theirs = list(part.weights), list(teacher[name].weights)
            shapes = [[tuple(weight.shape) for weight in weights] for weights in (mine, theirs)]
            if shapes[0] != shapes[1]:
                odd = next((pair for pair in zip(*shapes, strict=False) if pair[0] != pair[1]), None)
                detail = f"a weight of shape {odd[0]} meets one of {odd[1]}" if odd else "one has more weights"
                raise ValueError(
                    f"The teacher's {name} does not fit the student's: {detail}. A teacher has the student's own "
                    "sizes: build it from the same configuration."
                )
            followed += mine
            following += theirs
        super().__init__(followed, decay=momentum, averages=following)
        for variable in following:
            variable.trainable = False
        self.parts = dict(teacher)
        self.restart()


def momentum_at(batch_size: int, momentum: float, meant_for: int | None = None) -> float:
    """The momentum of a step of `batch_size` examples: as given, or, where it is meant for batches of another size, to
    the power of batch_size / meant_for, which is the same half-life in examples.

    SigLIP 2 inherits SILC's momentum without naming it, which literally is the same number at any batch size
    (docs/siglip2.md, register of choices).
    """
    return momentum if meant_for is None else momentum ** (batch_size / meant_for)

"""The stages in the order of their worth, with their limits, and the sizes of a GPU and of a rehearsal on a CPU."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A process of its own.

    name: "<backend> <what>".
    seconds: at most; fewer where the whole command's time is nearly over.
    asked_for: whether it runs only when it is named.
    """

    name: str
    seconds: float
    asked_for: bool = False

    @property
    def backend(self) -> str:
        return self.name.partition(" ")[0]


STAGES = (
    Stage(name="torch ceilings", seconds=45),
    Stage(name="torch compile", seconds=50),
    Stage(name="torch block", seconds=60),
    Stage(name="torch loss", seconds=75),
    Stage(name="torch million", seconds=45),
    Stage(name="torch small", seconds=75),
    Stage(name="jax block", seconds=60),
    Stage(name="jax loss", seconds=60),
    Stage(name="jax small", seconds=40),
    Stage(name="torch tests", seconds=80),
    Stage(name="jax tests", seconds=80),
    Stage(name="torch softmax", seconds=45),
    Stage(name="jax softmax", seconds=40),
    Stage(name="torch widths", seconds=40),
    Stage(name="jax widths", seconds=40),
    Stage(name="tensorflow loss", seconds=60),
    Stage(name="tensorflow tests", seconds=80),
    Stage(name="torch encoding", seconds=90),
    Stage(name="jax encoding", seconds=60),
    Stage(name="torch agreement", seconds=900, asked_for=True),
    Stage(name="jax agreement", seconds=900, asked_for=True),
)

FAULTS = (Stage(name="torch hangs", seconds=3), Stage(name="torch crashes", seconds=10))
"""What a rehearsal has beside: neither may keep the stages after it from running."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What the stages measure.

    square: rows of the plain product; copied: bytes of the plain copy.
    width: of the embeddings; widths: those of the last stages; tested_widths: those of the tests.
    ceilings: rows of the products that are timed alone.
    blocks: rows and columns of the kernels alone; checked: the rows and columns on which they are judged.
    mosaic_blocks, mosaic_checked: the same of jax's kernel; what is checked is a multiple of all tiles' sides.
    batch, million, small: pairs of the whole loss, with the most important small one first.
    rounds: of contestants in turn; seconds: what each has in a round.
    host_calls: in a row, not waited for, whose time on the host is taken.
    heating: seconds of products before anything is timed.
    compilers: processes that compile at once.
    interpreted: whether kernels run in their interpreters.
    """

    square: int = 8192
    copied: int = 2**32
    width: int = 768
    widths: tuple[int, ...] = (512, 1152)
    tested_widths: tuple[int, ...] = (8, 12, 20, 24, 64, 200)
    blocks: tuple[int, ...] = (8192, 16_384)
    ceilings: tuple[int, ...] = (8192, 8448, 16_384, 16_896)
    checked: tuple[int, int] = (1019, 1153)
    mosaic_blocks: int = 8192
    mosaic_checked: int = 768
    batch: int = 65_536
    million: int = 2**20
    small: tuple[int, ...] = (4096, 512, 8192, 2048)
    rounds: int = 5
    seconds: float = 0.05
    host_calls: int = 50
    heating: float = 1.5
    compilers: int = 12
    interpreted: bool = False


GPU = Sizes()
REHEARSAL = Sizes(
    square=64,
    copied=2**16,
    width=64,
    widths=(32,),
    tested_widths=(8,),
    blocks=(128,),
    ceilings=(128,),
    checked=(101, 203),
    mosaic_blocks=64,
    mosaic_checked=64,
    batch=128,
    million=130,
    small=(64,),
    rounds=1,
    seconds=0.0,
    host_calls=1,
    heating=0.0,
    compilers=1,
    interpreted=True,
)

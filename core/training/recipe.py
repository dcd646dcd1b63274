"""What a run is made of: one frozen, complete value. A recipe is a function that returns one.

The command line shows these fields as flags without their group, under the names that open_clip and big_vision users know.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

Alias = tyro.conf.arg


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where pairs come from and how they are read."""

    train_data: str = "emoji"
    """"emoji" for the embedded data ("scenes", "wide_scenes" or "noisy_scenes" of it, for `recipes.siglip2`); or a folder of images with
    captions, WebDataset shards ("shards/{000..010}.tar"), Parquet files, COCO's JSON ("coco:annotations.json:images/"), or any of these with boxes
    that `recipes.label` found ("labelled:regions.jsonl:photos/")."""
    val_data: str | None = None
    """Pairs to evaluate on, in any of these forms. By default the embedded data's held-out designer and concepts, or
    `val_fraction` of your own data."""
    val_fraction: float = 0.05
    """Share of your own records held out for evaluation where val_data is not given."""
    tokenizer: Path | None = None
    """A SentencePiece .model or a tokenizer.json; by default the embedded one (8,000 pieces, 36 languages)."""
    context_length: int | None = None
    """Tokens a caption, end-of-text included. By default 12 for the embedded data, whose names are short, else 64."""
    english_share: float | None = None
    """Share of captions drawn in English where a record has several languages. By default 0.15 for the embedded data, else
    captions are drawn evenly."""
    captions_per_image: int | None = None
    """Captions of an image in one batch; the loss is the mean over them. By default 6 for the embedded data, else 1."""
    opening_examples: int | None = None
    """Examples at the start with one caption an image, in English alone. By default three eighths of the run for the
    embedded data, else none."""
    augment: bool = True
    """Random zoom, shift, rotation and colour of the training images; SigLIP itself only resizes."""
    workers: int = 0
    """Processes that decode; 0 for one background thread."""
    cache_megabytes: float = 512.0
    """Memory for decoded images of small data sets."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """Which towers."""

    model: str = "emoji"
    """A preset: emoji, siglip_b16_224, siglip2_base_patch16_256, ... (`diptych.models.presets`)."""
    image_size: int | None = None
    """Side of the square images in pixels; by default the preset's."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 computes in bfloat16; weights, optimizer and loss stay float32."""
    grad_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    init_logit_scale: float = 10.0
    """Initial temperature t."""
    init_logit_bias: float | None = None
    """Initial bias b; None for log(p / (1 - p)) with p = 1 / batch_size. SigLIP's -10 suits batches of 20,000. With the softmax
    loss a model has no bias."""
    lock: tuple[str, ...] = ()
    """Patterns of weights that stay as they are, such as "image/.*" (locked-image tuning)."""


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """How weights move."""

    examples: int
    """Pairs to train on, counting repetitions."""
    batch_size: int
    accum_freq: int = 1
    """Pieces a batch is embedded in; every pair of the batch is contrasted all the same."""
    optimizer: Literal["adamw", "adafactor", "lion"] = "adamw"
    learning_rate: Annotated[float, Alias(aliases=["--lr"])] = 1e-3
    weight_decay: Annotated[float, Alias(aliases=["--wd"])] = 1e-4
    """As in the paper: not multiplied by the learning rate (1e-4 here is 0.1 in torch's AdamW at rate 1e-3)."""
    beta_2: float = 0.95
    """Decay of the second moment (AdamW, Adafactor's cap)."""
    schedule: Literal["cosine", "linear"] = "cosine"
    warmup_examples: int | None = None
    """Examples of linear warm-up; by default a twentieth of the run."""
    learning_rate_multipliers: Mapping[str, float] = field(default_factory=dict)
    """Pattern of weights -> factor on their rate."""
    weight_decay_multipliers: Mapping[str, float] = field(default_factory=dict)
    """Pattern of weights -> factor on their decay; 0 to leave a pre-trained tower undecayed."""
    grad_clip_norm: float | None = 1.0
    ema_decay: float | None = None
    """Decay of a moving average of the weights, which is then evaluated; None for none."""
    loss: Literal["sigmoid", "softmax"] = "sigmoid"
    """SigLIP's sigmoid over all pairs of a batch, or CLIP's softmax over each row and column."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """How the run is carried out and shown."""

    run_dir: Path = Path("runs/siglip")
    """Where everything of the run is kept; the same command again resumes it."""
    seed: int = 0
    evaluate_every: int | None = None
    """Examples between evaluations; by default a twelfth of the run, and at least 20 steps."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; by default one a minute."""
    log_every: int = 1
    """Steps between rows of metrics.jsonl."""
    data_parallel: int = 1
    """Devices of this machine that share each batch, on jax: each holds all weights, and the sigmoid loss goes round them in a ring."""
    loss_implementation: str | None = None
    """Implementation of the sigmoid loss, such as triton, pallas_gpu, xla or reference; by default the fastest here."""
    tensorboard: bool = True
    """Write the metrics as TensorBoard files, too."""
    peak_tflops: float | None = None
    """Peak of the device in TFLOP/s at the precision used, to show utilisation."""
    report: bool = True
    """Write report.html at the end."""
    dry_run: bool = False
    """Print parameters, memory, FLOPs and steps, and stop."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run, complete."""

    data: Data
    model: Model
    optimization: Optimization
    run: Run

    def __post_init__(self):
        check_options(self.data, self.model, self.optimization, self.run)

    @property
    def steps(self) -> int:
        return self.optimization.examples // self.optimization.batch_size


def check_options(data: Data, model: Model, optimization: Optimization, run: Run) -> None:
    """Raises ValueError where options exclude each other or lie outside their range."""
    for condition, message in (
        (
            optimization.batch_size >= 2,
            f"--batch-size must be at least 2 (one has no negatives), got {optimization.batch_size}.",
        ),
        (
            optimization.examples >= optimization.batch_size,
            f"--examples must be at least one batch ({optimization.batch_size}), got {optimization.examples}.",
        ),
        (
            optimization.accum_freq >= 1 and optimization.batch_size % optimization.accum_freq == 0,
            f"--accum-freq must divide --batch-size, got {optimization.accum_freq} for {optimization.batch_size}.",
        ),
        (
            run.data_parallel >= 1 and optimization.batch_size % (optimization.accum_freq * run.data_parallel) == 0,
            f"--data-parallel deals a batch out evenly, each of its --accum-freq pieces too; got {run.data_parallel} devices for "
            f"{optimization.batch_size} examples in {optimization.accum_freq} pieces.",
        ),
        (
            0 <= (optimization.warmup_examples or 0) < optimization.examples,
            f"--warmup-examples must be less than --examples, got {optimization.warmup_examples} of {optimization.examples}.",
        ),
        *(
            (given is None or given >= 1, f"{flag} must be at least 1, got {given}.")
            for flag, given in (
                ("--context-length", data.context_length),
                ("--captions-per-image", data.captions_per_image),
                ("--image-size", model.image_size),
            )
        ),
        (
            optimization.loss == "sigmoid" or model.init_logit_bias is None,
            f"--init-logit-bias is the sigmoid loss's, and the softmax loss has no bias; got {model.init_logit_bias} "
            "for it. Leave it out, or choose --loss sigmoid.",
        ),
        (0 < data.val_fraction < 1, f"--val-fraction lies between 0 and 1, got {data.val_fraction}."),
    ):
        if not condition:
            raise ValueError(message)

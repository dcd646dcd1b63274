"""A run as one frozen, complete value. A recipe is a function that returns one.

The command line shows these fields as flags without their group, under the names that open_clip and big_vision users
know.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from diptych.core.data.decoder import Decode
from diptych.core.data.sources.reading import TO_TRAIN, Reading
from diptych.core.harmless import HARMLESS, harmless
from diptych.core.training.option_checks import check_options
from diptych.core.training.stages import Stage, check_stages
from diptych.core.training.term_options import (
    Answering,
    Captioning,
    Classification,
    Distillation,
    Language,
    Prompted,
)

Flag = tyro.conf.arg


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where pairs come from and how they are read."""

    train_data: str = "emoji"
    """"emoji" for the embedded data ("scenes", "wide_scenes" or "noisy_scenes" of it, for `recipes.siglip2`); or a
    folder of images with captions, a list of them (photos/train.csv), WebDataset shards ("shards/{000..010}.tar"),
    Parquet files, COCO's JSON ("coco:annotations.json:images/"), or any of these with boxes that `recipes.label` found
    ("labelled:regions.jsonl:photos/"); docs/data.md."""
    val_data: str | None = None
    """Pairs to evaluate on, in any of these forms. By default the embedded data's held-out designer and concepts, or
    `val_fraction` of your own data."""
    val_fraction: float = 0.05
    """Share of your own records held out for evaluation where val_data is not given."""
    tokenizer: Path | None = None
    """A SentencePiece .model, a tokenizer.json, or the folder of a checkpoint that has one; by default that of
    --pretrained, else the embedded one (8,000 pieces, 36 languages)."""
    context_length: int | None = None
    """Tokens a caption, end-of-text included. By default as many as --pretrained has, else 12 for the embedded data,
    whose names are short, and 64 for others."""
    english_share: float | None = None
    """Share of captions drawn in English where a record has several languages. By default 0.15 for the embedded data,
    else captions are drawn evenly."""
    captions_per_image: int | None = None
    """Captions of an image in one batch; the loss is the mean over them. By default 6 for the embedded data, else 1."""
    opening_examples: int | None = None
    """Examples at the start with one caption an image, in English alone. By default three eighths of the run for the
    embedded data, else none."""
    augment: bool | None = None
    """Random zoom, shift, rotation and colour of the training images (--augment, --no-augment). By default of the
    embedded emoji alone; SigLIP itself only resizes."""
    image_views: int | None = None
    """With --augment and a locked image tower: embed so many random views of each picture before the first step, and
    draw one of them for each example, where otherwise the tower sees a new view in each step."""
    resize_method: Literal["bilinear_antialias", "bilinear", "area"] | None = None
    """How pictures become squares; by default as a checkpoint's do, else by bilinear_antialias. That is Pillow's
    filter, as transformers prepares SigLIP 2; bilinear is big_vision's (TensorFlow's), which is not antialiased, and
    area TensorFlow's mean of what a pixel covers. NaFlex is antialiased in either code."""
    decode: Decode = "exact"
    """fast decodes JPEGs at a reduced scale where that is enough, by simplejpeg, and resizes by OpenCV (pip install
    'diptych[fast]'): some grey levels off, in a third to two thirds of the time (docs/data.md). exact is Pillow.
    Pictures to evaluate on are exact always."""
    language_temperature: float = 1.0
    """Records of a language come in proportion to their number to the power of 1 / this, within --english-share where
    it is given: 1 takes them as they are, large values all languages alike. Not for the embedded data, whose records
    have every language."""
    balance: Path | None = None
    """A JSON file of groups of people, and of labels, by their words in captions: records of your own data are chosen
    so that the groups come equally often and with each label alike (docs/balancing.md)."""
    workers: int = harmless(0)
    """Processes that decode; 0 for one background thread."""
    cache_megabytes: float = harmless(512.0)
    """Memory for decoded images of small data sets."""
    reading: Reading = TO_TRAIN
    stall_seconds: float = harmless(600.0)
    """How long a batch may take before its source is held to hang."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """Which towers."""

    model: str = "emoji"
    """A size, whose weights begin fresh: emoji, siglip_b16_224, siglip2_base_patch16_256, ...
    (`diptych.models.presets`)."""
    pretrained: str | None = None
    """A checkpoint to begin from, in place of fresh weights of --model's size: a folder of transformers, open_clip,
    timm, big_vision, keras-hub or diptych, a finished run's folder, or hf://owner/name. Image size, vocabulary and
    context length come with it."""
    pretrained_image: str | None = None
    """A checkpoint, of any of these kinds, to begin the image tower from alone, with its pictures' size and
    preprocessing; the text tower is that of --pretrained-text, or a fresh one of --model's size."""
    pretrained_text: str | None = None
    """A checkpoint to begin the text tower from alone, with its vocabulary and context length; the image tower is that
    of --pretrained-image, or a fresh one of --model's size."""
    text_size: str | None = None
    """Size of a text tower that begins fresh: mu, Ti, S, M, B, L, So400m, ... (`diptych.models.sizes`); by default that
    of --model's."""
    text_depth: int | None = None
    """Blocks of a text tower that begins fresh; by default its size's."""
    image_size: int | None = None
    """Side of the square images in pixels; by default the size's or the checkpoint's."""
    sequence_lengths: tuple[int, ...] = ()
    """Numbers of patches that a NaFlex checkpoint is trained at, one a batch; by default 1/2, 1, 9/4, 49/16 and 4 times
    what it was made for, which for 256 are the paper's 128, 256, 576, 784 and 1,024."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 computes in bfloat16; weights, optimizer and loss stay float32."""
    grad_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    init_logit_scale: float | None = None
    """Initial temperature t; by default 10 (1 / 0.07 with the softmax loss), or the checkpoint's."""
    init_logit_bias: float | None = None
    """Initial bias b. By default, for fresh weights, log(p / (1 - p)) with p = 1 / batch_size (SigLIP's -10 suits
    batches of 20,000); for a checkpoint, the one that fits as many negatives as --batch-size brings, found on the
    held-out pairs before the first step. With the softmax loss a model has no bias."""
    max_logit_scale: float | None = None
    """The largest temperature that a step leaves; None for no bound. CLIP's is 100."""
    keep_logit_bias: bool = False
    """Begin with the bias of the checkpoint, whatever batch it was trained with."""
    lock_image: bool = False
    """Leave the image tower as it is (locked-image tuning)."""
    lock_image_unlocked_blocks: int = 0
    """With --lock-image, how many of its last blocks move all the same, with all that follows them."""
    lock_text: bool = False
    """Leave the text tower as it is."""
    lock_text_unlocked_blocks: int = 0
    """With --lock-text, how many of its last blocks move all the same, with all that follows them."""
    lora_rank: int | None = None
    """Rank of low-rank adapters (LoRA): the towers stay as they are, and small products beside their kernels are
    trained, which the saved model has added up. None for none."""
    lora_alpha: float | None = None
    """The adapters count alpha / rank times; by default twice the rank."""
    lora_targets: tuple[str, ...] = ()
    """Patterns of the kernels that get adapters, such as "text/.*/qkv_kernel"; by default all those of the towers'
    blocks."""
    lock: tuple[str, ...] = ()
    """Patterns of further weights that stay as they are, such as "pair_logits/.*"."""

    @property
    def from_checkpoint(self) -> bool:
        """Whether any of its weights begin as a checkpoint's."""
        return any((self.pretrained, self.pretrained_image, self.pretrained_text))


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """How weights move."""

    examples: int
    """Pairs to train on, counting repetitions."""
    batch_size: int
    """Pairs a step."""
    accum_freq: int = 1
    """Number of micro-batches. A contrastive loss still sees all pairs of the full batch (GradCache)."""
    optimizer: Literal["adamw", "adafactor", "lion", "sgd", "openai_adam"] = "adamw"
    """adafactor, lion and sgd, which has a momentum, keep fewer numbers a weight; openai_adam is GPT-1's."""
    momentum: float | None = None
    """Of sgd, by default 0.9; 0 keeps none, so that it has no number for a weight beside it."""
    momentum_dtype: Literal["float32", "bfloat16"] = "float32"
    """In what the optimizer keeps its momentum; big_vision's configurations have bfloat16."""
    learning_rate: float | None = None
    """Peak rate; by default 1e-3 for fresh weights and 1e-5 for a checkpoint's, 1e-4 for its adapters. In a run with
    both it is that of the fresh ones, and the checkpoint's move at a hundredth of it."""
    weight_decay: float | None = None
    """As in the paper: not multiplied by the learning rate (1e-4 here is 0.1 in torch's AdamW at rate 1e-3). By default
    1e-4 for fresh weights, and 0 for a checkpoint's: pre-trained weights fare best without (Zhai et al. 2023)."""
    rate_batch_size: int | None = None
    """Batch size that the rate and the weight decay are meant for: at another both are multiplied by batch_size / this,
    as in big_vision's `bit_i1k`, whose 0.1 and 1e-4 are those of 256. By default they are not scaled."""
    image_layer_decay: float | None = None
    """Factor on the rate from each layer of the image tower to the one below it, such as 0.75; its head keeps the whole
    rate."""
    text_layer_decay: float | None = None
    """The same for the text tower."""
    beta_2: float = 0.95
    """Decay of the second moment (AdamW, OpenAI's Adam, Adafactor's cap)."""
    schedule: Literal["cosine", "linear", "openai_cosine", "openai_linear"] = "cosine"
    """How the rate falls to 0 after its warm-up; OpenAI's fall from the first example on, and a warm-up has its place
    in that."""
    warmup_examples: int | None = None
    """Examples of linear warm-up; by default a twentieth of the run."""
    learning_rate_multipliers: Mapping[str, float] = field(default_factory=dict)
    """Pattern of weights -> factor on their rate; by default 0.01 for a checkpoint's beside fresh ones."""
    weight_decay_multipliers: Mapping[str, float] = field(default_factory=dict)
    """Pattern of weights -> factor on their decay; by default 0 for a checkpoint's beside fresh ones."""
    grad_clip_norm: float | None = 1.0
    """Largest norm of the gradient of all weights together; None for no bound."""
    ema_decay: float | None = None
    """Decay of a moving average of the weights, which is then evaluated; None for none."""
    loss: Literal["sigmoid", "softmax"] | None = None
    """SigLIP's sigmoid over all pairs of a batch, or CLIP's softmax over each row and column; by default the one that
    --pretrained was made with, else sigmoid."""

    @property
    def batch_factor(self) -> float:
        """On rate and weight decay; see `rate_batch_size`."""
        return 1.0 if self.rate_batch_size is None else self.batch_size / self.rate_batch_size


@dataclass(frozen=True, kw_only=True)
class Run:
    """How the run is carried out and shown."""

    run_dir: Path = harmless(Path("runs/siglip"))
    """Where everything of the run is kept; the same command again resumes it."""
    seed: int = 0
    """Of fresh weights, the order of examples and everything drawn at random."""
    evaluations: int = harmless(12)
    """How often a stage is evaluated, where evaluate_every is not given; at most once in 20 steps."""
    evaluate_every: int | None = harmless(None)
    """Examples between evaluations; by default `evaluations` of them in a stage."""
    best_by: str = harmless("loss")
    """The number of an evaluation by which the best model of a run is kept, in best/: loss, that on held-out pairs, or
    recall@1, recall@5, zero_shot_group, where there are classes."""
    patience: int | None = harmless(None)
    """End a run of one stage early when so many evaluations in a row were not better than the best before them; None
    for no early end."""
    checkpoint_every: int | None = harmless(None)
    """Steps between checkpoints; by default one a minute."""
    log_every: int = harmless(1)
    """Steps between rows of metrics.jsonl."""
    data_parallel: int = harmless(1)
    """Devices of each process that share its part of a batch, on jax; the loss over all pairs goes round the devices of
    all processes in a ring."""
    fsdp: int = harmless(1)
    """Over how many devices weights, optimizer, averages and teacher are spread, each holding a part (docs/scale.md);
    1 for all of them on each. It divides the number of all devices, which on torch it is."""
    zero: bool = harmless(False)
    """Spread AdamW's slots, averages and teacher over the processes of torch, each of which still holds all weights
    (docs/scale.md)."""
    coordinator_address: str | None = harmless(None)
    """HOST:PORT of process 0, for a run by several processes on jax that no srun, mpirun or TPU starts; with
    num_processes and process_id. On torch start them by torchrun."""
    num_processes: int | None = harmless(None)
    """How many processes carry the run out together."""
    process_id: int | None = harmless(None)
    """Which of them this is, from 0."""
    devices: int | None = harmless(None)
    """Devices of all processes together, for the memory that a dry run tells; by default data_parallel of each of
    num_processes."""
    compile: bool = False
    """Compile forward and backward passes on torch (`torch.compile`); the other two frameworks always do."""
    loss_implementation: str | None = harmless(None)
    """Implementation of the loss over all pairs, such as triton, pallas_gpu, xla or reference; by default the fastest
    here."""
    retention: str | None = harmless(None)
    """What a checkpoint should not forget, judged before the first step and at the end: anything that recipes.evaluate
    takes as --data, "none" for nothing. By default, for runs from a checkpoint on data of your own that write a
    report, some of the embedded emoji by their English names."""
    tensorboard: bool = harmless(True)
    """Write the metrics as TensorBoard files, too."""
    log_to: tuple[Literal["wandb", "mlflow", "comet"], ...] = harmless(())
    """Tell the metrics Weights & Biases, MLflow or Comet, too, by their own clients and settings (pip install
    'diptych[wandb]', 'diptych[mlflow]', 'diptych[comet]'): --log-to wandb comet."""
    peak_tflops: float | None = harmless(None)
    """Peak of the device in TFLOP/s at the precision used, to show utilisation."""
    embed_images_once: bool | None = harmless(None)
    """Where the image tower stays as it is (--lock-image) and pictures are not augmented: embed each once, before the
    first step, and train on the vectors (--embed-images-once, --no-embed-images-once). By default where a stage takes
    at least as many examples as there are pictures."""
    embeddings_dir: Path | None = harmless(None)
    """Where those vectors are kept; by default in the run's folder. Runs with the same pictures and image tower may
    share them."""
    report: bool = harmless(True)
    """Write report.html at the end of a stage."""
    dry_run: bool = harmless(False)
    """Print parameters, memory, FLOPs and steps, and stop."""

    @property
    def planned_devices(self) -> int:
        """Devices of all processes together, as far as the options tell."""
        return self.devices or self.data_parallel * (self.num_processes or 1)

    @property
    def coordinator(self) -> tuple[str, int, int] | None:
        """Address of process 0, number of processes, and this one's; None where nothing is given.

        Raises:
            ValueError: a part is missing.
        """
        given = (self.coordinator_address, self.num_processes, self.process_id)
        if given == (None, None, None):
            return None
        if self.coordinator_address is None or self.num_processes is None or self.process_id is None:
            raise ValueError("--coordinator-address, --num-processes and --process-id belong together: give all three.")
        return self.coordinator_address, self.num_processes, self.process_id


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run, complete: a list of stages, and what they have in common.

    Stages say what share of `optimization.examples` they take, so that the flag scales all of them. A run of one stage
    keeps everything in `run.run_dir`; with several, each has a folder in it.
    """

    data: Data
    model: Model
    optimization: Optimization
    captioning: Captioning = Captioning()
    distillation: Distillation = Distillation()
    classification: Classification = Classification()
    language: Language = Language()
    answering: Answering = Answering()
    prompted: Prompted = Prompted()
    run: Run
    # The command line shows fields of this level without their docstrings, so that their help stands in their types.
    only: Annotated[tuple[str, ...], Flag(help="Stages to carry out, with what they go on from; by default all.")] = (
        harmless(())
    )
    reference: Annotated[
        str | None,
        Flag(help="Checkpoint of the model that judges what is learnable in curated stages, in place of theirs."),
    ] = None
    stages: Annotated[tuple[Stage, ...], tyro.conf.Suppress] = (Stage(name="training"),)

    def __post_init__(self):
        check_stages(self.stages)
        check_options(self)

    def weighs(self, *terms: str) -> bool:
        """Whether any stage has one of these losses."""
        return any(term in stage.losses for stage in self.stages for term in terms)

    def unused(self) -> set[str]:
        """The fields of a recipe that this one's stages do not ask for."""
        asked = {
            "captioning": self.weighs("captioning"),
            "distillation": self.weighs("distillation", "masked_prediction"),
            "classification": self.weighs("classification"),
            "language": self.weighs("language"),
            "answering": self.weighs("answering"),
            "prompted": self.weighs("suffix"),
            "only": len(self.stages) > 1,
            "reference": any(stage.curation for stage in self.stages),
        }
        return {name for name, used in asked.items() if not used}

    def folder(self, stage: str) -> Path:
        """Where a stage keeps what it leaves."""
        return self.run.run_dir / stage if len(self.stages) > 1 else self.run.run_dir


def harmless_fields(value: object, prefix: str = "") -> set[str]:
    """The dotted names of the fields that may differ between runs that continue each other."""
    found: set[str] = set()
    for part in fields(value) if is_dataclass(value) and not isinstance(value, type) else ():
        name = f"{prefix}{part.name}"
        if part.metadata.get(HARMLESS):
            found.add(name)
        found |= harmless_fields(getattr(value, part.name), f"{name}.")
    return found

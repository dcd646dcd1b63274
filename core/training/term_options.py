"""Options of the loss terms beside the pairs: decoder, self-distillation, classifier, language models."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diptych.core.harmless import harmless


@dataclass(frozen=True, kw_only=True)
class Captioning:
    """The decoder that writes captions and boxes (LocCa; docs/siglip2.md has the register of choices)."""

    decoder_depth: int | None = None
    """Layers of the decoder; by default half of the text tower's, rounded down."""
    target_length: int | None = None
    """Tokens of a sequence to be written, its prompt included; by default the text tower's context length."""
    parallel_probability: float = 0.5
    """How often a caption is predicted in parallel, from mask tokens, instead of token by token."""
    task_weighting: Literal["mean", "sum"] = "mean"
    """How caption, referring expression and grounded caption become one loss."""
    box_bins: int = 500
    """Boxes are written as integers from 0 to this, exclusive."""
    box_order: Literal["yxyx", "xyxy"] = "yxyx"
    """Order of a box's corners in writing."""
    require_boxes: bool = True
    """Refuse data in which no picture has boxes; --no-require-boxes trains on captions alone then."""
    tie_embeddings: bool = False
    """Let the decoder's token table be its output layer, too; for small runs."""


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Self-distillation and masked prediction: the teacher, the heads, the views."""

    teacher_momentum: float = 0.966
    """Constant momentum of the teacher, at any batch size. No paper that we have read names the number."""
    teacher_momentum_batch: int | None = None
    """Batch size that the momentum is meant for: at another it becomes momentum ^ (batch_size / this), the same
    half-life in examples. By default it is not scaled."""
    head_hidden: int = 2048
    """Width of each head's two hidden layers."""
    head_bottleneck: int = 256
    """Width of what each head compares with its prototypes."""
    head_outputs: int = 65_536
    """Prototypes of each head."""
    student_temperature: float = 0.1
    """By which the student's scores of prototypes are divided."""
    teacher_temperature: float = 0.04
    """By which the teacher's are."""
    centre_momentum: float = 0.9
    """Of the running mean of the teacher's scores, which is taken from them."""
    local_views: int = 8
    """Small crops of each picture, compared with the teacher's view of the whole."""
    local_size: int | None = None
    """Side of local views in pixels, in stages that name none; by default 3/8 of the picture's, in whole patches: 96 of
    256."""
    mask_ratio: float = 0.5
    """Share of the patches that are hidden from the student in masked prediction."""
    masking: Literal["random", "block"] = "random"
    """Whether hidden patches are drawn one by one, or as rectangles."""
    colour: bool = True
    """Whether views change their colours, are blurred and solarized, as DINO's; False leaves cropping and mirroring, as
    TIPS.
    """


@dataclass(frozen=True, kw_only=True)
class Classification:
    """A classifier: its classes and its head (docs/fine_tuning.md)."""

    classes: Path | None = None
    """A file that names the classes, one a line, in their order; by default those that the training data have."""
    several_labels: bool = False
    """Let a picture have any number of labels, each with a sigmoid of its own; in a cell they are separated by |."""
    pooling: Literal["map", "gap", "cls"] | None = None
    """What the head reads: "map", SigLIP's attention pooling; "gap", the mean of the patch tokens, as transformers'
    classifier; "cls", a class token. By default what the checkpoint has."""
    fresh_pooling: bool = False
    """Draw the attention pooling anew, to be learned with the head."""
    label_smoothing: float = 0.0
    """Share of each target that is spread over all classes."""
    random_crop: float | None = None
    """Cut a random part out of each training picture, of at least this share of its area: 0.05 for training from
    scratch, as in big_vision, 0.5 or more for fine-tuning. None for none."""
    random_crop_resize: Literal["bilinear_antialias", "bilinear", "area"] | None = None
    """How those parts become squares; by default as whole pictures do (--resize-method). big_vision has bilinear, and
    area for the pictures that it judges on."""
    shortest_edge: int | None = None
    """Show the middle of each picture: its shorter side becomes so many pixels, and the square is cut out of that, such
    as 256 for 224, as in big_vision's classifiers. Random parts are cut out of whole pictures all the same. None
    squashes pictures, as SigLIP does."""
    flip: float = 0.0
    """How often training pictures are mirrored left and right."""
    flip_vertical: float = 0.0
    """How often they are mirrored up and down."""
    shift: float = 0.0
    """Move each training picture by at most this share of its sides, into white; 0 for not at all."""
    rand_augment: tuple[int, float] | None = None
    """Change each training picture by so many operations of RandAugment, at a magnitude from 0 to 10, in place of what
    --augment does: 2 10, as in big_vision's classifiers. None for none."""
    mixup: float = 0.0
    """Alpha of mixup: pictures are mixed in pairs, in shares that are drawn from Beta(alpha, alpha); 0 for none."""


@dataclass(frozen=True, kw_only=True)
class Language:
    """A language model: its words, and how it is judged (docs/gpt1.md)."""

    merges: int | None = None
    """Pair merges of a vocabulary that is learned from the texts, where --tokenizer names none; by default 8,000, and
    for the embedded novels the 2,000 that come along. GPT-1 has 40,000."""
    way: Literal["paper", "transformers"] | None = None
    """How texts are cut into words: as GPT-1 was trained, which needs ftfy and spaCy, or as transformers does. By
    default what the vocabulary's folder says, and "paper" for one that is learned."""
    epochs: int | None = None
    """Passes over the texts, in place of --examples."""
    dropout: float | None = None
    """Share that is left out in training of embeddings, of attention and of what is added to a token; by default the
    size's, 0.1."""
    eval_data: tuple[str, ...] = harmless(())
    """Further texts to judge, in any form that --train-data has."""
    prompts: tuple[str, ...] = harmless(())
    """Beginnings of texts that the model goes on with at the end; by default some of the held-out documents."""
    sample_tokens: int = harmless(48)
    """Tokens that it writes behind each."""


@dataclass(frozen=True, kw_only=True)
class Answering:
    """A task on texts that a language model is fine-tuned for (docs/gpt1.md)."""

    task: str = "story"
    """What is learned: story, novel, emoji_gloss, emoji_kind, emoji_same or emoji_group, of data that come along; or
    cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, snli, scitail, race or rocstories, of --train-data, the folder that
    each is distributed in, or one file of it."""
    language_weight: float = 0.5
    """Of the language model's loss on the same texts, which is added to the task's; 0 for none."""
    head_dropout: float = 0.1
    """Of the state that the head reads, in training."""
    transfer_layers: int | None = None
    """Blocks that begin as the checkpoint's, from the first on, with both tables; the others begin fresh. By default
    all."""


@dataclass(frozen=True, kw_only=True)
class Prompted:
    """A model that answers prompts about pictures (docs/paligemma.md)."""

    prompt: str = "caption {language}"
    """What is asked about pictures whose data ask nothing, such as captions; {language} becomes that of the caption, en
    where it is not known."""
    pictures: int = 1
    """Pictures of an example; data that ask about several say so themselves."""
    masks: Path | None = None
    """big_vision's vae-oid.npz: referring expressions are asked for masks, whose codes it makes, and not for boxes."""
    epochs: float | None = None
    """Passes over the examples, in place of --examples."""
    mean_over: Literal["examples", "tokens"] = "examples"
    """Whether each example of a batch weighs the same, as big_vision trains, or each token of an answer, as
    transformers does."""
    label_smoothing: float = 0.0
    """Share of each token's target that is spread over all other tokens."""
    train: Literal["all", "all-but-image", "decoder", "attention", "projector"] = "all"
    """Which weights move: all; all but the image tower; the language model; its attention alone; or what brings
    pictures to it. --lock, --lock-image and --lora-rank hold further ones."""
    metric: tuple[Literal["exact", "vqa", "okvqa", "relaxed", "anls", "boxes", "exact_or_box", "cider"], ...] = (
        harmless(())
    )
    """How written answers to the held-out questions are judged (`core.evaluation.answer_metrics`); by default as the
    data set is, and otherwise by exact match."""
    lower_case: bool = harmless(False)
    """Compare answers in lower case, where the data set does not say so itself."""
    answer_tokens: int = harmless(32)
    """Tokens of an answer, at most."""
    most_asked: int = harmless(1_000)
    """Held-out questions that are asked at the end, at most, and an eighth of them in training."""

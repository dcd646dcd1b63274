"""Checks of a recipe's options by themselves: which exclude each other, need another, or lie outside their range."""

from pathlib import Path
from typing import Any


def check_options(recipe: Any) -> None:
    """Raises ValueError where the options of a `Recipe`, which calls this, exclude each other, say nothing without
    another or lie outside their range.
    """
    data, model, optimization, run = recipe.data, recipe.model, recipe.optimization, recipe.run
    captioning, distillation, share = recipe.captioning, recipe.distillation, data.english_share
    classification, language, answering = recipe.classification, recipe.language, recipe.answering
    prompted = recipe.prompted
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
            f"--data-parallel deals a batch out evenly, each of its --accum-freq pieces too; got {run.data_parallel} "
            f"devices for {optimization.batch_size} examples in {optimization.accum_freq} pieces.",
        ),
        (
            0 <= (optimization.warmup_examples or 0) < optimization.examples,
            f"--warmup-examples must be at least 0 and less than --examples, got {optimization.warmup_examples} of "
            f"{optimization.examples}.",
        ),
        *(
            (given is None or given >= 1, f"{flag} must be at least 1, got {given}.")
            for flag, given in (
                ("--captions-per-image", data.captions_per_image),
                ("--image-views", data.image_views),
                ("--image-size", model.image_size),
                ("--lora-rank", model.lora_rank),
                ("--text-depth", model.text_depth),
                ("--patience", run.patience),
                ("--decoder-depth", captioning.decoder_depth),
                ("--target-length", captioning.target_length),
                ("--head-hidden", distillation.head_hidden),
                ("--head-bottleneck", distillation.head_bottleneck),
                ("--head-outputs", distillation.head_outputs),
                ("--local-size", distillation.local_size),
                ("--teacher-momentum-batch", distillation.teacher_momentum_batch),
                ("--evaluations", run.evaluations),
                ("--evaluate-every", run.evaluate_every),
                ("--checkpoint-every", run.checkpoint_every),
                ("--log-every", run.log_every),
                ("--shortest-edge", classification.shortest_edge),
                ("--merges", language.merges),
                ("--epochs", language.epochs),
                ("--sample-tokens", language.sample_tokens),
                ("--answer-tokens", prompted.answer_tokens),
                ("--most-asked", prompted.most_asked),
                ("--rate-batch-size", optimization.rate_batch_size),
                ("--devices", run.devices),
                ("--fsdp", run.fsdp),
            )
        ),
        (
            data.context_length is None or data.context_length >= 2,
            f"--context-length must be at least 2, a token and the end of the text, got {data.context_length}.",
        ),
        (
            min(model.sequence_lengths, default=4) >= 4,
            f"--sequence-lengths must each be at least 4, a grid of 2 x 2 patches, got {model.sequence_lengths}.",
        ),
        *(
            (
                given is None or run.run_dir.resolve() != Path(given).resolve(),
                f"--run-dir {run.run_dir} is the folder of {flag}, which stays as it is: give another --run-dir.",
            )
            for flag, given in (
                ("--pretrained", model.pretrained),
                ("--pretrained-image", model.pretrained_image),
                ("--pretrained-text", model.pretrained_text),
            )
        ),
        (
            run.retention in (None, "none") or model.pretrained is not None,
            "--retention judges what a checkpoint should not forget, and fresh weights know nothing; got "
            f"{run.retention} without --pretrained. Leave it out.",
        ),
        (
            run.patience is None or len(recipe.stages) == 1,
            f"--patience is for runs of one stage, and this one has {len(recipe.stages)}, which begin and end at "
            "shares of all examples. Leave it out.",
        ),
        *(
            (given is None or given >= 0, f"{flag} must not be negative, got {given}.")
            for flag, given in (
                ("--workers", data.workers),
                ("--cache-megabytes", data.cache_megabytes),
                ("--seed", run.seed),
                ("--weight-decay", optimization.weight_decay),
                ("--language-weight", answering.language_weight),
                ("--transfer-layers", answering.transfer_layers),
                ("--learning-rate-multipliers", min(optimization.learning_rate_multipliers.values(), default=0)),
                ("--weight-decay-multipliers", min(optimization.weight_decay_multipliers.values(), default=0)),
            )
        ),
        *(
            (
                needed or not given,
                f"{flag} says more of {other}, which is not given: give {other}, or leave {flag} out.",
            )
            for flag, given, other, needed in (
                ("--lora-alpha", model.lora_alpha, "--lora-rank", model.lora_rank),
                ("--lora-targets", model.lora_targets, "--lora-rank", model.lora_rank),
                ("--lock-image-unlocked-blocks", model.lock_image_unlocked_blocks, "--lock-image", model.lock_image),
                ("--lock-text-unlocked-blocks", model.lock_text_unlocked_blocks, "--lock-text", model.lock_text),
                ("--keep-logit-bias", model.keep_logit_bias, "--pretrained", model.pretrained),
            )
        ),
        (
            not model.keep_logit_bias or (optimization.loss != "softmax" and model.init_logit_bias is None),
            "--keep-logit-bias begins with the checkpoint's bias of the sigmoid loss. Leave it out with --loss "
            "softmax, which has none, and with --init-logit-bias, which sets another.",
        ),
        (
            optimization.loss != "softmax" or model.init_logit_bias is None,
            f"--init-logit-bias is the sigmoid loss's, and the softmax loss has no bias; got {model.init_logit_bias} "
            "for it. Leave it out, or choose --loss sigmoid.",
        ),
        (
            not (model.pretrained and (model.pretrained_image or model.pretrained_text)),
            "--pretrained begins both towers, so leave out --pretrained-image and --pretrained-text; or give these two "
            "for towers of two checkpoints.",
        ),
        (
            not (model.pretrained or model.pretrained_text) or (model.text_size is None and model.text_depth is None),
            "--text-size and --text-depth are those of a text tower that begins fresh, and a checkpoint's has its own. "
            "Leave them out, or begin the image tower alone by --pretrained-image.",
        ),
        (
            model.max_logit_scale is None or model.max_logit_scale >= (model.init_logit_scale or 0),
            f"--max-logit-scale must be at least --init-logit-scale, {model.init_logit_scale}, got "
            f"{model.max_logit_scale}.",
        ),
        (
            optimization.momentum is None or (optimization.optimizer == "sgd" and 0 <= optimization.momentum < 1),
            f"--momentum is sgd's, from 0 to below 1, got {optimization.momentum} with --optimizer "
            f"{optimization.optimizer}.",
        ),
        (0 < data.val_fraction < 1, f"--val-fraction lies between 0 and 1, got {data.val_fraction}."),
        (share is None or 0 <= share <= 1, f"--english-share lies between 0 and 1, got {share}."),
        *(
            (0 <= given <= 1, f"{flag} lies between 0 and 1, got {given}.")
            for flag, given in (
                ("--parallel-probability", captioning.parallel_probability),
                ("--mask-ratio", distillation.mask_ratio),
                ("--label-smoothing", classification.label_smoothing),
                ("--label-smoothing", prompted.label_smoothing),
                ("--flip", classification.flip),
                ("--flip-vertical", classification.flip_vertical),
                ("--shift", classification.shift),
            )
        ),
        *(
            (0 < given < 1, f"{flag} lies between 0 and 1, both excluded, got {given}.")
            for flag, given in (
                ("--teacher-momentum", distillation.teacher_momentum),
                ("--centre-momentum", distillation.centre_momentum),
                ("--beta-2", optimization.beta_2),
                *([] if optimization.ema_decay is None else [("--ema-decay", optimization.ema_decay)]),
            )
        ),
        *(
            (given is None or 0 < given <= 1, f"{flag} is above 0 and at most 1, got {given}.")
            for flag, given in (
                ("--image-layer-decay", optimization.image_layer_decay),
                ("--text-layer-decay", optimization.text_layer_decay),
            )
        ),
        (
            0 < (1 if classification.random_crop is None else classification.random_crop) <= 1,
            f"--random-crop is a share of the area, above 0 and at most 1, got {classification.random_crop}.",
        ),
        (
            classification.rand_augment is None or _may_be_drawn(*classification.rand_augment),
            "--rand-augment is a number of operations, 1 or more, and a magnitude from 0 to 10, got "
            f"{classification.rand_augment}.",
        ),
        (0 <= answering.head_dropout < 1, f"--head-dropout is from 0 to below 1, got {answering.head_dropout}."),
        (
            0 <= (language.dropout or 0) < 1,
            f"--dropout is a share from 0 to below 1, got {language.dropout}.",
        ),
        (classification.mixup >= 0, f"--mixup must be 0 or more, got {classification.mixup}."),
        *(
            (given is None or given > 0, f"{flag} must be above 0, got {given}.")
            for flag, given in (
                ("--learning-rate", optimization.learning_rate),
                ("--init-logit-scale", model.init_logit_scale),
                ("--lora-alpha", model.lora_alpha),
                ("--grad-clip-norm", optimization.grad_clip_norm),
                ("--language-temperature", data.language_temperature),
                ("--stall-seconds", data.stall_seconds),
                ("--epochs", prompted.epochs),
                ("--student-temperature", distillation.student_temperature),
                ("--teacher-temperature", distillation.teacher_temperature),
            )
        ),
    ):
        if not condition:
            raise ValueError(message)


def _may_be_drawn(count: int, magnitude: float) -> bool:
    return count >= 1 and 0 <= magnitude <= 10

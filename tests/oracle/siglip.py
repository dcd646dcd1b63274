"""SigLIP as a whole: the paths and shapes of its weights, its embeddings, its loss and all gradients."""

from dataclasses import dataclass

import numpy as np

from tests.oracle.contrastive import normalize, sigmoid_loss, softmax_contrastive_loss
from tests.oracle.parameters import Parameters
from tests.oracle.towers import image_tower, text_tower

LOG_LOGIT_SCALE, LOGIT_BIAS = "pair_logits/log_logit_scale", "pair_logits/logit_bias"


@dataclass(frozen=True)
class Answer:
    """What a model makes of a batch: unit embeddings `[b, e]`, the loss, and the gradient of the loss by weight path."""

    image_embedding: np.ndarray
    text_embedding: np.ndarray
    loss: float
    gradients: dict[str, np.ndarray]


def siglip(config, weights, batch, *, loss="sigmoid") -> Answer:
    """Value and gradient for `batch = {"image": uint8 [b, height, width, 3], "text": int32 [b, n]}`; 0..255 becomes [-1, 1].

    `config` is the dictionary of a `SigLIPConfig`; `weights` are float64 (or become so) and keyed by Keras variable path.
    """
    parameters = Parameters(weights)
    pooled_image, backward_image = image_tower(batch["image"] / 127.5 - 1.0, parameters.at("image"), config["vision"])
    pooled_text, backward_text = text_tower(batch["text"], parameters.at("text"), config["text"])
    image, backward_image_norm = normalize(pooled_image)
    text, backward_text_norm = normalize(pooled_text)

    scale = np.exp(parameters[LOG_LOGIT_SCALE])
    if loss == "sigmoid":
        value, (dimage, dtext, dscale, dbias) = sigmoid_loss(
            image, text, logit_scale=scale, logit_bias=parameters[LOGIT_BIAS]
        )
        parameters.add(LOGIT_BIAS, dbias)
    else:
        value, (dimage, dtext, dscale) = softmax_contrastive_loss(image, text, logit_scale=scale)
    parameters.add(LOG_LOGIT_SCALE, dscale * scale)
    backward_image(backward_image_norm(dimage))
    backward_text(backward_text_norm(dtext))
    return Answer(image, text, float(value), parameters.gradients)


def weight_shapes(config) -> dict[str, tuple[int, ...]]:
    """Every weight of the model: Keras variable path -> shape, in the model's order."""
    shapes = {}
    vision, text = config["vision"], config["text"]
    width, patch = vision["width"], vision["patch_size"]
    shapes["image/patch_embedding/kernel"] = (patch, patch, 3, width)
    shapes["image/patch_embedding/bias"] = (width,)
    shapes["image/position_embedding/embedding"] = ((vision["image_size"] // patch) ** 2, width)
    if vision["pooling"] == "cls":
        shapes["image/class_token/token"] = (width,)
    shapes |= _top_shapes("image", vision)
    shapes["text/token_embedding/embedding"] = (text["vocab_size"], text["width"])
    shapes["text/position_embedding/embedding"] = (text["context_length"], text["width"])
    shapes |= _top_shapes("text", text)
    shapes[LOG_LOGIT_SCALE] = ()
    if config.get("init_logit_bias") is not None:
        shapes[LOGIT_BIAS] = ()
    return shapes


def _top_shapes(tower, config):
    width, shapes = config["width"], {}
    for index in range(config["depth"]):
        block = f"{tower}/encoder/block_{index:02d}"
        shapes |= _norm_shapes(f"{block}/attention_norm", width)
        shapes |= _linear_shapes(f"{block}/attention/qkv_", width, 3 * width)
        shapes |= _linear_shapes(f"{block}/attention/out_", width, width)
        shapes |= _norm_shapes(f"{block}/mlp_norm", width)
        shapes |= _mlp_shapes(f"{block}/mlp", config)
    shapes |= _norm_shapes(f"{tower}/encoder/norm", width)
    if config["pooling"] == "map":
        head = f"{tower}/map_head"
        shapes[f"{head}/probe"] = (1, 1, width)
        shapes |= _linear_shapes(f"{head}/query_", width, width)
        shapes |= _linear_shapes(f"{head}/key_value_", width, 2 * width)
        shapes |= _linear_shapes(f"{head}/out_", width, width)
        shapes |= _norm_shapes(f"{head}/norm", width)
        shapes |= _mlp_shapes(f"{head}/mlp", config)
    if config.get("embed_dim"):
        shapes |= _linear_shapes(f"{tower}/projection/", width, config["embed_dim"])
    return shapes


def _norm_shapes(path, width):
    return {f"{path}/scale": (width,), f"{path}/bias": (width,)}


def _linear_shapes(path, inputs, outputs):
    return {f"{path}kernel": (inputs, outputs), f"{path}bias": (outputs,)}


def _mlp_shapes(path, config):
    width, hidden = config["width"], config["mlp_dim"]
    return _linear_shapes(f"{path}/in_", width, hidden) | _linear_shapes(f"{path}/out_", hidden, width)

"""SigLIP as a whole: the paths and shapes of its weights, its embeddings, its loss and all gradients."""

from dataclasses import dataclass

import numpy as np

from tests.oracle.bit import bit_shapes, bit_tower
from tests.oracle.contrastive import normalize, sigmoid_loss, softmax_contrastive_loss
from tests.oracle.parameters import Parameters
from tests.oracle.towers import image_tower, text_tower

LOSSES = {"sigmoid": sigmoid_loss, "softmax": softmax_contrastive_loss}
LOG_LOGIT_SCALE, LOGIT_BIAS = "pair_logits/log_logit_scale", "pair_logits/logit_bias"


@dataclass(frozen=True)
class Answer:
    """What a model makes of a batch: unit embeddings `[b, e]` and `[b, c, e]`, the loss, its gradient by weight
    path.
    """

    image_embedding: np.ndarray
    text_embedding: np.ndarray
    loss: float
    gradients: dict[str, np.ndarray]

    def named(self) -> dict[str, np.ndarray]:
        """All of it under one set of names: "image_embedding", "text_embedding", "loss", and the paths of the
        weights.
        """
        outputs = {"image_embedding": self.image_embedding, "text_embedding": self.text_embedding}
        return outputs | {"loss": np.asarray(self.loss)} | self.gradients


def siglip(config, weights, batch, *, loss="sigmoid", image_nudge=1.0, text_nudge=1.0) -> Answer:
    """Value and gradient for `batch = {"image": uint8 [b, height, width, 3], "text": int32 [b, c, n]}`.

    Pixels 0..255 become [-1, 1]. With c captions an image, the loss is the mean over them: caption k of an image is
    contrasted with caption k of the others. `config` is the dictionary of a `SigLIPConfig`; `weights` are keyed by
    Keras variable path. The nudges multiply what enters the encoders: `[b, 1, w]` and `[b c, 1, w]`.
    """
    parameters = Parameters(weights)
    images, captions, length = batch["text"].shape
    pixels, vision = batch["image"] / 127.5 - 1.0, config["vision"]
    if "pre_activation" in vision:
        pooled_image, backward_image = bit_tower(pixels, parameters.at("image"), vision)
    else:
        pooled_image, backward_image = image_tower(pixels, parameters.at("image"), vision, nudge=image_nudge)
    pooled_text, backward_text = text_tower(
        batch["text"].reshape(-1, length), parameters.at("text"), config["text"], nudge=text_nudge
    )
    image, backward_image_norm = normalize(pooled_image)
    text, backward_text_norm = normalize(pooled_text.reshape(images, captions, -1))

    scale = np.exp(parameters[LOG_LOGIT_SCALE])
    bias = {"logit_bias": parameters[LOGIT_BIAS]} if loss == "sigmoid" else {}
    function = LOSSES[loss]
    value, dimage, dtext = 0.0, np.zeros_like(image), np.zeros_like(text)
    for caption in range(captions):
        part, (dx, dy, dscale, *dbias) = function(image, text[:, caption], logit_scale=scale, **bias)
        value += part / captions
        dimage += dx / captions
        dtext[:, caption] = dy / captions
        parameters.add(LOG_LOGIT_SCALE, dscale * scale / captions)
        if dbias:
            parameters.add(LOGIT_BIAS, dbias[0] / captions)
    backward_image(backward_image_norm(dimage))
    backward_text(backward_text_norm(dtext).reshape(images * captions, -1))
    return Answer(image, text, float(value), parameters.gradients)


def weight_shapes(config) -> dict[str, tuple[int, ...]]:
    """Every weight of the model: Keras variable path -> shape, in the model's order."""
    vision, text = config["vision"], config["text"]
    if "pre_activation" in vision:
        shapes = {f"image/{path}": shape for path, shape in bit_shapes(vision).items()}
    else:
        shapes = _vision_shapes(vision)
    shapes["text/token_embedding/embedding"] = (text["vocab_size"], text["width"])
    shapes["text/position_embedding/embedding"] = (text["context_length"], text["width"])
    shapes |= _top_shapes("text", text)
    return shapes | {LOG_LOGIT_SCALE: (), LOGIT_BIAS: ()}


def _vision_shapes(vision):
    width, patch = vision["width"], vision["patch_size"]
    shapes = {"image/patch_embedding/kernel": (patch, patch, 3, width), "image/patch_embedding/bias": (width,)}
    if vision.get("positions") != "sincos2d":
        shapes["image/position_embedding/embedding"] = ((vision["image_size"] // patch) ** 2, width)
    if vision["pooling"] == "cls":
        shapes["image/class_token/token"] = (width,)
    return shapes | _top_shapes("image", vision)


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
    if config.get("representation_width"):
        shapes |= _linear_shapes(f"{tower}/representation/", width, config["representation_width"])
        width = config["representation_width"]
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

"""Hypothesis strategies that draw valid configurations, every pooling and odd widths among them."""

from dataclasses import replace

from hypothesis import strategies as st

from diptych.models.siglip.config import SigLIPConfig, TextConfig, VisionConfig

SMALL = st.integers(1, 5)


@st.composite
def towers(draw, kind):
    num_heads = draw(st.integers(1, 4))
    shape = {
        "width": num_heads * draw(SMALL),
        "depth": draw(SMALL),
        "mlp_dim": draw(st.integers(1, 30)),
        "num_heads": num_heads,
        "embed_dim": draw(st.none() | st.integers(1, 20)),
    }
    if kind is VisionConfig:
        patch = draw(st.integers(1, 9))
        own = {"patch_size": patch, "image_size": patch + draw(st.integers(0, 20))}
        own["pooling"] = draw(st.sampled_from(["map", "gap", "cls"]))
        own["representation_width"] = draw(st.none() | st.integers(1, 9))
        if shape["width"] % 4 == 0 and shape["width"] > 4:
            own["positions"] = draw(st.sampled_from(["learned", "sincos2d"]))
    else:
        own = {"vocab_size": draw(st.integers(1, 50)), "context_length": draw(st.integers(1, 9))}
        own["pooling"] = draw(st.sampled_from(["last", "first", "gap", "map"]))
    return kind(**shape, **own)


@st.composite
def models(draw):
    vision, text = draw(towers(VisionConfig)), draw(towers(TextConfig))
    bias = draw(st.none() | st.floats(-20, 0))
    return SigLIPConfig(vision=vision, text=replace(text, embed_dim=vision.output_width), init_logit_bias=bias)

"""Fields of batches of texts, as those declare them who make them."""

import numpy as np

from diptych.core.data.batch import ANY, ArrayField

# fmt: off
TOKEN_IDS = ArrayField(
    np.int32, (("batch", "length"), ("batch", "texts", "length")), (0, ANY),
    "token ids of a text, or of several texts of an example",
)
TOKEN_WEIGHTS = ArrayField(
    np.float32, (("batch", "length"), ("batch", "texts", "length")), (0, ANY),
    "how much the prediction of each token counts; nothing predicts the first, whose weight is not read",
)
TOKEN_MASK = ArrayField(
    np.bool_, (("batch", "length"), ("batch", "texts", "length")), (0, 1), "which tokens are no padding",
)
SUFFIX_MASK = ArrayField(
    np.bool_, (("batch", "length"), ("batch", "texts", "length")), (0, 1),
    "which tokens are an answer's, or its end; all before them see each other",
)
DROPOUT_SEEDS = ArrayField(
    np.int32, (("batch",), ("batch", "texts")), (-ANY, ANY), "of what is left out of each text in this step",
)
# fmt: on

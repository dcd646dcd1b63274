"""Products on the matrix units of what torch computes on."""

import torch


def multiply_bfloat16(a, b):
    """See `diptych.core.losses.products.multiply_bfloat16`.

    torch gives float32 sums of bfloat16 operands on CUDA, from 2.8 on; elsewhere the operands are widened.
    """
    if a.is_cuda and torch.__version__ >= "2.8":
        return torch.mm(a, b, out_dtype=torch.float32)
    return torch.mm(a.float(), b.float())

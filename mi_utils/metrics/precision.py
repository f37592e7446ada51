"""What a float32 product or convolution is computed in: hardware may round its inputs where it is allowed to."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

Products = Literal["ieee", "tf32"]


@contextmanager
def float32(products: Products = "ieee") -> Iterator[None]:
    """Convolutions in full float32 and products as said, whatever the caller allows elsewhere; put back on leaving.

    On a GPU both could be tf32, on a CPU bf16, with errors a thousand times those of float32.  Does not mix with
    torch's older switches (`allow_tf32`), which nothing in this project uses.
    """
    wanted = {
        torch.backends.cuda.matmul: products,
        torch.backends.cudnn.conv: "ieee",
        torch.backends.mkldnn.matmul: "ieee",
        torch.backends.mkldnn.conv: "ieee",
    }
    before = {backend: backend.fp32_precision for backend in wanted}
    try:
        for backend, precision in wanted.items():
            backend.fp32_precision = precision
        yield
    finally:
        for backend, precision in before.items():
            backend.fp32_precision = precision

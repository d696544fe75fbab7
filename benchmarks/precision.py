"""Precisions of products by the names that tables use, and a block in which fp32 products have one of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch


class Precision(NamedTuple):
    """A dtype, and what torch calls the precision of its products."""

    dtype: torch.dtype
    products: str


PRECISIONS = {
    "ieee": Precision(torch.float32, "highest"),
    "tf32": Precision(torch.float32, "high"),
    "bf16": Precision(torch.bfloat16, "highest"),
}


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Within the block fp32 products are taken at this precision, by torch and by our kernels alike."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(PRECISIONS[name].products)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)

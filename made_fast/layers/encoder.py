"""What the network reads of the variables: numbers, one-hot categories, embeddings; and products that skip the zeros."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from made_fast.layers.linear import MaskedLinear, masked_linear
from made_fast.masks import whole_mask
from made_fast.outputs.codes import Encoding
from made_fast.outputs.conditional import Conditional
from made_fast.programs.functions import FUNCTIONS
from made_fast.tracing import is_exporting, unwatched

__all__ = ["Encoder", "read", "read_layer"]


class _SumOfRows(torch.autograd.Function):
    """Sums (B, H) of the rows (B, n) of a matrix (E, H); embedding_bag, which torch cannot differentiate twice."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.height = weight.shape[0]
        return F.embedding_bag(rows, weight, mode="sum")

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return _Scattered.apply(grads[0], rows, ctx.height), None  # type: ignore[no-untyped-call]


class _Scattered(torch.autograd.Function):
    """The transposed operation: adds each gradient (B, H) to all of its rows of a matrix (E, H) of zeros."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, rows: Tensor, height: int) -> Tensor:
        ctx.save_for_backward(rows)
        with torch.enable_grad():
            weight = grad.new_zeros(height, grad.shape[1]).requires_grad_()
            total = F.embedding_bag(rows, weight, mode="sum")
        return torch.autograd.grad(total, weight, grad)[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        return _SumOfRows.apply(grads[0], rows), None, None  # type: ignore[no-untyped-call]


class Encoder(nn.Module):
    """Encodes variables that are no plain numbers.

    Args:
        conditionals: one for each variable.

    Attributes:
        embedding: (rows, width) the tables of all embedded variables; a variable with fewer units reads the leading ones.
    """

    embedding: nn.Parameter | None
    numbers: Tensor
    one_hot: Tensor
    one_hot_units: Tensor
    embedded: Tensor
    embedded_rows: Tensor
    embedded_units: Tensor
    dense_order: Tensor
    dense_units: Tensor

    def __init__(self, conditionals: Sequence[Conditional]) -> None:
        super().__init__()
        self.conditionals = tuple(conditionals)
        kinds = [each.encoding for each in conditionals]
        embedded = [each for each in conditionals if each.encoding == Encoding.EMBEDDING]
        width = max((each.units for each in embedded), default=0)
        rows = sum(each.size for each in embedded)
        # The first values are those of nn.Embedding.
        self.register_parameter("embedding", nn.Parameter(torch.randn(rows, width)) if rows else None)
        units = list(accumulate((each.units for each in conditionals), initial=0))
        first_row = list(
            accumulate((each.size * (each.encoding == Encoding.EMBEDDING) for each in conditionals), initial=0)
        )
        of = {kind: [d for d, encoding in enumerate(kinds) if encoding == kind] for kind in Encoding}
        numbers, one_hot, tables = of[Encoding.NUMBER], of[Encoding.ONE_HOT], of[Encoding.EMBEDDING]
        # What ``dense`` puts side by side, numbers first and then the rows of tables, as input units; and by their number.
        dense = [units[d] for d in numbers]
        dense += [units[d] + unit for d in tables for unit in range(self.conditionals[d].units)]
        used = [place * width + unit for place, d in enumerate(tables) for unit in range(self.conditionals[d].units)]
        places = {
            "numbers": numbers,
            "one_hot": one_hot,
            "one_hot_units": [units[d] for d in one_hot],
            "embedded": tables,
            "embedded_rows": [first_row[d] for d in tables],
            "embedded_units": used,
            "dense_order": sorted(range(len(dense)), key=dense.__getitem__),
            "dense_units": sorted(dense),
        }
        scales = [(self.conditionals[d].scale, self.conditionals[d].shift) for d in numbers]
        with unwatched():  # the embedding alone is weights, which may be without memory yet
            for name, values in places.items():
                self.register_buffer(name, torch.tensor(values, dtype=torch.int64), persistent=False)
            # Kept exact: a buffer would be rounded when the module changes its dtype.
            self.scale_and_shift = torch.tensor(scales, dtype=torch.float64).reshape(-1, 2)
        self.num_units = units[-1]

    @staticmethod
    def needed(conditionals: Sequence[Conditional]) -> bool:
        """Whether the network reads anything but the variables themselves."""
        return not all(each.reads_itself for each in conditionals)

    @property
    def has_one_hot(self) -> bool:
        """Whether a variable is read one-hot."""
        return len(self.one_hot) > 0

    def flat_tables(self) -> Tensor | None:
        """The tables of the embedded variables one after another, as a ``Program`` holds them; detached."""
        if self.embedding is None:
            return None
        if self.embedding.is_meta:
            raise ValueError("weights must have memory, found none on meta")
        tables = []
        for variable, first in zip(self.embedded.tolist(), self.embedded_rows.tolist(), strict=True):
            conditional = self.conditionals[variable]
            tables.append(self.embedding.detach()[first : first + conditional.size, : conditional.units].flatten())
        return torch.cat(tables)

    def one_hot_rows(self, x: Tensor) -> Tensor:
        """Number of the input unit that is 1, for each one-hot variable: (..., n) int64."""
        return x[..., self.one_hot].long() + self.one_hot_units

    def dense(self, x: Tensor) -> Tensor:
        """The units of all variables that are not one-hot, (..., m), by variable."""
        parts = []
        if len(self.numbers):
            scale, shift = self.scale_and_shift.to(x).unbind(1)
            parts.append(x[..., self.numbers] * scale + shift)
        if self.embedding is not None:
            rows = self.embedding[x[..., self.embedded].long() + self.embedded_rows]  # (..., n, width)
            parts.append(rows.flatten(-2)[..., self.embedded_units])
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts, dim=-1)[..., self.dense_order] if parts else x[..., :0]

    def forward(self, x: Tensor) -> Tensor:
        """All units, zeros included: (..., E) from x (..., D)."""
        dense = self.dense(x)
        if not self.has_one_hot:
            return dense
        whole = x.new_zeros(*x.shape[:-1], self.num_units).scatter(-1, self.one_hot_rows(x), 1)
        if len(self.dense_units):
            whole = whole.scatter(-1, self.dense_units.expand(*x.shape[:-1], -1), dense)
        return whole


def read_layer(
    encoder: Encoder, x: Tensor, layer: MaskedLinear, mask: Tensor | None, activation: str | None = None
) -> Tensor:
    """``layer(encoder(x))``, see ``read``; by a call of the layer where nothing is one-hot, so that its hooks are called."""
    if not encoder.has_one_hot:
        return layer(encoder(x), mask, activation=activation)  # type: ignore[no-any-return]
    return read(encoder, x, layer.weight, layer.chosen_mask(mask), layer.bias_under(mask), activation)


def read(
    encoder: Encoder | None,
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None,
    activation: str | None = None,
) -> Tensor:
    """``masked_linear(encoder(x), ...)`` without the zeros of one-hot variables: columns of the weights are added up.

    Args:
        encoder: or None, where the network reads x itself.
        x: (..., D).
        weight, mask, bias, activation: see ``masked_linear``.

    Returns:
        (..., out).
    """
    if encoder is None:
        return masked_linear(x, weight, mask, bias, activation=activation)
    functorch = not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()
    if functorch or is_exporting() or not encoder.has_one_hot:  # an embedding_bag is a loop in ONNX
        return masked_linear(encoder(x), weight, mask, bias, activation=activation)
    columns = torch.where(whole_mask(mask, weight.shape), weight, 0).t().contiguous()  # (E, out)
    rows = encoder.one_hot_rows(x)
    total: Tensor = _SumOfRows.apply(columns, rows.reshape(-1, rows.shape[-1]))  # type: ignore[no-untyped-call]
    total = total.reshape(*rows.shape[:-1], -1)
    if len(encoder.dense_units):
        total = total + encoder.dense(x) @ columns[encoder.dense_units]
    return FUNCTIONS[activation or "identity"](total if bias is None else total + bias)

"""Categories, read one-hot or by a table of embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from made_fast.arguments import number_or_numbers, whole_number
from made_fast.outputs.codes import Code, Encoding
from made_fast.outputs.conditional import Conditional
from made_fast.outputs.decoding import PLAIN, Decoding
from made_fast.outputs.output import Output
from made_fast.outputs.rules import at_temperature, choose_allowed, choose_category, is_whole, wide

__all__ = ["Categorical", "CategoricalConditional"]


@dataclass(frozen=True)
class CategoricalConditional(Conditional):
    """0 .. size - 1 with a logit for each; the network reads a unit for each category, or an embedding of so many numbers."""

    size: int
    embedding: int = 0
    code = Code.CATEGORICAL

    @property
    def num_params(self) -> int:  # type: ignore[override]
        return self.size

    @property
    def encoding(self) -> Encoding:  # type: ignore[override]
        return Encoding.EMBEDDING if self.embedding else Encoding.ONE_HOT

    @property
    def units(self) -> int:  # type: ignore[override]
        return self.embedding or self.size

    def values(self) -> Tensor:
        return torch.arange(self.size, dtype=torch.float64)

    def valid(self, x: Tensor) -> Tensor:
        return (x >= 0) & (x < self.size) & is_whole(x)

    @property
    def expected(self) -> str:
        return f"a category 0 .. {self.size - 1}"

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """Less the greatest logit before the log of the sum: large logits would swallow it."""
        log_probs, category = wide(params).log_softmax(-1), x.long()[..., None]
        if log_probs.shape[:-1] == x.shape:
            return log_probs.gather(-1, category)[..., 0]
        chosen: Tensor = torch.take_along_dim(log_probs, category, -1)[..., 0]  # which takes a size for a number
        return chosen

    def draw(self, params: Tensor, uniforms: Tensor, decoding: Decoding = PLAIN) -> Tensor:
        if decoding.greedy:
            return self.mode(params)
        weights = torch.exp(at_temperature(params - params.amax(-1, keepdim=True), decoding.temperature))
        if decoding.top_k or decoding.top_p < 1:
            weights = _truncated(weights, decoding)
        return choose_category(weights, uniforms[..., 0]).to(params.dtype)

    def draw_within(self, params: Tensor, uniforms: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        chosen, log_mass = choose_allowed(params, uniforms[..., 0], allowed)
        return chosen.to(params.dtype), log_mass

    def mode(self, params: Tensor) -> Tensor:
        return params.argmax(-1).to(params.dtype)

    def cdf(self, params: Tensor, x: Tensor) -> Tensor:
        below = torch.arange(self.size, device=params.device) <= x[..., None]
        return torch.where(below, params.softmax(-1), 0).sum(-1)


def _truncated(weights: Tensor, decoding: Decoding) -> Tensor:
    """Weights (..., K) with zeros where ``top_k`` or ``top_p`` drops a category; among equals the lower number stays."""
    sorted_, order = weights.sort(dim=-1, descending=True, stable=True)
    kept = torch.ones_like(sorted_, dtype=torch.bool)
    if decoding.top_k:
        kept[..., decoding.top_k :] = False
    sums = torch.where(kept, sorted_, 0).cumsum(-1)
    kept &= (sums - sorted_) < decoding.top_p * sums[..., -1:]  # what comes before is not yet enough
    kept[..., 0] = True
    return torch.where(torch.zeros_like(kept).scatter(-1, order, kept), weights, 0)


class Categorical(Output):
    """Categories 0 .. K_d - 1, a logit for each.

    Args:
        sizes: K of every variable, or K_d for each of them.
        embedding: 0: the network reads categories one-hot; n: by n numbers for each, learned.
    """

    name = "categorical"

    def __init__(self, sizes: int | Sequence[int], embedding: int = 0) -> None:
        self.sizes = number_or_numbers("sizes", sizes, 1)
        if self.sizes == ():
            raise ValueError(f"sizes must be a positive integer or a sequence of such, got {sizes!r}")
        self.embedding = whole_number("embedding", embedding)

    def conditionals(self, features: int) -> tuple[Conditional, ...]:
        sizes = (self.sizes,) * features if isinstance(self.sizes, int) else self.sizes
        if len(sizes) != features:
            raise ValueError(f"sizes must have one entry for each of {features} variables, got {len(sizes)}")
        return tuple(CategoricalConditional(size, self.embedding) for size in sizes)

    @classmethod
    def example(cls) -> Categorical:
        return cls(3)

    def arguments(self) -> dict[str, Any]:
        sizes = self.sizes if isinstance(self.sizes, int) else list(self.sizes)
        return {"sizes": sizes, "embedding": self.embedding}

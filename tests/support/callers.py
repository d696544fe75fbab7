"""What takes arguments: models, ensembles, flows, samplers and modules of others, of two variables and a context of two."""

import functools
from typing import Any

import torch
from torch import Tensor, nn

from made_fast import MADE, accelerate
from made_fast.compat import nflows, pytorch_made
from made_fast.flows import MaskedAutoregressiveFlow

ROWS = [[0, 1], [1, 1], [1, 0]]  # (B, D) and (B, C)
CONTEXT: dict[str, Any] = {"hidden_features": (5,), "context_features": 2}
FLAGS = torch.tensor([True, False])


class Plain(nn.Module):
    """Of someone else: parameters of two variables from x and a context."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.of_context = nn.Linear(2, 2), nn.Linear(2, 2)
        with torch.no_grad():
            self.linear.weight.copy_(self.linear.weight.tril(-1))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self.linear(x) + self.of_context(context)  # type: ignore[no-any-return]


@functools.cache
def callers() -> dict[str, Any]:
    """What is called, by name."""
    torch.manual_seed(0)
    model, ensemble, real = MADE(2, **CONTEXT), MADE(2, **CONTEXT, num_masks=3).eval(), MADE(2, (4,), output="normal")
    return {
        "plain": MADE(2, (4,)),
        "model": model,
        "ensemble": ensemble,
        "real": real,
        "sampler": model.sampler(),
        "ensemble sampler": ensemble.sampler(),
        "flow": MaskedAutoregressiveFlow(2, 2, (5,), 2),
        "nflows": nflows.MADE(2, 5, 2),
        "pytorch_made": pytorch_made.MADE(2, [5], 2, natural_ordering=True),
        "accelerated": accelerate(Plain(), features=2, context_features=2),
        "x": torch.tensor(ROWS).float(),
    }


def cost_of(x: Tensor) -> Tensor:
    return x.sum(-1)

"""``MADE`` with the arguments and the state dict of karpathy's pytorch-made."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from made_fast.arguments import whole_number, whole_numbers
from made_fast.compat.drawn import Drawn, Masked, connected
from made_fast.outputs.output import Output

__all__ = ["MADE"]


class MADE(Drawn):
    """A stack of masked linear layers with relu, of random or natural order, whose masks can be drawn anew.

    The same arguments make the same masks as the original, and ``load_state_dict`` takes its checkpoints, masks included.

    Args:
        nin: D.
        hidden_sizes: widths of the hidden layers.
        nout: parameters, a multiple of D, parameter-major: first those of one kind for all variables.
        num_masks: how many sets of masks ``update_masks`` goes through.
        natural_ordering: variables in their own order; else in a random one.
        output: what the parameters mean (``made_fast.outputs``); Bernoulli logits if left out and ``nout == nin``. It is no
            argument of the original.

    Attributes:
        m: degrees by layer, -1 for the input, of the masks that were drawn last; a checkpoint does not have them.
        seed: of the masks that ``update_masks`` draws next; a checkpoint does not have it either.

    Raises:
        ValueError: an argument does not fit; the message names it.

    Source: structure and masks of https://github.com/karpathy/pytorch-made, written anew.
    """

    def __init__(
        self,
        nin: int,
        hidden_sizes: Sequence[int],
        nout: int,
        num_masks: int = 1,
        natural_ordering: bool = False,
        *,
        output: str | Output | None = None,
    ) -> None:
        widths = whole_numbers("hidden_sizes", hidden_sizes, 1)
        nin, nout = whole_number("nin", nin, 2 if widths else 1), whole_number("nout", nout, 1)
        if nout % nin:
            raise ValueError(f"nout must be a multiple of nin={nin}, got {nout}")
        super().__init__(nin, 0, nout // nin, output)
        self.nin, self.nout, self.natural_ordering = nin, nout, natural_ordering
        self.hidden_sizes = list(widths)
        self.num_masks, self.seed = whole_number("num_masks", num_masks, 1), 0
        self.m: dict[int, np.ndarray] = {}
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([nin, *self.hidden_sizes, nout]):
            layers += [Masked(torch.ones(outputs, inputs)), nn.ReLU()]
        self.net = nn.Sequential(*layers[:-1])
        self.update_masks()

    def update_masks(self) -> None:
        """Draws the next set of masks; after ``num_masks`` of them comes the first again. With one set it does nothing."""
        if self.m and self.num_masks == 1:
            return
        generator = np.random.RandomState(self.seed)  # the original's, so that masks are the same
        self.seed = (self.seed + 1) % self.num_masks
        last = len(self.hidden_sizes)
        self.m[-1] = np.arange(self.nin) if self.natural_ordering else generator.permutation(self.nin)
        for layer, width in enumerate(self.hidden_sizes):
            self.m[layer] = generator.randint(self.m[layer - 1].min(), self.nin - 1, size=width)
        degrees = [torch.from_numpy(self.m[layer]) for layer in range(-1, last)]
        masks = [connected(above, below) for below, above in pairwise(degrees)]
        masks.append(connected(degrees[0], degrees[-1], strict=True).repeat(self.nout // self.nin, 1))
        with torch.no_grad():
            for linear, mask in zip((each for each in self.net if isinstance(each, Masked)), masks, strict=True):
                linear.mask.copy_(mask)

    def forward(self, x: Tensor) -> Tensor:
        """Parameters (B, nout), parameter-major, of x (B, nin)."""
        found: Tensor = self.net(x)
        return found

    def _variable_major(self, x: Tensor, context: Tensor | None) -> Tensor:
        if context is not None:
            raise ValueError(f"context must be None, since this network takes none, got {tuple(context.shape)}")
        params: Tensor = self(x)
        found: Tensor = params.unflatten(-1, (-1, self.nin)).transpose(-1, -2).flatten(-2)
        return found

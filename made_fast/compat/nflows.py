"""``MADE`` with the arguments and the state dict of nflows, of both its classes of that name."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from made_fast.arguments import one_of, whole_number
from made_fast.compat.drawn import Drawn, Masked, connected
from made_fast.outputs.output import Output

__all__ = ["MADE"]

Activation = Callable[[Tensor], Tensor]
_VARIANTS = ("transforms", "nde")
_EPSILON = 1e-3  # of batch norms, and the bound of the first weights of a block's second layer


class MADE(Drawn):
    """Masked residual or feed-forward blocks of one width, in natural order.

    The same arguments make the same masks as the original, and ``load_state_dict`` takes its checkpoints, masks included.

    Args:
        features: D.
        hidden_features: width of all hidden layers.
        context_features: C, or None for none. As in the original, the first variable does not see it.
        num_blocks: of two masked layers each with residual blocks, of one without.
        output_multiplier: parameters for each variable, K; variable-major.
        use_residual_blocks: residual or feed-forward blocks.
        random_mask: random degrees of hidden units; feed-forward blocks only.
        activation: elementwise function. It is no part of a checkpoint.
        dropout_probability: in each block.
        use_batch_norm: in each block. Samples take evaluation mode then, and with dropout.
        output: what the parameters mean (``made_fast.outputs``); Bernoulli logits if left out and K = 1. It is no argument of
            the original.
        variant: ``"transforms"`` computes what ``nflows.transforms.made.MADE`` does, ``"nde"`` what
            ``nflows.nn.nde.made.MADE`` does. Their state dicts have the same keys; only the first applies the activation to
            the context and, without residual blocks, after the first layer. It is no argument of the original.

    Raises:
        ValueError: an argument does not fit; the message names it.

    Source: structure and masks of https://github.com/bayesiains/nflows, written anew.
    """

    def __init__(
        self,
        features: int,
        hidden_features: int,
        context_features: int | None = None,
        num_blocks: int = 2,
        output_multiplier: int = 1,
        use_residual_blocks: bool = True,
        random_mask: bool = False,
        activation: Activation = F.relu,
        dropout_probability: float = 0.0,
        use_batch_norm: bool = False,
        *,
        output: str | Output | None = None,
        variant: str = "transforms",
    ) -> None:
        features, hidden_features = (
            whole_number("features", features, 1),
            whole_number("hidden_features", hidden_features, 1),
        )
        context = 0 if context_features is None else whole_number("context_features", context_features, 1)
        num_blocks = whole_number("num_blocks", num_blocks, 0)
        output_multiplier = whole_number("output_multiplier", output_multiplier, 1)
        if use_residual_blocks and random_mask:
            raise ValueError("random_mask must be False with residual blocks, got True: give use_residual_blocks=False")
        one_of("variant", variant, _VARIANTS)
        super().__init__(features, context, output_multiplier, output)
        self.hidden_features, self.output_multiplier = hidden_features, output_multiplier
        self.use_residual_blocks, self.activation, self.variant = use_residual_blocks, activation, variant
        inputs = torch.arange(1, features + 1)
        self.initial_layer = _hidden_layer(inputs, hidden_features, features, random_mask)
        if context:
            self.context_layer = nn.Linear(context, hidden_features)
        self.blocks = nn.ModuleList()
        degrees = self.initial_layer.degrees
        for _ in range(num_blocks):
            options = (activation, dropout_probability, use_batch_norm)
            layers = [_hidden_layer(degrees, hidden_features, features, random_mask)]
            if use_residual_blocks:
                layers.append(_hidden_layer(layers[0].degrees, hidden_features, features, random_mask))
            self.blocks.append((_Residual if use_residual_blocks else _FeedForward)(layers, context, *options))
            degrees = layers[-1].degrees
        outputs = inputs.repeat_interleave(output_multiplier)
        self.final_layer = Masked(connected(outputs, degrees, strict=True), outputs)

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        """Parameters (B, D * K), variable-major, of inputs (B, D) and context (B, C) or None.

        Raises:
            ValueError: a context is given to a network that takes none, or left out of one that takes it.
        """
        if (context is None) != (self._sizes[1] == 0):
            raise ValueError(
                f"context must be {f'(B, {self._sizes[1]})' if self._sizes[1] else 'None'} for this network, got "
                f"{None if context is None else tuple(context.shape)}"
            )
        hidden = self.initial_layer(inputs)
        if context is not None:
            added = self.context_layer(context)
            hidden = hidden + (self.activation(added) if self.variant == "transforms" else added)
        if self.variant == "transforms" and not self.use_residual_blocks:
            hidden = self.activation(hidden)
        for block in self.blocks:
            hidden = block(hidden, context)
        found: Tensor = self.final_layer(hidden)
        return found


class _Residual(nn.Module):
    def __init__(
        self, layers: list[Masked], context: int, activation: Activation, dropout: float, batch_norm: bool
    ) -> None:
        super().__init__()
        width = layers[0].in_features
        if context:
            self.context_layer = nn.Linear(context, width)
        norms = [nn.BatchNorm1d(width, eps=_EPSILON) for _ in layers] if batch_norm else []
        if batch_norm:
            self.batch_norm_layers = nn.ModuleList(norms)
        self.linear_layers = nn.ModuleList(layers)
        self.activation, self.dropout, self.batch_norm = activation, nn.Dropout(dropout), batch_norm
        for parameter in layers[1].parameters():
            nn.init.uniform_(parameter, -_EPSILON, _EPSILON)

    def forward(self, inputs: Tensor, context: Tensor | None) -> Tensor:
        hidden = self.batch_norm_layers[0](inputs) if self.batch_norm else inputs
        hidden = self.linear_layers[0](self.activation(hidden))
        hidden = hidden if context is None else hidden + self.context_layer(context)
        hidden = self.batch_norm_layers[1](hidden) if self.batch_norm else hidden
        found: Tensor = inputs + self.linear_layers[1](self.dropout(self.activation(hidden)))
        return found


class _FeedForward(nn.Module):
    def __init__(
        self, layers: list[Masked], context: int, activation: Activation, dropout: float, batch_norm: bool
    ) -> None:
        super().__init__()
        self.batch_norm = nn.BatchNorm1d(layers[0].in_features, eps=_EPSILON) if batch_norm else None
        self.linear, self.activation, self.dropout = layers[0], activation, nn.Dropout(dropout)

    def forward(self, inputs: Tensor, context: Tensor | None) -> Tensor:
        hidden = inputs if self.batch_norm is None else self.batch_norm(inputs)
        found: Tensor = self.dropout(self.activation(self.linear(hidden)))
        return found


def _hidden_layer(below: Tensor, width: int, features: int, random: bool) -> Masked:
    """A hidden layer on units of degrees ``below``: degrees 1 .. D - 1 in turns, or random ones from the least of them."""
    least, most = min(1, features - 1), max(1, features - 1)
    if random:
        degrees = torch.randint(min(int(below.min()), features - 1), features, (width,))
    else:
        degrees = torch.arange(width) % most + least
    return Masked(connected(degrees, below), degrees)

"""MADE, the module."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from made_fast import masks
from made_fast.layers.encoder import Encoder, read_layer
from made_fast.layers.linear import MaskedLinear
from made_fast.masks.mask_set import SHUFFLES, MaskSet
from made_fast.models import files as checkpoint
from made_fast.models.draws import ModelDraws
from made_fast.models.lowering import program_of
from made_fast.models.model_files import config_of, load_model
from made_fast.models.parameters import log_prob_of, parameters_of
from made_fast.outputs.kinds import make_output
from made_fast.outputs.output import Output
from made_fast.programs.check import Report, check_model
from made_fast.programs.functions import ACTIVATIONS, FUNCTIONS
from made_fast.programs.program import Program
from made_fast.sampling.ensemble_sampler import EnsembleSampler
from made_fast.sampling.kept import KeptSampler
from made_fast.sampling.sampler import Sampler

__all__ = ["MADE", "MaskedLinear"]

HIDDEN_ACTIVATIONS = tuple(name for name in ACTIVATIONS if name != "identity")


class MADE(ModelDraws, nn.Module):
    r"""Masked autoencoder: an exact autoregressive density :math:`p(x) = \prod_s p(x_{o(s)} \mid x_{o(<s)})`.

    Args:
        features: number of variables D.
        hidden_features: widths of the hidden layers; ``()`` leaves the parameters to the biases and, with ``direct``, to the
            variables themselves (the fully visible sigmoid belief network).
        output: name of the output distribution, or one of ``made_fast.outputs``.
        order: see ``masks.make_order``.
        context_features: C; 0 for none. The context feeds the first hidden layer, whose units of degree 0 carry it to every
            variable, and with ``direct`` the parameters too.
        activation: relu, leaky_relu, elu, gelu, silu, softplus, tanh or sigmoid.
        residual: ResMADE (Nash and Durkan 2019): every width after the first is a block of two masked layers,
            ``h + W2 a(W1 a(h))``; all widths must be equal.
        direct: connects the variables to the parameters, masked so that nothing leaks.
        seed: seeds ``order="random"`` and ``degrees="random"``; the weights come from torch's generator, as everywhere.
        degrees: ``"even"`` or ``"random"`` degrees of the hidden units.
        num_masks: 1; or n, two or more: an ensemble of n masks that share the weights, :math:`p(x) = \frac1n \sum_k
            p_k(x)`; or 0: a fresh mask at each index 0, 1, 2, ..., of which the first ``ensemble.EVALUATION_MASKS`` make
            the mean. Mask 0 is the one of ``order`` and ``degrees``; mask k is a function of (seed, k).
        shuffle: what the other masks draw anew: the ``"order"`` of the variables, the ``"connectivity"`` (the degrees of
            the hidden units), or ``"both"``.
        mask_conditioning: lets the biases of hidden layers and parameters depend on the mask (Germain et al., 4.3).

    A forward pass uses one mask, the current one unless another is named. Training calls ``next_mask`` once for each
    minibatch, after the backward pass:

        loss = -model.log_prob(x).mean()   # in training mode: of the current mask alone
        loss.backward()
        optimizer.step(), optimizer.zero_grad(), model.next_mask()

    It does not happen by itself, since a forward pass may be repeated (activation checkpointing does so during the
    backward pass) and must then find the same mask. In evaluation mode ``log_prob`` is that of the whole ensemble.

    Raises:
        ValueError: an argument does not fit; the message names it.

    Source: Germain, Gregor, Murray, Larochelle, "MADE: Masked Autoencoder for Distribution Estimation", ICML 2015.
    """

    order: Tensor

    def __init__(
        self,
        features: int,
        hidden_features: Sequence[int] = (512, 512),
        *,
        output: str | Output | dict[str, Any] = "bernoulli",
        order: str | Sequence[int] | Tensor = "natural",
        context_features: int = 0,
        activation: str = "relu",
        residual: bool = False,
        direct: bool = False,
        seed: int = 0,
        degrees: str = "even",
        num_masks: int = 1,
        shuffle: str = "both",
        mask_conditioning: bool = False,
    ) -> None:
        super().__init__()
        widths = checkpoint.check_widths(hidden_features)
        if activation not in HIDDEN_ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(HIDDEN_ACTIVATIONS)}, got {activation!r}")
        if not isinstance(context_features, int) or context_features < 0:
            raise ValueError(f"context_features must be an integer, 0 or more, got {context_features!r}")
        if residual and (not widths or len(set(widths)) != 1):
            raise ValueError(f"hidden_features must be equal and not empty for residual=True, got {widths}")
        if not isinstance(num_masks, int) or isinstance(num_masks, bool) or num_masks < 0:
            raise ValueError(f"num_masks must be an integer, 0 or more, got {num_masks!r}")
        if shuffle not in SHUFFLES:
            raise ValueError(f"shuffle must be one of {', '.join(SHUFFLES)}, got {shuffle!r}")
        self.features, self.hidden_features, self.context_features = features, widths, context_features
        self.output, self.activation, self.residual, self.direct = make_output(output), activation, residual, direct
        self.seed, self.degrees = seed, degrees
        self.num_masks, self.shuffle, self.mask_conditioning = num_masks, shuffle, mask_conditioning
        self.register_buffer("order", masks.make_order(order, features, seed=seed))
        self.conditionals = self.output.conditionals(features)
        self.params_per_variable = tuple(each.num_params for each in self.conditionals)
        self.encoder = Encoder(self.conditionals) if Encoder.needed(self.conditionals) else None
        self._build_layers()
        self._sampler = KeptSampler()

    def _build_layers(self) -> None:
        residual, context = self.residual, self.context_features > 0
        degrees: list[Tensor] = []
        for index, width in enumerate(self.hidden_features[:1] if residual else self.hidden_features):
            options: dict[str, Any] = {"context": context, "kind": self.degrees, "seed": self.seed + 1 + index}
            minimum = int(degrees[-1].min()) if degrees else 1  # the smallest of the layer below
            degrees.append(masks.hidden_degrees(width, self.features, minimum=minimum, **options))
        # Blocks of a residual network add units of equal degree, so all its layers share one set of degrees.
        count = len(self.hidden_features)
        sets = [0] * (2 * count - 1) if residual else range(count)
        self.ensemble = None
        wiring: dict[str, Any] = {"params_per_variable": self.params_per_variable, "direct": self.direct}
        wiring["input_units"] = [each.units for each in self.conditionals]
        layers = masks.layer_degrees(self.order, [degrees[number] for number in sets], **wiring)
        if self.num_masks != 1:
            drawn: dict[str, Any] = {"num_masks": self.num_masks, "shuffle": self.shuffle, "seed": self.seed}
            self.ensemble = MaskSet(self.order, degrees, **drawn, context=context, sets=sets, **wiring)
        made = [
            MaskedLinear(
                len(columns),
                len(rows),
                masks.connectivity(rows, columns) if self.ensemble is None else None,
                bias=number <= len(sets),
                conditioning=self.mask_conditioning and number <= len(sets),
            )
            for number, (rows, columns) in enumerate(layers)
        ]
        self.hidden = nn.ModuleList(made[: len(sets)])
        self.parameters_layer = made[len(sets)]
        self.direct_layer = made[-1] if len(made) > len(sets) + 1 else None
        first, size, num_params = self.hidden_features[:1], self.context_features, sum(self.params_per_variable)
        to_params = size and (self.direct or not self.hidden_features)
        self.context_layer = nn.Linear(size, first[0], bias=False) if size and first else None
        self.context_direct_layer = nn.Linear(size, num_params, bias=False) if to_params else None

    @property
    def masked_layers(self) -> list[MaskedLinear]:
        """The layers that have masks: hidden ones, parameters, and the direct one if there is one."""
        direct = [] if self.direct_layer is None else [self.direct_layer]
        return [*self.hidden, self.parameters_layer, *direct]

    @property
    def mask_index(self) -> int:
        """Number of the current mask; it can be set. It is no part of the state dict."""
        return 0 if self.ensemble is None else self.ensemble.index

    @mask_index.setter
    def mask_index(self, value: int) -> None:
        if self.ensemble is not None:
            self.ensemble.index = value
        elif value != 0:
            raise ValueError(f"mask_index must be 0 for a model with one mask, got {value!r}")

    def next_mask(self) -> None:
        """Makes the next mask the current one; after the last comes mask 0. Without an ensemble it does nothing.

        Call it once for each minibatch, when the backward pass is over.
        """
        if self.ensemble is not None:
            self.ensemble.advance()

    def order_of(self, mask: int) -> Tensor:
        """(D,) int64: the order of a mask."""
        self._checked_mask(mask)
        return self.order if self.ensemble is None else self.ensemble.order_of(mask)

    def forward(self, x: Tensor, context: Tensor | None = None, *, mask: int | None = None) -> Tensor:
        """Returns the parameters of all conditionals, variable-major.

        Args:
            x: (..., D).
            context: (..., C) that broadcasts with ``x``, or None if the model takes none.
            mask: index of the mask; the current one if left out.

        Returns:
            (..., P).

        Raises:
            ValueError: a shape does not fit, or there is no such mask.
        """
        own = self._layer_masks(mask)  # of the hidden layers, the parameters and the direct layer
        x, context = self._checked(x, "x", self.features), self._checked_context(context)
        return parameters_of(self, x, self._hidden(x, context, own), context, own)

    def _hidden(self, x: Tensor, context: Tensor | None, own: list[Tensor | None]) -> Tensor | None:
        """The last hidden layer, (..., H); None without any."""
        function, name, hidden = FUNCTIONS[self.activation], self.activation, None
        for index, layer in enumerate(
            self.masked_layers[: len(self.hidden)]
        ):  # of a residual network, the sums before the function
            if hidden is None:
                plain = self.residual or self.context_layer is not None
                hidden = read_layer(self.encoder, x, layer, own[0], None if plain else name)
                hidden = hidden if self.context_layer is None else hidden + self.context_layer(context)
                hidden = function(hidden) if plain and not self.residual else hidden
            elif self.residual and index % 2:
                skip, hidden = hidden, layer(function(hidden), own[index], activation=name)
            elif self.residual:
                hidden = skip + layer(hidden, own[index])
            else:
                hidden = layer(hidden, own[index], activation=name)
        return function(hidden) if self.residual and hidden is not None else hidden

    def log_prob(self, x: Tensor, context: Tensor | None = None, *, masks: int | Sequence[int] | None = None) -> Tensor:
        r"""Returns log p(x | context) in nats, of one mask or of the mean over several, :math:`\log \frac1n \sum_k p_k(x)`.

        Args:
            x: (..., D) with values that the output distribution can take.
            context: (..., C) that broadcasts with ``x``, or None.
            masks: index of one mask, or a sequence of them. If left out: the current mask in training mode, and in
                evaluation mode all of them (the first ``ensemble.EVALUATION_MASKS`` for ``num_masks=0``). Without
                gradients the memory is that of one mask.

        Returns:
            (...).

        Raises:
            ValueError: a shape does not fit, a value of ``x`` is impossible (nan included), or there is no such mask.
        """
        x = self._checked(x, "x", self.features)
        if not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()):
            self.output.check(x)
        chosen = masks
        if masks is None and self.ensemble is not None and not self.training:
            chosen = self.ensemble.evaluated
        if chosen is None or isinstance(chosen, int):
            return self._log_prob(x, context, chosen)
        if not isinstance(chosen, Sequence) or not chosen:
            raise ValueError(f"masks must be an integer or a sequence of at least one, got {masks!r}")
        total = self._log_prob(x, context, chosen[0])
        for mask in chosen[1:]:  # probabilities are averaged: a mean of logits would be no mixture of densities
            total = torch.logaddexp(total, self._log_prob(x, context, mask))
        return total - math.log(len(chosen))

    def _log_prob(self, x: Tensor, context: Tensor | None, mask: int | None) -> Tensor:
        own, context = self._layer_masks(mask), self._checked_context(context)
        return log_prob_of(self, x, self._hidden(x, context, own), context, own)

    def distribution(self, x: Tensor, context: Tensor | None = None, *, mask: int | None = None) -> Distribution:
        """Returns the conditionals p(x_d | x_<d, context) as a torch distribution: batch (...), event (D,).

        Those of one mask, the current one if left out; the conditionals of a mean are not the mean of conditionals.
        """
        return self.output.distribution(self.forward(x, context, mask=mask), self.features)

    def sampler(self, *, mask: int | None = None, bf16_weights: bool = False) -> Sampler | EnsembleSampler:
        """Returns a sampler of the model as it is now, of one mask or of the whole ensemble.

        The last one is kept and returned again until a parameter changes. Finding that out compares all parameters with a
        copy; who draws one row at a time from a finished model holds on to the sampler instead.

        Args:
            mask: index of the mask; the whole ensemble if left out.
            bf16_weights: see ``Sampler``; of one mask only.

        Raises:
            ValueError: there is no such mask, or bf16 weights cannot be had.
        """
        if mask is not None:
            self._checked_mask(mask)
        if bf16_weights:
            if mask is None and self.ensemble is not None:
                raise ValueError("mask must be given for bf16_weights in an ensemble, got None")
            return Sampler(self.program(mask=mask), self.output, bf16_weights=True)
        sampler = self._sampler.of(self)
        return sampler.of_mask(mask) if isinstance(sampler, EnsembleSampler) and mask is not None else sampler

    def program(self, *, mask: int | None = None) -> Program:
        """Returns the network with its present weights as a program, under one mask, the current one if left out."""
        order = self.order_of(self.mask_index if mask is None else mask)
        return program_of(self, self._layer_masks(mask), order)

    def check(self) -> Report:
        """Proves by its masks, and by Jacobians at random points, that the model is a density.

        Each variable must depend on variables before it alone. The masks that this class makes see to that; those that were
        loaded or changed by hand may not.

        Returns:
            what was found, readable when printed: sizes, levels, variables that a narrow layer cuts off from some before
            them, and the largest derivative where there must be none.

        Raises:
            ValueError: a variable depends on itself or on one that is drawn after it; the message names a pair.

        Warns:
            UserWarning: a variable is cut off from some that come before it.
        """
        return check_model(self)

    def save(self, path: str | Path) -> None:
        """Writes weights and configuration to a safetensors file.

        Raises:
            OSError: the folder does not exist or cannot be written.
            ValueError: the output distribution is one's own.
        """
        checkpoint.save(path, self.state_dict(), self.config())

    @classmethod
    def load(cls, path: str | Path) -> MADE:
        """Reads a model that ``save`` wrote. No code from the file is run.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is truncated, foreign, or does not fit its own configuration.
        """
        return load_model(cls, path)

    def config(self) -> dict[str, Any]:
        """Returns the arguments that build this model again, as JSON can hold them."""
        return config_of(self)

    def extra_repr(self) -> str:
        """The arguments, for ``print(model)``."""
        options = f"activation={self.activation!r}, residual={self.residual}, direct={self.direct}"
        if self.num_masks != 1:
            options += f", num_masks={self.num_masks}, shuffle={self.shuffle!r}, seed={self.seed}"
        if self.mask_conditioning:
            options += ", mask_conditioning=True"
        return f"{self.features}, {self.hidden_features}, output={self.output.name!r}, {options}"

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the sampler out of copies and pickles; it is made again when needed."""
        return {**self.__dict__, "_sampler": KeptSampler()}

    def _checked_mask(self, mask: int) -> None:
        if self.ensemble is not None:
            self.ensemble.checked(mask)
        elif not isinstance(mask, int) or isinstance(mask, bool) or mask != 0:
            raise ValueError(f"mask must be 0 for a model with one mask, got {mask!r}")

    def _layer_masks(self, mask: int | None) -> list[Tensor | None]:
        """What each of the masked layers is given: the degrees of a mask, or None for the mask of its own."""
        if mask is not None:
            self._checked_mask(mask)
        return [None] * len(self.masked_layers) if self.ensemble is None else [*self.ensemble.of_layers(mask)]

    def _checked(self, value: Tensor, name: str, width: int) -> Tensor:
        """The argument in the dtype of the weights: whole numbers are converted, other floats refused."""
        if value.shape[-1:] != (width,):
            raise ValueError(f"{name} must have shape (..., {width}), got {tuple(value.shape)}")
        expected = self.parameters_layer.weight.dtype
        if value.dtype == expected:
            return value
        if not value.is_floating_point() and not value.is_complex():
            return value.to(expected)
        if torch.is_autocast_enabled(value.device.type):
            return value
        raise ValueError(f"{name} must have dtype {expected} like the weights, got {value.dtype}")

    def _checked_context(self, context: Tensor | None) -> Tensor | None:
        if self.context_features and context is None:
            raise ValueError(f"context must have shape (..., {self.context_features}), got None")
        if not self.context_features and context is not None:
            raise ValueError(f"context must be None for a model without context_features, got {tuple(context.shape)}")
        return None if context is None else self._checked(context, "context", self.context_features)

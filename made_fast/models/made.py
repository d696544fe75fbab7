"""``MADE``: the model that is trained, saved and drawn from."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from made_fast.arguments import context_like, finite, like_weights, one_of, seed_number, whole_number, whole_numbers
from made_fast.layers.chains import NLL
from made_fast.masks import SHUFFLES, make_order
from made_fast.models import files
from made_fast.models.network import MaskedNetwork
from made_fast.models.samplers import kept_sampler
from made_fast.models.settled import class_of, is_plain, settled
from made_fast.outputs.kinds import describe, make_output
from made_fast.outputs.output import Output
from made_fast.programs.check import Report, report_on
from made_fast.programs.functions import ACTIVATIONS
from made_fast.programs.program import Program
from made_fast.requests.checks import check_rounded
from made_fast.requests.request import Request
from made_fast.sampling.draws import Draws
from made_fast.sampling.ensemble_sampler import EnsembleSampler
from made_fast.sampling.kept import State
from made_fast.sampling.sampler import Sampler
from made_fast.tracing import may_look, uncompiled, unwatched

__all__ = ["MADE"]

HIDDEN_ACTIVATIONS = tuple(name for name in ACTIVATIONS if name != "identity")


class MADE(MaskedNetwork, Draws):
    r"""Masked autoencoder: an exact autoregressive density :math:`p(x) = \prod_s p(x_{o(s)} \mid x_{o(<s)})`.

    Args:
        features: number of variables D.
        hidden_features: widths of the hidden layers; ``()`` leaves the parameters to the biases and, with ``direct``, to the
            variables themselves (the fully visible sigmoid belief network).
        output: name of the output distribution, or one of ``made_fast.outputs``.
        order: see ``masks.make_order``.
        context_features: C; 0 for none. The context feeds the first hidden layer, whose units of degree 0 carry it to every
            variable, and with ``direct`` the parameters too.
        activation: relu, leaky_relu, elu, selu, gelu, silu, softplus, tanh or sigmoid.
        residual: ResMADE (Nash and Durkan 2019): every width after the first is a block of two masked layers,
            ``h + W2 a(W1 a(h))``; all widths must be equal.
        direct: connects the variables to the parameters, masked so that nothing leaks.
        seed: seeds ``order="random"`` and ``degrees="random"``; the weights come from torch's generator, as everywhere.
        degrees: ``"even"`` or ``"random"`` degrees of the hidden units.
        num_masks: 1; or n, two or more: an ensemble of n masks that share the weights, :math:`p(x) = \frac1n \sum_k
            p_k(x)`; or 0: a fresh mask at each index 0, 1, 2, ..., of which the first ``masks.EVALUATION_MASKS`` make
            the mean. Mask 0 is the one of ``order`` and ``degrees``; mask k is a function of (seed, k).
        shuffle: what the other masks draw anew: the ``"order"`` of the variables, the ``"connectivity"`` (the degrees of
            the hidden units), or ``"both"``.
        mask_conditioning: lets the biases of hidden layers and parameters depend on the mask (Germain et al., 4.3).
        device, dtype: of the weights, as for ``nn.Linear``; on ``"meta"`` they have no memory until they are loaded.

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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        widths = files.check_widths(hidden_features)
        one_of("activation", activation, HIDDEN_ACTIVATIONS)
        context_features = whole_number("context_features", context_features)
        if residual and (not widths or len(set(widths)) != 1):
            raise ValueError(f"hidden_features must be equal and not empty for residual=True, got {widths}")
        num_masks = whole_number("num_masks", num_masks)
        one_of("shuffle", shuffle, SHUFFLES)
        seed = seed_number("seed", seed)
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise ValueError(f"dtype must be a floating dtype of torch, got {dtype!r}")
        distribution = make_output(output)
        with unwatched():
            first_order = make_order(order, features, seed=seed)
            conditionals = distribution.conditionals(len(first_order))
        wiring: dict[str, Any] = {"activation": activation, "residual": residual, "direct": direct, "degrees": degrees}
        ensemble: dict[str, Any] = {"num_masks": num_masks, "shuffle": shuffle, "mask_conditioning": mask_conditioning}
        sizes: dict[str, Any] = {"context_features": context_features, "seed": seed}
        with nullcontext() if device is None else torch.device(device):
            super().__init__(conditionals, first_order, widths, **sizes, **wiring, **ensemble)
        if dtype is not None:
            self.to(dtype)
        self.output, self.hidden_features, self.seed, self.degrees = distribution, widths, seed, degrees
        self.num_masks, self.shuffle = num_masks, shuffle
        self._sampler = kept_sampler(self)

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
        self.check_structure()
        mask = self._checked_mask(mask)
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
        layer_masks = self._layer_masks(mask)
        return self.parameters_of(*self._checked(x, context), layer_masks)

    def log_prob(self, x: Tensor, context: Tensor | None = None, *, masks: int | Sequence[int] | None = None) -> Tensor:
        r"""Returns log p(x | context) in nats, of one mask or of the mean over several, :math:`\log \frac1n \sum_k p_k(x)`.

        Args:
            x: (..., D) with values that the output distribution can take.
            context: (..., C) that broadcasts with ``x``, or None.
            masks: index of one mask, or a sequence of them. If left out: the current mask in training mode, and in
                evaluation mode all of them (the first ``masks.EVALUATION_MASKS`` for ``num_masks=0``). Without
                gradients the memory is that of one mask.

        Returns:
            (...).

        Raises:
            ValueError: a shape does not fit, a value of ``x`` is impossible (nan included), one of ``context`` is not finite,
                or there is no such mask.
        """
        x, context = self._checked_values(x, context)
        chosen: Any = masks
        if masks is None and self.ensemble is not None and not self.training:
            chosen = self.ensemble.evaluated
        elif getattr(masks, "ndim", 0):
            chosen = whole_numbers("masks", masks, None)
        if not isinstance(chosen, Sequence):
            return self.log_prob_of(x, context, self._layer_masks(chosen))
        chosen = [self._checked_mask(mask) for mask in chosen]
        if not chosen:
            raise ValueError(f"masks must be an integer or a sequence of at least one, got {masks!r}")
        total = self.log_prob_of(x, context, self._layer_masks(chosen[0]))
        for mask in chosen[1:]:  # probabilities are averaged: a mean of logits would be no mixture of densities
            total = torch.logaddexp(total, self.log_prob_of(x, context, self._layer_masks(mask)))
        return total - math.log(len(chosen))

    def _nll(self, x: Tensor, context: Tensor | None, seen: Tensor | None = None) -> NLL | None:
        """The mean of ``-log_prob(x, context)``, x (B, D), and its gradients; None where autograd must find them.

        With ``seen`` (B, D), in the dtype of the weights, that of x under ``distribution(seen, context)``.
        """
        if type(self) is not MADE or not self.training:
            return None  # what a subclass makes otherwise is not known
        if any(name in self.__dict__ for name in ("log_prob", "distribution", "forward")):
            return None
        return self.nll_of(*self._checked_values(x, context), self._layer_masks(None), seen)

    def distribution(self, x: Tensor, context: Tensor | None = None, *, mask: int | None = None) -> Distribution:
        """Returns the conditionals p(x_d | x_<d, context) as a torch distribution: batch (...), event (D,).

        Those of one mask, the current one if left out; the conditionals of a mean are not the mean of conditionals.
        """
        return self.output.distribution(self.forward(x, context, mask=mask), self.features)

    @uncompiled
    def sampler(self, *, mask: int | None = None, bf16_weights: bool = False) -> Sampler | EnsembleSampler:
        """Returns a sampler of the model as it is now, of one mask or of the whole ensemble.

        The last one is kept and returned again until a parameter changes. Finding that out compares all parameters with a
        copy; to draw one row at a time from a finished model, keep the sampler instead.

        Args:
            mask: index of the mask; the whole ensemble if left out.
            bf16_weights: see ``Sampler``; of one mask only.

        Raises:
            ValueError: there is no such mask, or bf16 weights cannot be had.
        """
        mask = None if mask is None else self._checked_mask(mask)
        if bf16_weights:
            if mask is None and self.ensemble is not None:
                raise ValueError("mask must be given for bf16_weights in an ensemble, got None")
            return Sampler(self.program(mask=mask), self.output, bf16_weights=True)
        sampler = self._sampler.current()
        return sampler.of_mask(mask) if isinstance(sampler, EnsembleSampler) and mask is not None else sampler

    def _drawn(self, request: Request, with_log_prob: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return self.sampler()._drawn(request, with_log_prob)

    def _of_mask(self, mask: int) -> Draws:
        return self.sampler(mask=mask)

    def _state(self) -> State:
        """What a sampler is made from: orders, masks and degrees, but not which of them is the current one; and weights."""
        self.check_structure()
        network, layers = self, self.layers
        if not is_plain(layers):
            network = self._settled()
            layers = network.layers
        structure = [network._buffers["order"], *(layer._buffers.get("mask") for layer in layers)]
        if network.ensemble is not None:
            structure += [network.ensemble.orders, *network.ensemble.degrees]
        kept = [tensor for tensor in structure if tensor is not None]
        weights = [weight for layer in layers for weight in layer._parameters.values() if weight is not None]
        return State([*kept, *weights], [self.activation, self.residual, self.output], len(kept))

    def _settled(self) -> MADE:
        """The model itself, or a copy with the weights that a forward pass would make, where something makes them anew."""
        return self if is_plain(self.layers) else settled(self, own=False)

    def program(self, *, mask: int | None = None) -> Program:
        """Returns the network with its present weights as a program, under one mask, the current one if left out."""
        masks, order = self._layer_masks(mask), self.order_of(self.mask_index if mask is None else mask)
        return self._settled().program_of(masks, order)

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
        self.check_structure()
        exact = settled(self, own=True).double().cpu().program()
        num_parameters = sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)
        description = f"MADE({self.extra_repr()})"
        masks = (0,) if self.ensemble is None else self.ensemble.evaluated
        programs = ((mask, self.program(mask=mask)) for mask in masks)
        return report_on(programs, exact, description=description, num_parameters=num_parameters)

    def save(self, path: str | Path, *, attachment: str = "") -> None:
        """Writes weights and configuration to a safetensors file.

        What is written is what the network computes: weights that pruning, a weight norm or a parametrization makes are saved
        as they are now, without what makes them. Subclasses are saved as the ``MADE`` that they are.

        Args:
            path: of the file.
            attachment: text that is kept beside the model and covered by its digest; ``load`` passes it over.

        Raises:
            OSError: the folder does not exist or cannot be written.
            ValueError: the output distribution is one's own, there are tensors that no ``MADE`` has, or weights are
                distributed over several processes.
        """
        self.check_structure()
        state, config = settled(self, own=True).state_dict(), self.arguments()
        state["order"] = self.order_of(0)
        try:
            files.check_state(state, config)
        except ValueError as error:
            raise ValueError(
                f"model must be a MADE and nothing more to be saved: {error}; save its state dict"
            ) from error
        files.save(path, state, config, attachment)

    @classmethod
    def load(cls, path: str | Path) -> MADE:
        """Reads a model that ``save`` wrote. No code from the file is run, nor is more memory asked for than it fills.

        A subclass is made by its own constructor, which must then take the arguments of ``MADE``.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is truncated, foreign, or does not fit its own configuration; or the subclass takes other
                arguments.
        """
        state, config, dtype = files.load_checked(path, _ARGUMENTS)
        kind = class_of(cls)
        try:
            inspect.signature(kind).bind(**config)
        except TypeError as error:
            raise ValueError(
                f"{path} has the arguments of MADE, which {kind.__name__} does not take ({error}): read it by MADE.load"
            ) from error
        with files.fitting(path):
            model = kind(**config).to(dtype)
            model.load_state_dict(state)
            if model.ensemble is not None and not torch.equal(model.order, model.order_of(0)):
                raise ValueError("order must be that of mask 0, found another")
        return model

    def arguments(self) -> dict[str, Any]:
        """Returns the arguments that build this model again, as JSON can hold them."""
        arguments = {name: getattr(self, name) for name in sorted(_ARGUMENTS)}
        arguments["hidden_features"] = list(self.hidden_features)
        return {**arguments, "output": describe(self.output), "order": self.structure.first_order(self).tolist()}

    @property
    def config(self) -> files.Config:
        """``arguments()`` by the name of before, with or without a call: tools of Hugging Face read it as a dict."""
        return files.Config(self.arguments())

    def extra_repr(self) -> str:
        """The arguments, for ``print(model)``."""
        options = f"activation={self.activation!r}, residual={self.residual}, direct={self.direct}"
        if self.num_masks != 1:
            options += f", num_masks={self.num_masks}, shuffle={self.shuffle!r}, seed={self.seed}"
        options += ", mask_conditioning=True" if self.mask_conditioning else ""
        return f"{self.features}, {self.hidden_features}, output={self.output.name!r}, {options}"

    def _checked_mask(self, mask: int) -> int:
        if self.ensemble is not None:
            return self.ensemble.checked(mask)
        return whole_number("mask", mask, 0, 0, note=" for a model with one mask")

    def _layer_masks(self, mask: int | None) -> list[Tensor] | None:
        """The degrees of a mask for each of the masked layers; None where they have masks of their own."""
        self.check_structure()
        checked = None if mask is None else self._checked_mask(mask)
        return None if self.ensemble is None else self.ensemble.of_layers(checked)

    def _checked_values(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """``_checked``, whose values must be possible."""
        given, (x, context) = x, self._checked(x, context)
        if may_look(x):
            self.output.check(x)
            check_rounded(self.conditionals, given, x)
        finite("context", context)
        return x, context

    def _checked(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x and context in the dtype and on the device of the weights."""
        weight = self.parameters_layer.weight
        x = like_weights("x", x, self.features, weight)
        return x, context_like(context, self.context_features, weight, x)


# Those of subclasses may be others; where the weights are is no part of a model.
_ARGUMENTS = tuple(name for name in inspect.signature(MADE).parameters if name not in ("device", "dtype"))

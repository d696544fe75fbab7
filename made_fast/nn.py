"""The modules: MaskedLinear and MADE."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from made_fast import checkpoint, masks
from made_fast.layers import MaskedLinear
from made_fast.outputs import Output, make_output
from made_fast.program import CONTEXT, FUNCTIONS, Add, Affine, Elementwise, Op, Program, Term, X
from made_fast.sampler import Sampler
from made_fast.schedule import dependencies

__all__ = ["MADE", "MaskedLinear"]

ACTIVATIONS = tuple(name for name in FUNCTIONS if name != "identity")


class MADE(nn.Module):
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
        output: str | Output = "bernoulli",
        order: str | Sequence[int] | Tensor = "natural",
        context_features: int = 0,
        activation: str = "relu",
        residual: bool = False,
        direct: bool = False,
        seed: int = 0,
        degrees: str = "even",
    ) -> None:
        super().__init__()
        widths = _check_widths(hidden_features)
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        if not isinstance(context_features, int) or context_features < 0:
            raise ValueError(f"context_features must be an integer, 0 or more, got {context_features!r}")
        if residual and (not widths or len(set(widths)) != 1):
            raise ValueError(f"hidden_features must be equal and not empty for residual=True, got {widths}")
        self.features, self.hidden_features, self.context_features = features, widths, context_features
        self.output, self.activation, self.residual, self.direct = make_output(output), activation, residual, direct
        self.seed, self.degrees = seed, degrees
        self.register_buffer("order", masks.make_order(order, features, seed=seed))
        self.params_per_variable = tuple(self.output.params_per_variable(features))
        self._build_layers()
        self._sampler: tuple[list[Tensor], list[Tensor], Sampler] | None = None

    def _build_layers(self) -> None:
        inputs = masks.input_degrees(self.order)
        outputs = masks.output_degrees(self.order, self.params_per_variable)
        below, num_params = inputs, len(outputs)
        self.hidden = nn.ModuleList()
        for index, width in enumerate(self.hidden_features):
            for _ in range(2 if self.residual and index else 1):
                # Blocks of a residual network add units of equal degree, so all its layers share one set of degrees.
                own = below if self.residual and index else self._hidden_degrees(width, index, int(below.min()))
                self.hidden.append(MaskedLinear(len(below), width, masks.connectivity(own, below)))
                below = own
        direct = masks.connectivity(outputs, inputs)
        if self.hidden_features:
            self.parameters_layer = MaskedLinear(len(below), num_params, masks.connectivity(outputs, below))
            self.direct_layer = MaskedLinear(self.features, num_params, direct, bias=False) if self.direct else None
        else:
            kept = direct if self.direct else torch.zeros_like(direct)
            self.parameters_layer = MaskedLinear(self.features, num_params, kept)
            self.direct_layer = None
        first, size = self.hidden_features[:1], self.context_features
        to_params = size and (self.direct or not self.hidden_features)
        self.context_layer = nn.Linear(size, first[0], bias=False) if size and first else None
        self.context_direct_layer = nn.Linear(size, num_params, bias=False) if to_params else None

    def _hidden_degrees(self, width: int, index: int, minimum: int) -> Tensor:
        return masks.hidden_degrees(
            width,
            self.features,
            context=self.context_features > 0,
            kind=self.degrees,
            minimum=minimum,
            seed=self.seed + 1 + index,
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the parameters of all conditionals, variable-major.

        Args:
            x: (..., D).
            context: (..., C) that broadcasts with ``x``, or None if the model takes none.

        Returns:
            (..., P).

        Raises:
            ValueError: a shape does not fit.
        """
        x, context = self._checked(x, "x", self.features), self._checked_context(context)
        function = FUNCTIONS[self.activation]
        hidden = x
        for index, layer in enumerate(self.hidden):
            if index == 0:
                hidden = layer(x) if self.context_layer is None else layer(x) + self.context_layer(context)
            elif self.residual and index % 2:
                skip, hidden = hidden, layer(function(hidden))
            elif self.residual:
                hidden = skip + layer(function(hidden))
            else:
                hidden = layer(function(hidden))
        params = self.parameters_layer(function(hidden) if len(self.hidden) else x)
        if self.direct_layer is not None:
            params = params + self.direct_layer(x)
        if self.context_direct_layer is not None:
            params = params + self.context_direct_layer(context)
        return params  # type: ignore[no-any-return]

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns log p(x | context) in nats.

        Args:
            x: (..., D) with values that the output distribution can take.
            context: (..., C) that broadcasts with ``x``, or None.

        Returns:
            (...).

        Raises:
            ValueError: a shape does not fit, or a value of ``x`` is impossible (nan included).
        """
        x = self._checked(x, "x", self.features)
        if not torch.compiler.is_compiling():
            self.output.check(x)
        params = self.forward(x, context)
        if params.dtype in (torch.bfloat16, torch.float16):  # half precision would lose the sum over variables
            params, x = params.float(), x.float()
        return self.output.log_prob(params, x).sum(-1)

    def distribution(self, x: Tensor, context: Tensor | None = None) -> Distribution:
        """Returns the conditionals p(x_d | x_<d, context) as a torch distribution: batch (...), event (D,)."""
        return self.output.distribution(self.forward(x, context))

    def sample(self, num_samples: int, context: Tensor | None = None, **options: Any) -> Tensor:
        """Draws samples: (n, D), or (B, n, D) with context (B, C). For the options see ``Sampler.sample``."""
        return self.sampler().sample(num_samples, context, **options)

    def sample_and_log_prob(
        self, num_samples: int, context: Tensor | None = None, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """Draws samples with their log-probabilities in nats. For the options see ``Sampler.sample``."""
        return self.sampler().sample_and_log_prob(num_samples, context, **options)

    def sampler(self, *, bf16_weights: bool = False) -> Sampler:
        """Returns a sampler of the model as it is now; for ``bf16_weights`` see ``Sampler``.

        The last one is kept and returned again until a parameter changes. Finding that out compares all parameters with a
        copy; who draws one row at a time from a finished model holds on to the sampler instead.
        """
        if bf16_weights:
            return Sampler(self.program(), self.output, bf16_weights=True)
        structure = [buffer.detach() for buffer in self.buffers()]
        weights = [parameter.detach() for parameter in self.parameters()]
        schedule = None
        if self._sampler is not None:
            old_structure, old_weights, sampler = self._sampler
            if _same(old_structure, structure):
                if _same(old_weights, weights):
                    return sampler
                schedule = sampler.schedule
        sampler = Sampler(self.program(), self.output, schedule=schedule)
        self._sampler = ([mask.clone() for mask in structure], [weight.clone() for weight in weights], sampler)
        return sampler

    def program(self) -> Program:
        """Returns the network with its present weights as a program."""
        ops: list[Op] = []

        def add(op: Op) -> int:
            ops.append(op)
            return len(ops) + 1

        def affine(source: int, layer: MaskedLinear, *more: Term) -> int:
            bias = None if layer.bias is None else layer.bias.detach().clone()
            return add(Affine((layer.term(source), *more), bias))

        value = X
        for index, module in enumerate(self.hidden):
            assert isinstance(module, MaskedLinear)
            if index == 0:
                value = affine(X, module, *_context_terms(self.context_layer))
            elif self.residual and index % 2:
                skip, value = value, affine(add(Elementwise(value, self.activation)), module)
            elif self.residual:
                value = add(Add(skip, affine(add(Elementwise(value, self.activation)), module)))
            else:
                value = affine(add(Elementwise(value, self.activation)), module)
        if len(self.hidden):
            value = add(Elementwise(value, self.activation))
        direct = () if self.direct_layer is None else (self.direct_layer.term(X),)
        affine(value, self.parameters_layer, *direct, *_context_terms(self.context_direct_layer))
        return Program(self.features, self.context_features, tuple(ops), self.order.clone(), self.params_per_variable)

    def check(self) -> None:
        """Makes sure that the masks are those of a density: each variable depends on variables before it alone.

        The masks that this class makes always are; those that were loaded or changed by hand may not be.

        Raises:
            ValueError: a variable depends on itself or on one that is drawn after it; the message names a pair.
        """
        rank = masks.rank_of(self.order)
        wrong = torch.from_numpy(dependencies(self.program())) & (rank[None, :] >= rank[:, None]).cpu()
        if bool(wrong.any()):
            reader, read = wrong.nonzero()[0].tolist()
            raise ValueError(f"masks must follow the order, but variable {reader} depends on variable {read}")

    def save(self, path: str | Path) -> None:
        """Writes weights and configuration to a safetensors file.

        Raises:
            OSError: the folder does not exist or cannot be written.
        """
        checkpoint.save(path, self.state_dict(), self.config())

    @classmethod
    def load(cls, path: str | Path) -> MADE:
        """Reads a model that ``save`` wrote. No code from the file is run.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is truncated, foreign, or does not fit its own configuration.
        """
        state, config = checkpoint.load(path)
        names = set(inspect.signature(cls).parameters)
        if not set(config) <= names:
            raise ValueError(f"{path} was written by another version: unknown {sorted(set(config) - names)}")
        try:
            _check_sizes(state, config)
            model = cls(**config)
            model.load_state_dict(state)
            masks.make_order(model.order, model.features)
            model.check()
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{path} does not fit its own configuration: {' '.join(str(error).split())}") from error
        floats = [tensor.dtype for tensor in state.values() if tensor.is_floating_point()]
        return model.to(floats[0])

    def config(self) -> dict[str, Any]:
        """Returns the arguments that build this model again, as JSON can hold them."""
        names = set(inspect.signature(type(self)).parameters)
        config = {name: getattr(self, name) for name in sorted(names)}
        config["hidden_features"] = list(self.hidden_features)
        return {**config, "output": self.output.name, "order": self.order.tolist()}

    def extra_repr(self) -> str:
        """The arguments, for ``print(model)``."""
        options = f"activation={self.activation!r}, residual={self.residual}, direct={self.direct}"
        return f"{self.features}, {self.hidden_features}, output={self.output.name!r}, {options}"

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the sampler out of copies and pickles; it is made again when needed."""
        return {**self.__dict__, "_sampler": None}

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


def _check_widths(hidden_features: Sequence[int]) -> tuple[int, ...]:
    widths = tuple(hidden_features) if isinstance(hidden_features, Sequence) else (None,)
    if not all(isinstance(width, int) and width > 0 for width in widths):
        raise ValueError(f"hidden_features must be a sequence of positive integers, got {hidden_features!r}")
    return tuple(int(width) for width in widths if width is not None)


def _check_sizes(state: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Refuses a configuration that asks for other sizes than the file holds, before memory is asked for."""
    widths = _check_widths(config.get("hidden_features", ()))
    layers = [width for index, width in enumerate(widths) for _ in range(2 if config.get("residual") and index else 1)]
    expected = {f"hidden.{index}.bias": width for index, width in enumerate(layers)}
    for name, size in {"order": config.get("features"), **expected}.items():
        found = state[name].numel() if name in state else "none"
        if found != size:
            raise ValueError(f"{name} must have {size} values, got {found}")


def _context_terms(layer: nn.Linear | None) -> tuple[Term, ...]:
    return () if layer is None else (Term(CONTEXT, layer.weight.detach().clone(), None),)


def _same(known: list[Tensor], now: list[Tensor]) -> bool:
    return len(known) == len(now) and all(map(_equal, known, now))


def _equal(known: Tensor, now: Tensor) -> bool:
    if known.dtype != now.dtype or known.device != now.device:
        return False
    if now.device.type == "cpu" and now.dtype in (torch.float32, torch.float64, torch.bool, torch.int64):
        return np.array_equal(known.numpy(), now.numpy())  # a third of the time of torch.equal
    return torch.equal(known, now)

"""Autoregressive networks of other libraries, and one of a well-known structure, in many variants: with random weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CASES", "Masked", "Peer", "randomized"]


@dataclass(frozen=True)
class Peer:
    """One network.

    Attributes:
        library: that it comes from.
        variant: in words.
        make: builds it, from the library's module if there is one.
        features, context_features, params: D, C, K.
        levels: sequential steps that a draw must need, if that is known.
        parameter_major: whether its parameters are laid out so.
    """

    library: str
    variant: str
    make: Callable[..., nn.Module]
    features: int
    context_features: int = 0
    params: int = 2
    levels: int | None = None
    parameter_major: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For tables and tests."""
        return f"{self.library}: {self.variant}"

    def build(self, seed: int = 0, scale: float = 0.5) -> nn.Module:
        """The network in fp64 and evaluation mode, with random weights, also under masks, and random statistics."""
        torch.manual_seed(seed)
        return randomized(self.make(**self.options).double(), scale).eval()

    def forward(self, module: nn.Module, x: Tensor, context: Tensor | None) -> Tensor:
        """The library's own forward: flat, variable-major parameters."""
        if context is None:
            result = module(x)
        elif self.library == "zuko":
            result = module(torch.cat([x, context], dim=-1))
        else:
            result = module(x, context)
        if isinstance(result, tuple):
            return torch.cat([part.unsqueeze(1) if part.ndim == 2 else part for part in result], 1).mT.flatten(1)
        if self.parameter_major:
            return result.reshape(len(x), -1, self.features).mT.flatten(1)
        return result.flatten(1)


def randomized(module: nn.Module, scale: float = 0.5) -> nn.Module:
    """Gives a module random weights, also under its masks, and batch norms random statistics."""
    with torch.no_grad():
        for each in module.modules():
            if isinstance(each, nn.BatchNorm1d):
                each.running_mean.normal_()
                each.running_var.uniform_(0.5, 2)
        for parameter in module.parameters():
            fan = parameter.shape[1] if parameter.ndim == 2 else 1
            parameter.normal_().mul_(scale if parameter.ndim < 2 else 2 * scale / fan**0.5)
    return module


class Masked(nn.Module):
    """A stack of masked linear layers under ``net``, with orders and masks that ``update_masks`` draws anew."""

    class Layer(nn.Linear):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__(inputs, outputs)
            self.register_buffer("mask", torch.ones(outputs, inputs))

        def forward(self, input: Tensor) -> Tensor:
            return F.linear(input, self.mask * self.weight, self.bias)

    def __init__(self, features: int, hidden: list[int], params: int = 1, natural: bool = True, masks: int = 1) -> None:
        super().__init__()
        self.features, self.params, self.natural, self.masks, self.seed = features, params, natural, masks, 0
        sizes = [features, *hidden, params * features]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [self.Layer(inputs, outputs), nn.ReLU()]
        self.net = nn.Sequential(*layers[:-1])
        self.update_masks()

    def update_masks(self) -> None:
        """Draws the next order and the next connections."""
        generator = torch.Generator().manual_seed(self.seed)
        self.seed = (self.seed + 1) % self.masks
        rank = torch.arange(self.features) if self.natural else torch.randperm(self.features, generator=generator)
        layers = [each for each in self.net if isinstance(each, self.Layer)]
        below = rank
        for layer in layers[:-1]:
            low = int(below.min())
            degrees = torch.randint(low, self.features - 1, (layer.out_features,), generator=generator)
            layer.mask.data.copy_(degrees[:, None] >= below)
            below = degrees
        layers[-1].mask.data.copy_((rank[:, None] > below).repeat(self.params, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def _from(module: str, name: str) -> Callable[..., nn.Module]:
    def make(*arguments: Any, **options: Any) -> nn.Module:
        kind: Callable[..., nn.Module] = getattr(importlib.import_module(module), name)
        return kind(*arguments, **options)

    return make


def _stack() -> Iterator[Peer]:
    for params in (1, 2):
        for natural in (True, False):
            for hidden in ([40], [40, 30, 40]):
                words = f"{'natural' if natural else 'random'} order, K={params}, hidden {hidden}"
                options = {"features": 12, "hidden": hidden, "params": params, "natural": natural}
                yield Peer("stack", words, Masked, 12, params=params, parameter_major=params > 1, options=options)


def _nflows() -> Iterator[Peer]:
    for module, short in (("nflows.transforms.made", "transforms"), ("nflows.nn.nde.made", "nde")):
        make = _from(module, "MADE")
        for residual in (True, False):
            for context in (0, 3):
                for norm in (False, True):
                    options = {
                        "features": 10,
                        "hidden_features": 24,
                        "context_features": context or None,
                        "output_multiplier": 2,
                        "use_residual_blocks": residual,
                        "use_batch_norm": norm,
                        "dropout_probability": 0.1,
                    }
                    kind = "residual" if residual else "feed-forward"
                    words = f"{short}, {kind}{', context' if context else ''}{', batch norm' if norm else ''}"
                    yield Peer("nflows", words, make, 10, context, levels=10, options=options)
        plain = {"use_residual_blocks": False, "output_multiplier": 3, "num_blocks": 1}
        options = {"features": 10, "hidden_features": 30, "random_mask": True, **plain}
        yield Peer("nflows", f"{short}, random masks", make, 10, params=3, options=options)
        options = {"features": 24, "hidden_features": 10, "output_multiplier": 2}
        yield Peer("nflows", f"{short}, H < D", make, 24, levels=11, options=options)


def _normflows() -> Iterator[Peer]:
    make = _from("normflows.nets.made", "MADE")
    for residual in (True, False):
        for permuted in (False, True):
            for norm in (False, True):
                options = {
                    "features": 10,
                    "hidden_features": 24,
                    "output_multiplier": 2,
                    "use_residual_blocks": residual,
                    "permute_mask": permuted,
                    "use_batch_norm": norm,
                }
                kind = "residual" if residual else "feed-forward"
                words = f"{kind}{', permuted' if permuted else ''}{', batch norm' if norm else ''}"
                yield Peer("normflows", words, make, 10, levels=10, options=options)
    options = {"features": 10, "hidden_features": 24, "context_features": 3, "output_multiplier": 2}
    yield Peer("normflows", "gated context", make, 10, 3, levels=10, options=options)


def _zuko() -> Iterator[Peer]:
    transform = _from("zuko.flows", "MaskedAutoregressiveTransform")

    def hyper(**options: Any) -> nn.Module:
        network: nn.Module = transform(**options).hyper
        return network

    order = torch.tensor([3, 1, 4, 0, 9, 2, 6, 5, 8, 7])
    variants: dict[str, tuple[dict[str, Any], int]] = {
        "default": ({}, 10),
        "order": ({"order": order}, 10),
        "2 passes": ({"passes": 2}, 2),
        "5 passes": ({"passes": 5}, 5),
        "residual": ({"residual": True}, 10),
        "residual, widths change": ({"residual": True, "hidden_features": (24, 32)}, 10),
        "PReLU": ({"activation": nn.PReLU}, 10),
        "ELU": ({"activation": nn.ELU}, 10),
        "H < D": ({"hidden_features": (4, 4)}, 5),
    }
    for words, (options, levels) in variants.items():
        for context in (0, 3):
            given = {"features": 10, "context": context, "hidden_features": (32, 32), **options}
            steps = levels - 1 if words == "H < D" and context else levels  # one of four units sees the context alone
            name = words + (", context" if context else "")
            yield Peer("zuko", name, hyper, 10, context, levels=steps, options=given)
    sparse = torch.eye(10).roll(-3, 1).tril(-1).bool()  # variable d reads d - 3
    sparse |= torch.eye(10, dtype=torch.bool)
    sparse[4, 1] = sparse[5, 4] = True
    yield Peer("zuko", "sparse adjacency", hyper, 10, options={"features": 10, "adjacency": sparse}, levels=4)


def _pyro() -> Iterator[Peer]:
    permutation = torch.tensor([3, 1, 4, 0, 9, 2, 6, 5, 8, 7])
    for skip in (False, True):
        for context in (0, 3):
            for given in (None, permutation):
                for params in ([1], [1, 1], [2, 1]):
                    make = _from("pyro.nn", "ConditionalAutoRegressiveNN" if context else "AutoRegressiveNN")
                    options = {
                        "input_dim": 10,
                        "hidden_dims": [24, 24],
                        "param_dims": params,
                        "permutation": given,
                        "skip_connections": skip,
                        **({"context_dim": context} if context else {}),
                    }
                    words = f"K={params}{', skip' if skip else ''}{', context' if context else ''}"
                    words += ", given order" if given is not None else ""
                    yield Peer("pyro", words, make, 10, context, sum(params), 10, options=options)


CASES = [*_stack(), *_nflows(), *_normflows(), *_zuko(), *_pyro()]

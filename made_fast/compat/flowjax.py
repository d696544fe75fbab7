"""flowjax's masked autoregressive flow, read from its parameters or its file; no JAX is needed."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from made_fast.arguments import context_like, finite, flag, like_weights, one_of
from made_fast.compat.drawn import Masked
from made_fast.compat.leaves import Leaves
from made_fast.flows.inverse import AutoregressiveMap, Solve, compiled, invert, kept_solve, solved
from made_fast.flows.noise import noise_sampler
from made_fast.outputs.point import Point
from made_fast.outputs.rules import LOG_SQRT_2_PI
from made_fast.programs.functions import ACTIVATIONS, FUNCTIONS
from made_fast.programs.program import CONTEXT, Affine, Elementwise, Multiply, Op, Program, Term, X
from made_fast.requests.request import Request
from made_fast.sampling.sampler import Sampler

__all__ = ["MaskedAutoregressiveFlow", "read", "read_file", "update"]

BASES = ("standard normal", "normal")
TRANSFORMERS = {"default": 0.01, "affine": 0.0}  # the least scale of each


def read(
    leaves: Iterable[Any], *, invert: bool, activation: str, transformer: str, base: str
) -> MaskedAutoregressiveFlow:
    """The flow of ``flowjax.flows.masked_autoregressive_flow`` with these parameters.

    Its log-probability is flowjax's, in the dtype of the parameters; samples are drawn by the compiled engine.

    Args:
        leaves: of the flow in the order of its tree, as ``jax.tree_util.tree_leaves(flow)`` or ``read_file`` give them:
            arrays, among which whole numbers and functions are left out.
        invert: of ``masked_autoregressive_flow``, True unless it was made with another. Nothing among the leaves tells.
        activation: name of ``nn_activation``, ``"relu"`` unless it was made with another. Nor does this.
        transformer: ``"default"`` where none was named, scales of 0.01 and more; ``"affine"`` of ``Affine()``. Nor does this.
        base: ``"standard normal"`` of ``StandardNormal``, ``"normal"`` of ``Normal``, whose location and scale are leaves.

    Raises:
        ValueError: leaves are missing, too many or of other shapes, or an argument does not fit; the message names it.

    Source: ``flowjax.flows`` of flowjax 19.1; see https://danielward27.github.io/flowjax. The structure was compared with it,
    and nothing of it is imported.
    """
    one_of("activation", activation, ACTIVATIONS)
    one_of("transformer", transformer, [*TRANSFORMERS])
    one_of("base", base, BASES)
    found = Leaves.of(leaves, base)
    return MaskedAutoregressiveFlow(found, flag("invert", invert), activation, TRANSFORMERS[transformer])


def read_file(path: str | Path) -> list[NDArray[Any]]:
    """The leaves in a file by ``equinox.tree_serialise_leaves``, of a whole flow; no code of it is run.

    Args:
        path: of the file.

    Returns:
        what ``read`` takes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or is none of equinox.
    """
    content = Path(path).read_bytes()
    file, found = io.BytesIO(content), []
    while file.tell() < len(content):
        try:
            found.append(np.load(file, allow_pickle=False))
        except (ValueError, EOFError, OSError, SyntaxError, TypeError) as error:
            raise ValueError(f"{path} is no file of equinox's tree_serialise_leaves, or damaged: {error}") from error
        if not isinstance(found[-1], np.ndarray):
            raise ValueError(f"{path} is no file of equinox's tree_serialise_leaves, but an archive")
    if not found:
        raise ValueError(f"{path} is no file of equinox's tree_serialise_leaves: it is empty")
    return found


def update(flow: MaskedAutoregressiveFlow, leaves: Iterable[Any]) -> None:
    """Gives a flow of ``read`` other parameters; all is checked before anything is written.

    Args:
        flow: of ``read``.
        leaves: see ``read``.

    Raises:
        ValueError: see ``read``; or they are those of another flow.
    """
    found = Leaves.of(leaves, BASES[1] if flow.has_base else BASES[0])
    if found.sizes != flow.sizes:
        raise ValueError(f"leaves must be those of a flow with shapes {flow.sizes}, got {found.sizes}")
    flow.write(found)


class _Transform(nn.Module):
    r"""One masked autoregressive transform, :math:`y_d = x_d \, s_d(x_{<d}, c) + m_d(x_{<d}, c)`, and a permutation."""

    permutation: Tensor
    inverse_permutation: Tensor

    def __init__(self, leaves: Leaves, number: int, activation: str, floor: float) -> None:
        super().__init__()
        self.activation, self.floor = activation, floor
        self.features = leaves.permutation.shape[1]
        self.shift = math.log(math.expm1(1 - floor))  # of what becomes a scale: so that it is 1 at first
        self.linears = nn.ModuleList(Masked(torch.from_numpy(np.array(each.mask[number]))) for each in leaves.linears)
        for name in ("permutation", "inverse_permutation"):
            self.register_buffer(name, torch.zeros(self.features, dtype=torch.int64))
        self.to(torch.from_numpy(np.zeros(0, leaves.linears[0].weight.dtype)).dtype)
        self._kept = kept_solve(self, self._solver)

    @torch.no_grad()
    def write(self, leaves: Leaves, number: int) -> None:
        for layer, each in zip(self.linears, leaves.linears, strict=True):
            for name, values in (("mask", each.mask), ("weight", each.weight), ("bias", each.bias)):
                getattr(layer, name).copy_(torch.from_numpy(np.array(values[number])))
        self.permutation.copy_(torch.from_numpy(np.array(leaves.permutation[number], dtype=np.int64)))
        self.inverse_permutation.copy_(self.permutation.argsort())

    def parts(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Shift and scale (B, D) each."""
        value = x if context is None else torch.cat([x, context], -1)
        for number, layer in enumerate(self.linears):
            value = layer(FUNCTIONS[self.activation](value) if number else value)
        shift, raw = value.unflatten(-1, (self.features, 2)).unbind(-1)
        return shift, torch.logaddexp(raw + self.shift, raw.new_zeros(())) + self.floor

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """What x becomes, and the log-determinant (B,)."""
        shift, scale = self.parts(x, context)
        return (x * scale + shift)[..., self.permutation], scale.log().sum(-1)

    def inverse(self, y: Tensor, context: Tensor | None) -> Tensor:
        """The x (B, D) that becomes y (B, D); differentiable once."""

        def apply(before: Tensor, itself: Tensor, c: Tensor | None) -> Tensor:
            shift, scale = self.parts(before, c)
            return itself * scale + shift

        parameters = [each for each in self.parameters() if each.requires_grad] if torch.is_grad_enabled() else []
        solve = partial(solved, self._kept.current())
        return invert(AutoregressiveMap(apply, solve, parameters), y[..., self.inverse_permutation], context)

    def _solver(self, last: Solve | None) -> Solve:
        return compiled(Sampler(self._program(), Point()))

    def _program(self) -> Program:
        """x_d = (y_d - shift_d) / scale_d, of points with context (y, c); on the CPU."""
        features, first = self.features, self.linears[0]
        assert isinstance(first, Masked)
        width = first.in_features
        identity = torch.eye(features, dtype=first.weight.dtype)
        select = torch.cat([identity, identity.new_zeros(features, width - features)], 1)
        ops: list[Op] = []

        def add(op: Op) -> int:
            ops.append(op)
            return len(ops) + 1

        def terms(layer: Any, value: int, rows: slice, sign: float = 1.0) -> tuple[Term, ...]:
            weight, mask = sign * layer.weight.detach().cpu()[rows], layer.mask.cpu()[rows] != 0
            if value != X:
                return (Term(value, weight, mask),)
            nothing = weight.new_zeros(len(weight), features)
            of_context = Term(
                CONTEXT, torch.cat([nothing, weight[:, features:]], 1), torch.cat([nothing != 0, mask[:, features:]], 1)
            )
            of_x = Term(X, weight[:, :features], mask[:, :features])
            return (of_x, of_context) if width > features else (of_x,)

        value, every = X, slice(None)
        *hidden, last = self.linears
        for layer in hidden:
            value = add(Affine(terms(layer, value, every), layer.bias.detach().cpu()))  # type: ignore[union-attr, operator]
            value = add(Elementwise(value, self.activation))
        bias: Any = last.bias.detach().cpu()  # type: ignore[union-attr, operator]
        raw = add(Affine(terms(last, value, slice(1, None, 2)), bias[1::2] + self.shift))
        scale = add(
            Affine(
                (Term(add(Elementwise(raw, "softplus")), identity, identity != 0),),
                identity.new_full((features,), self.floor),
            )
        )
        divided = add(Elementwise(scale, "reciprocal"))
        given = Term(CONTEXT, select, select != 0)
        add(Multiply(add(Affine((*terms(last, value, slice(0, None, 2), -1.0), given), -bias[0::2])), divided))
        points = Point().conditionals(features)
        return Program(features, width, tuple(ops), torch.arange(features), (1,) * features, points)


class MaskedAutoregressiveFlow(nn.Module):
    """A flow of ``read``: masked autoregressive transforms, each with a permutation, of normal noise.

    Attributes:
        features, context_features: D and C.
        inverted: whether the transforms lead from x to noise, ``invert`` of flowjax.
    """

    base_loc: Tensor
    base_raw_scale: Tensor

    def __init__(self, leaves: Leaves, inverted: bool, activation: str, floor: float) -> None:
        super().__init__()
        self.inverted, self.has_base, self.sizes = inverted, bool(leaves.base), leaves.sizes
        self.features = leaves.permutation.shape[1]
        self.context_features = leaves.sizes[0][2] - self.features
        self.transforms = nn.ModuleList(
            _Transform(leaves, number, activation, floor) for number in range(len(leaves.permutation))
        )
        dtype = next(self.parameters()).dtype
        for name in ("base_loc", "base_raw_scale"):
            self.register_parameter(
                name, nn.Parameter(torch.zeros(self.features, dtype=dtype)) if self.has_base else None
            )
        self.write(leaves)
        self._noise = noise_sampler(torch.arange(self.features), dtype)

    @torch.no_grad()
    def write(self, leaves: Leaves) -> None:
        """Takes over the parameters of leaves that fit."""
        for number, each in enumerate(self.transforms):
            assert isinstance(each, _Transform)
            each.write(leaves, number)
        for parameter, values in zip((self.base_loc, self.base_raw_scale), leaves.base, strict=False):
            parameter.copy_(torch.from_numpy(np.array(values)))

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(x | context) in nats, (B,), from x (B, D) and context (B, C) or None.

        Raises:
            ValueError: a shape does not fit, or a value is nan or infinite.
        """
        x, context = self._checked("x", x, context)
        if self.inverted:
            z, log_det = self._through(x, context)
        else:
            z = self._back(x, context)
            log_det = -self._through(z, context)[1]
        if self.has_base:
            scale = torch.logaddexp(self.base_raw_scale, z.new_zeros(()))
            z, log_det = (z - self.base_loc) / scale, log_det - scale.log().sum()
        found: Tensor = log_det - (0.5 * z**2 + LOG_SQRT_2_PI).sum(-1)
        return found

    def sample(
        self,
        num_samples: int,
        context: Tensor | None = None,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        first_row: int = 0,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Draws exact samples, (n, D), or (N, n, D) with context (N, C), without gradients.

        They depend on the seed and the row number alone: ``sample(n, seed=s)[a:b]`` is ``sample(b - a, seed=s,
        first_row=a)``, to rounding where the transforms lead from noise to x.

        Args:
            num_samples: n.
            context: (N, C), or None.
            seed, generator, first_row, rows: see ``Sampler.sample``.

        Raises:
            ValueError: an argument does not fit; the message names it.
            FloatingPointError: a value was no finite number.
        """
        return self._drawn(num_samples, context, seed, generator, first_row, rows)[0]

    def sample_and_log_prob(
        self,
        num_samples: int,
        context: Tensor | None = None,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        first_row: int = 0,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draws samples with their log-probabilities in nats, without gradients. For the arguments see ``sample``."""
        x, contexts = self._drawn(num_samples, context, seed, generator, first_row, rows)
        flat = x.reshape(-1, self.features)
        with torch.no_grad():
            return x, self.log_prob(flat, contexts).reshape(x.shape[:-1])

    @torch.no_grad()
    def _drawn(
        self,
        num_samples: int,
        context: Tensor | None,
        seed: int | None,
        generator: torch.Generator | None,
        first_row: int,
        rows: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Samples, and the context of each (B, C) or None."""
        conditionals = self._noise.conditionals
        request = Request.checked(
            conditionals,
            self.context_features,
            num_samples,
            context,
            seed=seed,
            generator=generator,
            first_row=first_row,
            rows=rows,
        )
        contexts = None if request.context is None else request.context.repeat_interleave(request.shape[-1], 0)
        plain = Request((request.count,), request.seed, request.first_row, request.rows)
        noise = self._noise._drawn(plain, False)[0]
        z, contexts = self._checked("z", noise, contexts)
        if self.has_base:
            z = z * torch.logaddexp(self.base_raw_scale, z.new_zeros(())) + self.base_loc
        x = self._back(z, contexts) if self.inverted else self._through(z, contexts)[0]
        if not bool(x.isfinite().all()):
            raise FloatingPointError("a sample became nan or infinite: parameters are too large for this dtype")
        return x.reshape(*request.shape, self.features), contexts

    def _through(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(())
        for transform in self.transforms:
            x, log_det = transform(x, context)
            total = total + log_det
        return x, total

    def _back(self, y: Tensor, context: Tensor | None) -> Tensor:
        for transform in [*self.transforms][::-1]:
            y = transform.inverse(y, context)  # type: ignore[operator]
        return y

    def _checked(self, name: str, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x or z (B, D) and context (B, C) in the dtype and on the device of the weights, finite."""
        weight = next(self.transforms.parameters())
        x = like_weights(name, x, self.features, weight, rows="B")
        context = context_like(context, self.context_features, weight, x)
        finite(name, x)
        finite("context", context)
        return x, None if context is None else context.expand(len(x), -1)

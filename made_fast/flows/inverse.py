r"""Inverses of autoregressive maps: :math:`z_d = f(x_d; h_d(x_{<d}, c))`, from x in one pass, solved for x in levels.

The base noise z is a part of the context of a program whose variables are points, so that an engine made for sampling solves
the map: one call for all variables of all rows. Gradients are those of the implicit function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from made_fast.arguments import finite, is_finite, with_values
from made_fast.layers.unchanged import Seen, Unchanged, unchanged
from made_fast.outputs.point import Point
from made_fast.programs.program import CONTEXT, Add, Affine, Elementwise, Multiply, Op, Program, Term
from made_fast.requests.request import Request
from made_fast.sampling.kept import Kept, State
from made_fast.sampling.sampler import Sampler

__all__ = ["AutoregressiveMap", "Solve", "affine_inverse", "compiled", "invert", "kept_solve", "solved"]

Solve = Callable[[Tensor, "Tensor | None"], Tensor]


@dataclass(frozen=True)
class AutoregressiveMap:
    """What must be known of a map to solve it and to differentiate the solution.

    Attributes:
        apply: (x_before, x, c) -> z, (B, D): the parameters of each variable from ``x_before``, applied to ``x``.
        solve: (z, c) -> x without gradients, (B, D).
        parameters: that ``apply`` reads.
    """

    apply: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    solve: Solve
    parameters: Sequence[Tensor]


def invert(map_: AutoregressiveMap, z: Tensor, context: Tensor | None) -> Tensor:
    """x (B, D) from z (B, D) and context (B, C) or None, differentiable in z, the context and the parameters.

    Raises:
        FloatingPointError: a value was no finite number.
    """
    wanted = [each for each in (z, context, *map_.parameters) if each is not None and each.requires_grad]
    if not (wanted and torch.is_grad_enabled()):
        return map_.solve(z.detach(), None if context is None else context.detach())
    found: Tensor = _Implicit.apply(map_, z, context, *map_.parameters)  # type: ignore[no-untyped-call]
    return found


class _Implicit(torch.autograd.Function):
    r"""With J the triangular Jacobian of the map: :math:`dx = J^{-1} (dz - \partial_\theta f\, d\theta)`."""

    @staticmethod
    def forward(ctx: Any, map_: AutoregressiveMap, z: Tensor, context: Tensor | None, *parameters: Tensor) -> Tensor:
        x = map_.solve(z.detach(), None if context is None else context.detach())
        ctx.map = map_
        ctx.save_for_backward(x, context, *parameters)
        return x

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, context, *parameters = ctx.saved_tensors
        with torch.enable_grad():
            before, itself = x.detach().requires_grad_(), x.detach().requires_grad_()
            context = None if context is None else context.detach().requires_grad_(ctx.needs_input_grad[2])
            z = ctx.map.apply(before, itself, context)
        slope = _grad(z, itself, torch.ones_like(z))  # the diagonal of J
        v = _solve_transposed(z, before, slope, grad)
        needed = [each for each in (context, *parameters) if each is not None and each.requires_grad]
        found = iter(torch.autograd.grad(z, needed, -v, allow_unused=True) if needed else ())
        of_rest = [next(found) if each is not None and each.requires_grad else None for each in (context, *parameters)]
        return None, v if ctx.needs_input_grad[1] else None, *of_rest


def _grad(z: Tensor, x: Tensor, v: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(z, x, v, retain_graph=True, allow_unused=True)
    return torch.zeros_like(x) if found is None else found


def _solve_transposed(z: Tensor, before: Tensor, slope: Tensor, grad: Tensor) -> Tensor:
    """v with J^T v = grad. J = diag(slope) + N with N strictly triangular, so D rounds are exact; most need fewer."""
    v = grad / slope
    if not z.requires_grad or before.shape[1] == 1:
        return v
    for _ in range(before.shape[1]):
        better = (grad - _grad(z, before, v)) / slope
        change, v = (better - v).abs().amax(1), better
        if not bool((change > torch.finfo(v.dtype).eps / 8 * v.abs().amax(1)).any()):  # in no row
            break
    return v


def affine_inverse(program: Program, floor: float) -> Program:
    """The program of x_d = z_d * (softplus(raw_d) + floor) + shift_d, of a network that makes (shift_d, raw_d).

    Args:
        program: of the network, D variables, C context features; its last operation is affine and read by nothing else.
        floor: least scale.

    Returns:
        a program of D points (computed variables) with context (z, c), D + C features.
    """
    features, last = program.features, program.ops[-1]
    assert isinstance(last, Affine)
    identity = torch.eye(features, dtype=program.dtype, device=program.device)
    ops: list[Op] = [_with_base(op, features) for op in program.ops[:-1]]
    shift, raw = (_with_base(_rows(last, first), features) for first in (0, 1))
    assert isinstance(shift, Affine) and isinstance(raw, Affine)

    def add(op: Op) -> int:
        ops.append(op)
        return len(ops) + 1

    scale = add(Elementwise(add(raw), "softplus"))
    base = CONTEXT
    if program.context_features:
        select = torch.cat([identity, identity.new_zeros(features, program.context_features)], 1)
        base = add(Affine((Term(CONTEXT, select, select != 0),), None))
    product = add(Multiply(scale, base))
    shifted = add(Affine((*shift.terms, Term(base, floor * identity, identity != 0)), shift.bias))
    add(Add(shifted, product))
    width = features + program.context_features
    points = Point().conditionals(features)
    return Program(features, width, tuple(ops), program.order, (1,) * features, points)


def _rows(op: Affine, first: int) -> Affine:
    """Every second row of an operation, from row ``first`` on."""
    terms = tuple(
        Term(term.source, term.weight[first::2], None if term.mask is None else term.mask[first::2])
        for term in op.terms
    )
    return Affine(terms, None if op.bias is None else op.bias[first::2])


def _with_base(op: Op, features: int) -> Op:
    """The operation where base noise stands before the context: the columns for the noise are masked."""
    if not isinstance(op, Affine):
        return op
    terms = []
    for term in op.terms:
        if term.source != CONTEXT:
            terms.append(term)
            continue
        weight = torch.cat([term.weight.new_zeros(term.weight.shape[0], features), term.weight], 1)
        mask = torch.ones_like(term.weight, dtype=torch.bool) if term.mask is None else term.mask
        terms.append(Term(CONTEXT, weight, torch.cat([mask.new_zeros(mask.shape[0], features), mask], 1)))
    return Affine(tuple(terms), op.bias)


def compiled(sampler: Sampler) -> Solve:
    """Solves by a sampler of points whose context is (z, c), on the CPU, in the dtype of the sampler.

    The solver raises ValueError where z is not finite, and FloatingPointError where x is not.
    """

    def solve(z: Tensor, context: Tensor | None) -> Tensor:
        joined = z if context is None else torch.cat([z, context.to(z.dtype)], dim=1)
        joined = joined.to("cpu", sampler.dtype)
        if not is_finite(joined):
            finite("context", context)
            raise ValueError("z must be finite to be led back to x, found nan or inf")
        if joined.ndim != 2 or joined.shape[1] != sampler.context_features:
            return sampler.sample(1, joined, seed=0)[:, 0].to(z)  # type: ignore[no-any-return]
        return sampler._drawn(Request((len(joined), 1), 0, context=joined), False)[0].to(z)

    return solve


def kept_solve(module: nn.Module, make: Callable[[Solve | None], Solve], stale: str = "refresh") -> Kept[Solve]:
    """A solver of a module's map, made again when its parameters or buffers have changed; see ``Kept``."""
    changed = "parameters or buffers have changed since this flow was made; make it again"
    return Kept(partial(_tensors_of, module), make, stale, changed=changed, watch=partial(_watch, module))


def _tensors_of(module: nn.Module) -> State:
    """Parameters and buffers, and the plain attributes that are numbers or words: a scale, say."""
    plain = [
        (name, value)
        for each in module.modules()
        for name, value in vars(each).items()
        if type(value) in (bool, int, float, str) and name != "training"
    ]
    return State([tensor.detach() for tensor in (*module.parameters(), *module.buffers())], plain)


def _watch(module: nn.Module) -> Unchanged | None:
    """Watches what ``_tensors_of`` reads."""
    seen = Seen()
    seen.everything(module, deep=False)
    return unchanged(seen.but_contents())


def solved(solve: Solve, z: Tensor, context: Tensor | None) -> Tensor:
    """x (B, D) from z (B, D) and context (B, C) or None by a solver, without gradients."""
    z = with_values("z", z)  # an engine reads its memory
    with torch.no_grad():
        return solve(z, context)

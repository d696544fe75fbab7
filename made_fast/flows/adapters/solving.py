"""The inverse of one transform of a library: what an adapter tells of the transform, and the solver made from that."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from made_fast.arguments import with_values
from made_fast.capture.again import LastGraph
from made_fast.capture.captured import capture
from made_fast.capture.export import detached_copy
from made_fast.flows.inverse import AutoregressiveMap, Solve, compiled, invert, kept_solve, solved
from made_fast.flows.levels import LevelSolver
from made_fast.outputs.point import Point, PointConditional
from made_fast.programs.program import Program
from made_fast.sampling.sampler import Sampler

__all__ = ["Adapter", "Inverter", "copy_with"]

TOLERANCE = 1e-6  # of z computed back from x in fp64, relative above 1
CHECKED_ROWS = 4


class Adapter(ABC):
    """What must be known of a transform, read from the library's own functions.

    Attributes:
        features, context_features: D and C.
    """

    features: int
    context_features: int

    @abstractmethod
    def network(self, module: nn.Module, x: Tensor, context: Tensor | None) -> Tensor:
        """Parameters (B, D * K) of all variables, variable-major."""

    @abstractmethod
    def apply(self, module: nn.Module, before: Tensor, x: Tensor, context: Tensor | None) -> Tensor:
        """The quick direction: z (B, D), of parameters from ``before`` (B, D), applied to x (B, D)."""

    @abstractmethod
    def solve_each(self, module: nn.Module, params: Tensor, z: Tensor, variables: Tensor | None) -> Tensor:
        """The library's own elementwise inverse: x (B, n) from params (B, n * K) and z (B, n) of some variables (n,)."""


class Inverter:
    """Inverts one transform: compiled where its arithmetic can be read, else level by level.

    Args:
        module: the transform; it is read again when its parameters change.
        adapter: of its library.
        stale: see ``Kept``.
        check: whether a solver is checked against the library's own quick direction, in fp64, whenever it is made.

    Attributes:
        how: ``"compiled"`` or ``"levels"``, once made; and ``why``, what kept it from being compiled.
        difference: the largest of the check, relative above 1.
    """

    def __init__(self, module: nn.Module, adapter: Adapter, *, stale: str = "refresh", check: bool = True) -> None:
        self.module, self.adapter, self.check = module, adapter, check
        self.how, self.why, self.difference = "", "", float("nan")
        self.num_levels = 0
        self._last = {name: LastGraph(module) for name in ("inverse", "network")}
        self._chancy: list[Any] = []  # modules in it that may depend on chance or on the batch
        self._solve = kept_solve(module, self._make, stale)

    def prepare(self) -> None:
        """Makes the solver now, so that what cannot be read is refused now."""
        self._solve.current()

    def __call__(self, z: Tensor, context: Tensor | None) -> Tensor:
        """x (B, D) from z (B, D) and context (B, C) or None; differentiable once.

        Raises:
            ValueError: a module in it depends on chance or on the batch, as in training mode.
        """
        module, adapter = self.module, self.adapter
        with_values("z", z)
        solve = self._solve.current()
        for layer in self._chancy:
            if layer.training and getattr(layer, "p", 1) > 0:
                raise ValueError(
                    f"flow must be in evaluation mode to be inverted, its {layer} is not: call eval() first"
                )
        parameters: Sequence[Tensor] = ()
        if torch.is_grad_enabled():
            parameters = [each for each in module.parameters() if each.requires_grad]

        def apply(before: Tensor, x: Tensor, c: Tensor | None) -> Tensor:
            return adapter.apply(module, before, x, c)

        return invert(AutoregressiveMap(apply, partial(solved, solve), parameters), z, context)

    def _make(self, last: Solve | None) -> Solve:
        dtype = next(self.module.parameters()).dtype
        self._chancy = [each for each in self.module.modules() if isinstance(each, (_BatchNorm, _DropoutNd))]
        double = self._frozen(torch.float64)
        if self.how != "levels":  # what could not be compiled before cannot be now
            try:
                program = self._inverse_program(double)
                self.how = "compiled"
            except ValueError as reason:
                self.how, self.why = "levels", str(reason)
        if self.how == "compiled":
            samplers = [Sampler(program.to(each), Point()) for each in (torch.float64, dtype)]
            self.num_levels = samplers[0].num_steps
            exact, solve = map(compiled, samplers)
        else:
            network = self._network_program(double)
            exact = self._by_levels(double, network)
            solve = self._by_levels(self._frozen(dtype), network.to(dtype))
        if self.check:
            self._compare(double, exact)
        return solve

    def _frozen(self, dtype: torch.dtype) -> nn.Module:
        return detached_copy(self.module).to("cpu", dtype).eval().requires_grad_(False)

    def _arguments(self, rows: Callable[[int], Tensor]) -> tuple[Tensor, Tensor | None]:
        """Rows (B, D), and for the context (B, C) or None, to try it on: within [0, 1], all the domain of some splines."""
        values, context = (rows(width) for width in (self.adapter.features, self.adapter.context_features))
        return values, context if self.adapter.context_features else None

    def _inverse_program(self, frozen: nn.Module) -> Program:
        """The network with the elementwise inverse, a program of points; fp64."""
        features, adapter = self.adapter.features, self.adapter

        def call(module: nn.Module, x: Tensor, joined: Tensor | None) -> Tensor:
            assert joined is not None
            context = joined[:, features:] if adapter.context_features else None
            return adapter.solve_each(module, adapter.network(module, x, context), joined[:, :features], None)

        wide = features + adapter.context_features
        read = capture(frozen, features, wide, call=call, hurry=True, last=self._last["inverse"])
        return read.program(Point().conditionals(features))

    def _network_program(self, frozen: nn.Module) -> Program:
        """The network alone, fp64."""
        adapter = self.adapter

        def call(module: nn.Module, x: Tensor, context: Tensor | None = None) -> Tensor:
            return adapter.network(module, x, context)

        # Parameters whose weights are still zero depend on nothing, so their layout could not be told.
        sizes = (adapter.features, adapter.context_features)
        read = capture(frozen, *sizes, call=call, layout="variable-major", last=self._last["network"])
        return read.program((PointConditional(read.params_per_variable[0]),) * adapter.features)

    def _by_levels(self, module: nn.Module, program: Program) -> Solve:
        solver, adapter, dtype = LevelSolver(program), self.adapter, program.dtype
        self.num_levels = solver.num_levels

        def solve(z: Tensor, context: Tensor | None) -> Tensor:
            noise = z.to("cpu", dtype)

            def step(params: Tensor, variables: Tensor) -> Tensor:
                flat = params.reshape(len(noise), -1).clone()  # some libraries write over their parameters
                return adapter.solve_each(module, flat, noise[:, variables], variables)

            found = solver.solve(step, len(noise), None if context is None else context.to("cpu", dtype))
            return found.to(z)

        return solve

    def _compare(self, double: nn.Module, solve: Solve) -> None:
        generator = torch.Generator().manual_seed(0)
        z, context = self._arguments(
            lambda width: torch.rand(CHECKED_ROWS, width, generator=generator, dtype=torch.float64)
        )
        with torch.no_grad():
            x = solve(z, context)
            back = self.adapter.apply(double, x, x, context)
        self.difference = float(((back - z).abs() / z.abs().clamp(min=1)).max())
        if not self.difference <= TOLERANCE:
            raise ValueError(
                f"the inverse that was read of {type(self.module).__name__} must lead back to the noise by its own "
                f"forward pass, but differs by {self.difference:.2g} in fp64"
            )


def copy_with(
    module: nn.Module, mixin: type, modules: Mapping[str, nn.Module] | None = None, **attributes: Any
) -> nn.Module:
    """A copy that shares all parameters, of a class of the same name with ``mixin`` put before the module's own.

    Args:
        module: the original, which is not changed.
        mixin: a class.
        modules: submodules of the copy that are others.
        attributes: those that the copy has beside its own.
    """
    copied: nn.Module = _unfilled(mixin, type(module))
    copied.__dict__.update({**module.__dict__, "_modules": {**module._modules, **(modules or {})}, **attributes})
    return copied


@cache
def _class_of(mixin: type, base: type) -> Any:
    def reduced(self: Any, protocol: Any) -> tuple[Any, ...]:
        """As the library's class is pickled, but made by ``_unfilled``: this class has no name to be found by."""
        _, _, *rest = super(kind, self).__reduce_ex__(protocol)
        return (_unfilled, (mixin, base), *rest)

    kind: Any = type(base.__name__, (mixin, base), {"__reduce_ex__": reduced})
    return kind


def _unfilled(mixin: type, base: type) -> Any:
    kind = _class_of(mixin, base)
    return kind.__new__(kind)

"""Proof that programs are autoregressive, and a report on a model by its programs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from made_fast.masks import rank_of
from made_fast.programs.dependencies import dependencies
from made_fast.programs.program import Program
from made_fast.programs.schedule import build_schedule
from made_fast.programs.summary import Summary, summary_of

__all__ = ["Report", "check_autoregressive", "report_on"]

_POINTS = 2  # random inputs at which derivatives are taken
_ENTRIES = 1 << 24  # of one Jacobian; above, some parameters are taken by chance


@dataclass(frozen=True)
class Report:
    """What ``MADE.check`` found; print it.

    Attributes:
        model: its own description.
        num_parameters: numbers that are trained.
        summaries: of the network under each mask that was looked at, by the number of the mask.
        largest_leak: largest derivative of a parameter by what it must not depend on, over random inputs: 0.
        jacobian_rows: how many parameters were differentiated, of how many.
    """

    model: str
    num_parameters: int
    summaries: dict[int, Summary]
    largest_leak: float
    jacobian_rows: tuple[int, int]

    @property
    def cut_off(self) -> list[tuple[int, int, int]]:
        """Triples (mask, variable, number of variables before it that it cannot see)."""
        return [(mask, *each) for mask, summary in self.summaries.items() for each in summary.cut_off]

    def __str__(self) -> str:
        """The summary, a few lines."""
        steps = [each.num_steps for each in self.summaries.values()]
        shown = " to ".join(map(str, sorted({min(steps), max(steps)})))
        first, num_masks = next(iter(self.summaries.values())), len(steps)
        unused, units = first.unused_units
        rows, of = self.jacobian_rows
        lines = [
            f"{self.model}",
            f"  {self.num_parameters:,} trained numbers; {num_masks} mask{'s' if num_masks > 1 else ''}",
            "  autoregressive: every variable depends on variables before it alone",
            f"    by the masks, and by the derivatives of {rows:,} of {of:,} parameters: largest forbidden one "
            f"{self.largest_leak:g}",
            f"  one draw: {shown} sequential steps, {first.share:.2f} of the multiply-adds of a dense forward pass;",
            f"    the naive sampler takes {first.naive_share:,.0f} times as many, in {len(first.order)} passes",
        ]
        if unused:
            lines.append(f"  {unused:,} of {units:,} hidden units reach no parameter")
        if self.cut_off:
            mask, variable, missing = max(self.cut_off, key=lambda each: each[2])
            lines.append(
                f"  {len(self.cut_off)} variables cannot see all that come before; the worst is variable {variable} "
                f"(mask {mask}): {missing} out of its sight. Wider layers or direct=True mend that"
            )
        else:
            lines.append("  every variable sees all that come before it")
        return "\n".join(lines)


def check_autoregressive(program: Program) -> None:
    """Makes sure that each variable depends on variables before it alone, by the masks of a program.

    Raises:
        ValueError: one does not; the message names a pair.
    """
    rank = rank_of(program.order).cpu()
    wrong = torch.from_numpy(dependencies(program)) & (rank[None, :] >= rank[:, None])
    if bool(wrong.any()):
        reader, read = wrong.nonzero()[0].tolist()
        raise ValueError(f"masks must follow the order, but variable {reader} depends on variable {read}")


def report_on(
    programs: Iterable[tuple[int, Program]], exact: Program, *, description: str, num_parameters: int
) -> Report:
    """Proves that the programs of a model are autoregressive, by masks and by derivatives; see ``MADE.check``.

    Args:
        programs: of each mask, with its number.
        exact: of one of them, in fp64 on the CPU: its derivatives are taken.
        description, num_parameters: for the report.
    """
    summaries = {}
    for mask, program in programs:
        check_autoregressive(program)
        summaries[mask] = summary_of(program, build_schedule(program))
    leak, rows = _largest_leak(exact)
    if leak != 0:
        raise ValueError(f"parameters must not depend on later variables, but a derivative is {leak:g}")
    report = Report(description, num_parameters, summaries, leak, rows)
    if report.cut_off:
        mask, variable, missing = max(report.cut_off, key=lambda triple: triple[2])
        warnings.warn(
            f"{len(report.cut_off)} variables cannot see all that come before them, variable {variable} of mask {mask} "
            f"misses {missing}: a hidden layer is narrower than the number of variables, or degrees are random",
            stacklevel=3,
        )
    return report


def _largest_leak(program: Program) -> tuple[float, tuple[int, int]]:
    """Largest derivative of a parameter by an input unit of its own variable or a later one, and of how many parameters."""
    generator = torch.Generator().manual_seed(0)
    units, params = sum(program.input_units), sum(program.params_per_variable)
    count = max(1, min(params, _ENTRIES // max(1, units)))
    chosen = torch.randperm(params, generator=generator)[:count].sort().values
    rank = rank_of(program.order.cpu())
    of_units = rank.repeat_interleave(torch.tensor(program.input_units))
    of_params = rank.repeat_interleave(torch.tensor(program.params_per_variable))[chosen]
    forbidden = of_units[None, :] >= of_params[:, None]
    largest = 0.0
    for _ in range(_POINTS):
        context = torch.randn(1, program.context_features, generator=generator, dtype=torch.float64)
        point = torch.randn(1, units, generator=generator, dtype=torch.float64)
        jacobian = _jacobian(program, point, context, chosen)
        largest = max(largest, float(np.max(np.abs(jacobian[forbidden].numpy()), initial=0.0)))
    return largest, (count, params)


def _jacobian(program: Program, point: Tensor, context: Tensor, rows: Tensor) -> Tensor:
    """Derivatives (rows, E) of some parameters by the input units."""
    point = point.detach().requires_grad_()
    params = program.evaluate_units(point, context)[0, rows]
    if not params.requires_grad:
        return torch.zeros(len(rows), point.shape[1], dtype=torch.float64)
    gradients = []
    for part in torch.eye(len(rows), dtype=torch.float64).split(256):
        (gradient,) = torch.autograd.grad(params, point, part, retain_graph=True, is_grads_batched=True)
        gradients.append(gradient[:, 0])
    return torch.cat(gradients)

"""What a program costs to draw from, and what of it is used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from made_fast.programs.dependencies import dependencies
from made_fast.programs.program import Affine, Program
from made_fast.programs.schedule import Schedule

__all__ = ["Summary", "summary_of"]


@dataclass(frozen=True)
class Summary:
    """A network that can be drawn from; print it.

    Attributes:
        order: (D,), in which variables are drawn.
        levels: (D,), the sequential step at which each is drawn.
        num_steps: sequential steps of one draw.
        cut_off: variables that cannot see all that come before them, with how many they miss.
        unused_units: units of linear maps that reach no parameter, of how many; the parameters are not counted.
        macs: multiply-adds for one sample.
        dense_macs: multiply-adds for one row of one dense forward pass.
    """

    order: tuple[int, ...]
    levels: tuple[int, ...]
    num_steps: int
    cut_off: tuple[tuple[int, int], ...]
    unused_units: tuple[int, int]
    macs: int
    dense_macs: int

    @property
    def share(self) -> float:
        """Multiply-adds of a sample as a share of those of one dense forward pass."""
        return self.macs / max(1, self.dense_macs)

    @property
    def naive_share(self) -> float:
        """How many times the multiply-adds of a sample naive sampling takes: a dense forward pass for each variable."""
        return len(self.order) * self.dense_macs / max(1, self.macs)

    def __str__(self) -> str:
        """A few lines."""
        shown = ", ".join(map(str, self.order[:12])) + (", ..." if len(self.order) > 12 else "")
        unused, units = self.unused_units
        lines = [
            f"{len(self.order)} variables, drawn in {self.num_steps} sequential steps, in the order {shown}",
            f"  one sample: {self.macs:,} multiply-adds, {self.share:.2f} of one dense forward pass ({self.dense_macs:,})",
            f"  the naive sampler takes {self.naive_share:,.0f} times as many, in {len(self.order)} passes",
            f"  {unused:,} of {units:,} hidden units reach no parameter",
        ]
        if self.cut_off:
            variable, missing = max(self.cut_off, key=lambda each: each[1])
            lines.append(
                f"  {len(self.cut_off)} variables cannot see all that come before; the worst is variable {variable}, which "
                f"misses {missing}"
            )
        return "\n".join(lines)


def summary_of(program: Program, schedule: Schedule) -> Summary:
    """The summary of a program and its schedule."""
    order = program.order.cpu().numpy()
    seen = dependencies(program).sum(1)
    missing = np.argsort(order) - seen
    hidden = sum(op.terms[0].weight.shape[0] for op in program.affines)
    used = sum(len(plan.rows) for plan in schedule.affines)
    if isinstance(program.ops[-1], Affine):  # its units are the parameters, all of which are needed
        hidden, used = hidden - program.widths[-1], used - program.widths[-1]
    return Summary(
        order=tuple(order.tolist()),
        levels=tuple(schedule.levels.tolist()),
        num_steps=schedule.num_levels,
        cut_off=tuple((int(each), int(missing[each])) for each in np.flatnonzero(missing > 0)),
        unused_units=(hidden - used, hidden),
        macs=schedule.macs,
        dense_macs=program.dense_macs,
    )

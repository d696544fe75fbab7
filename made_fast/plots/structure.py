"""The structure of a network: which units are connected, what each of them may see, when it is evaluated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from made_fast.arguments import shown
from made_fast.models.made import MADE
from made_fast.plots.panels import BLUE, INK, PALE, SEEN, one_panel, panels
from made_fast.programs import Affine, Kind, Program, Schedule, build_schedule
from made_fast.programs.dependencies import masks_of, reaches
from made_fast.programs.program import CONTEXT, X
from made_fast.sampling.sampler import Sampler

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["levels", "masks"]

_MOST_PANELS = 24

Array = NDArray[Any]


def masks(model: MADE | Sampler | Program, *, mask: int | None = None, ax: Any = None) -> NDArray[np.object_]:
    """Draws the mask of each layer: units are lines, what they read are columns, and blue is what they may read.

    Args:
        model: a model, or a sampler or program of one mask, such as ``accelerate(module).sampler``.
        mask: number of the mask of an ensemble; the current one if left out.
        ax: as many as there are layers, one more with direct connections; a figure of its own if left out.

    Returns:
        The axes (layers,).

    Raises:
        ValueError: there is no such mask, or the network has more than 24 layers.
        ModuleNotFoundError: matplotlib is not installed.
    """
    program = _program_of(model, mask)
    shown_masks = _named_masks(program)
    if len(shown_masks) > _MOST_PANELS:
        raise ValueError(f"model must have at most {_MOST_PANELS} layers for a picture, got {len(shown_masks)}")
    axes = panels(ax, len(shown_masks), columns=4, size=(2.6, 2.8))
    from matplotlib.colors import ListedColormap

    for axis, (title, read, connected) in zip(axes, shown_masks, strict=True):
        axis.imshow(
            connected, cmap=ListedColormap([PALE, BLUE]), vmin=0, vmax=1, aspect="auto", interpolation="nearest"
        )
        axis.set_title(f"{title}: {connected.mean():.0%}", fontsize="small")
        axis.set_xlabel(read, fontsize="small")
        axis.tick_params(labelsize="x-small")
    return np.array(axes, dtype=object)


def levels(model: MADE | Sampler | Program, *, mask: int | None = None, ax: Any = None) -> Axes:
    """Draws what each unit may see and when a draw evaluates it: once, when all that it may see is drawn.

    A line is a unit, layer after layer from the top, and sorted by time. A column is a moment of a draw: blue is the one at
    which the unit is evaluated, pale blue are the variables before it that it may see, directly or through other units. Units
    that reach no parameter are left out, since a draw never evaluates them.

    Args:
        model: a model, or a sampler or program of one mask, such as ``accelerate(module).sampler``.
        mask: number of the mask of an ensemble; the current one if left out.
        ax: where to draw; a figure of its own if left out.

    Raises:
        ValueError: there is no such mask, or the network is not autoregressive.
        ModuleNotFoundError: matplotlib is not installed.
    """
    program = _program_of(model, mask)
    schedule = model.schedule if isinstance(model, Sampler) else build_schedule(program)
    axes = one_panel(ax, (5.0, 4.2))
    from matplotlib.colors import ListedColormap

    seen, sizes = _seen(program, schedule)
    axes.imshow(seen, cmap=ListedColormap([PALE, SEEN, BLUE]), vmin=0, vmax=2, aspect="auto", interpolation="nearest")
    ends = np.cumsum(sizes)
    for edge in ends[:-1]:
        axes.axhline(edge - 0.5, color=INK, linewidth=0.8)
    names = [f"hidden {number + 1}" for number in range(len(sizes) - 1)] + ["parameters"]
    axes.set_yticks(ends - np.array(sizes) / 2 - 0.5, names, rotation=90, va="center", fontsize="small")
    axes.set_xlabel("variables drawn so far", fontsize="small")
    axes.set_title(f"{len(seen):,} units, each evaluated once", fontsize="medium")
    axes.tick_params(axis="x", labelsize="x-small")
    axes.tick_params(axis="y", length=0)
    return axes


def _program_of(model: MADE | Sampler | Program, mask: int | None) -> Program:
    if isinstance(model, MADE):
        return model.program(mask=mask)
    if not isinstance(model, (Sampler, Program)):
        raise ValueError(f"model must be a MADE, or a Sampler or Program of one mask, got {shown(model)}")
    if mask not in (None, 0):
        raise ValueError(f"mask must be 0 where there is one mask, got {shown(mask)}")
    return model.program if isinstance(model, Sampler) else model


def _named_masks(program: Program) -> list[tuple[str, str, Array]]:
    """For each product that reads no context: what it makes, what it reads, and its mask (n, m)."""
    found, affines = [], [place for place, op in enumerate(program.ops) if isinstance(op, Affine)]
    for number, place in enumerate(affines):
        op = program.ops[place]
        name = "parameters" if place == affines[-1] else f"hidden {number + 1}"
        for source, connected in zip(op.sources, masks_of(program)[place], strict=True):
            if source != CONTEXT:
                found.append((name, "variables" if source == X else "units below", connected))
    return found


def _seen(program: Program, schedule: Schedule) -> tuple[Array, list[int]]:
    """What each evaluated unit of the affine operations may see, (units, D): 1, and 2 when it is evaluated; their numbers."""
    when = _drawn_before(schedule)
    reach = [each for each, op in zip(reaches(program)[2:], program.ops, strict=True) if isinstance(op, Affine)]
    parts = []
    for plan, of_units in zip(schedule.affines, reach, strict=True):
        part = of_units[plan.rows][:, schedule.variables].astype(np.int64)
        part[np.arange(len(part)), when[plan.first_slot + np.arange(len(part))]] = 2
        parts.append(part)
    return np.concatenate(parts), [len(part) for part in parts]


def _drawn_before(schedule: Schedule) -> Array:
    """For each slot of the table, how many variables have been drawn when its value is made."""
    when, drawn = np.zeros(schedule.num_slots, dtype=np.int64), 0
    for kind, first, count, *_ in schedule.steps.tolist():
        if kind == Kind.DRAW:
            drawn += count
        else:
            when[first : first + count] = drawn
    return when

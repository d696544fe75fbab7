"""Sizes of the sampling kernels: one layout for a packed program, and the rows of a tile by how many rows are drawn."""

from __future__ import annotations

from typing import NamedTuple

from made_fast.backends.triton.launch import Config, next_power_of_2

__all__ = ["LAYOUT", "PROGRAMS", "SAMPLER", "SCRATCH_BYTES", "Layout", "choose_rows"]


class Layout(NamedTuple):
    """Sizes a program is packed for: U units of a block, K inputs of a chunk, T units of a task, blocks of an outer one."""

    units: int
    inputs: int
    task_units: int
    outer_blocks: int


LAYOUT = Layout(32, 32, 64, 16)

PROGRAMS = 2  # for each multiprocessor: one multiplies while the other goes through its events
SCRATCH_BYTES = 384 << 20  # of all programs together; wide networks get fewer programs

# By the most rows for which each is taken, as tiles for each multiprocessor.
SAMPLER: tuple[tuple[float, Config], ...] = (
    (1.0, Config.of(4, 3, max_registers=128, R=16)),
    (float("inf"), Config.of(4, 3, max_registers=255, R=64)),
)


def choose_rows(rows: int, processors: int) -> Config:
    """The configuration for a number of rows: small tiles as long as they leave multiprocessors idle.

    Without any (processors is 0) it is for the interpreter, which takes as long for a small tile as for a large one.
    """
    if not processors:
        return Config.of(4, 3, R=min(1024, max(16, next_power_of_2(rows))))
    for most, config in SAMPLER:
        if rows <= most * config["R"] * processors:
            return config
    return SAMPLER[-1][1]

"""Sizes of the sampling kernels: one layout for a packed program, and the rows of a tile by how many rows are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from made_fast.backends.triton.launch import Config, next_power_of_2

__all__ = ["ASKED", "LAYOUT", "SAMPLER", "SCRATCH_BYTES", "VARIABLES", "Layout", "Tile", "choose_tile"]


class Layout(NamedTuple):
    """Sizes a program is packed for: U units of a block, K inputs of a chunk, T units of a task, blocks of an outer one."""

    units: int
    inputs: int
    task_units: int
    outer_blocks: int


LAYOUT = Layout(32, 32, 64, 16)

SCRATCH_BYTES = 384 << 20  # of all programs together; wide networks get fewer programs


class Tile(NamedTuple):
    """R rows that one program draws at a time, for batches of up to ``most`` such tiles for each multiprocessor.

    ``programs`` share a multiprocessor: one multiplies while another goes through its events. More do not fit its registers.
    """

    config: Config
    programs: int
    most: float = float("inf")


_SMALL = Tile(Config.of(4, 3, max_registers=255, R=16), 2, most=1)
# Small tiles as long as they leave multiprocessors idle. By what multiplies, as in masked/sizes.py: ordinary units keep the
# factors of many products in registers, and tensor cores want 64 rows.
SAMPLER: dict[str, tuple[Tile, ...]] = {
    "ieee": (_SMALL, Tile(Config.of(4, 3, max_registers=255, R=32), 4)),
    "tf32": (_SMALL, Tile(Config.of(4, 3, max_registers=255, R=64), 2)),
}
# Where variables are drawn between blocks: what a draw needs beside the products takes twice the threads for many rows, and
# with conditions, or a temperature, small tiles at any number of rows.
_MANY_THREADS = Config.of(8, 3, max_registers=255, R=32), Config.of(8, 3, max_registers=255, R=64)
VARIABLES: dict[str, tuple[Tile, ...]] = {
    "ieee": (_SMALL, Tile(_MANY_THREADS[0], 1)),
    "tf32": (_SMALL, Tile(_MANY_THREADS[1], 1)),
}
ASKED: dict[str, tuple[Tile, ...]] = dict.fromkeys(VARIABLES, (_SMALL._replace(most=float("inf")),))


def choose_tile(rows: int, processors: int, precision: str, tiles_of: Mapping[str, tuple[Tile, ...]] = SAMPLER) -> Tile:
    """The tile for a number of rows, from one of the tables above.

    Without any multiprocessors it is for the interpreter, which takes as long for a small tile as for a large one.
    """
    if not processors:
        return Tile(Config.of(4, 3, R=min(1024, max(16, next_power_of_2(rows)))), 1)
    return next(tile for tile in tiles_of[precision] if rows <= tile.most * tile.config["R"] * processors)

"""Rows over processes: which rows of one large draw a process makes, and the name of its file.

Nothing is sent between the processes. The noise is a function of the row number, so it is enough that they agree on the
seed and that each takes its own rows.
"""

from __future__ import annotations

from pathlib import Path

from made_fast.arguments import whole_number

__all__ = ["sample_rows", "shard_path"]

_DIGITS = 5  # of a shard's number at least, as in most data sets that come in shards


def sample_rows(rank: int, world_size: int, n: int) -> range:
    """The rows that one of several processes draws, so that together they draw ``sample(n, seed=s)``.

    With ``n = q * world_size + r`` the first r processes take ``q + 1`` rows and the others q, in the order of their ranks,
    as ``numpy.array_split`` cuts::

        rows = made_fast.sample_rows(rank, world_size, n)
        mine = model.sample(len(rows), seed=s, first_row=rows.start)  # sample(n, seed=s)[rows.start : rows.stop]

    Args:
        rank: number of this process, 0 to ``world_size - 1``.
        world_size: number of processes.
        n: number of rows in all; fewer rows than processes leave the last ones an empty range.

    Returns:
        Row numbers from 0 on, ``rows.start`` to ``rows.stop - 1``.

    Raises:
        ValueError: an argument is no integer or out of its range; the message names it.

    Examples:
        >>> [sample_rows(rank, 3, 10) for rank in range(3)]
        [range(0, 4), range(4, 7), range(7, 10)]
    """
    world_size, n = whole_number("world_size", world_size, 1), whole_number("n", n)
    rank = _checked_rank(rank, world_size)
    quotient, remainder = divmod(n, world_size)
    start = rank * quotient + min(rank, remainder)
    return range(start, start + quotient + (rank < remainder))


def shard_path(path: Path, rank: int, world_size: int) -> Path:
    """The file of one process, ``samples-00001-of-00004.npy`` for ``samples.npy``; the names sort as the rows do.

    Args:
        path: name of the file that one process alone would write.
        rank: number of the process, 0 to ``world_size - 1``; the number in the name.
        world_size: number of processes.

    Returns:
        A path in the same folder with the same ending.

    Raises:
        ValueError: an argument is no integer or out of its range; the message names it.
    """
    world_size = whole_number("world_size", world_size, 1)
    rank = _checked_rank(rank, world_size)
    digits = max(_DIGITS, len(str(world_size)))
    return path.with_name(f"{path.stem}-{rank:0{digits}d}-of-{world_size:0{digits}d}{path.suffix}")


def _checked_rank(rank: object, world_size: int) -> int:
    return whole_number("rank", rank, 0, world_size - 1, note=f" with world_size {world_size}")

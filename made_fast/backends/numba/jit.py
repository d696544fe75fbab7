"""How every kernel of this backend is compiled and kept, and how it is spread over threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import torch

__all__ = ["in_threads", "jit"]

_STAMP = tuple(
    (path.name, path.stat().st_mtime, path.stat().st_size) for path in sorted(Path(__file__).parent.glob("*.py"))
)


def jit(function: Callable[..., Any]) -> Any:
    """Compiles a kernel at first use, without the interpreter lock, and keeps it on disk.

    Contraction is the only freedom given to the compiler: sums keep their order, so rows do not depend on their neighbours.
    """
    dispatcher: Any = numba.njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")(function)
    # numba looks only at a kernel's own file to see whether what is kept is still good; these call each other across files.
    kept = getattr(dispatcher._cache, "_cache_file", None)
    if kept is not None:
        kept._source_stamp = _STAMP
    return dispatcher


def in_threads(function: Callable[..., object], arguments: tuple[object, ...], count: int) -> list[object]:
    """Calls ``function(*arguments, start, stop)`` for as many parts of ``range(count)`` as there are threads."""
    threads = max(1, min(torch.get_num_threads(), count))
    if threads == 1:
        return [function(*arguments, 0, count)]
    bounds = [count * thread // threads for thread in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(function, *arguments, bounds[i], bounds[i + 1]) for i in range(threads)]
        return [future.result() for future in futures]

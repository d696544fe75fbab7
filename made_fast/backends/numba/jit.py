"""How every kernel of this backend is compiled and kept, and how it is spread over threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from pathlib import Path
from typing import Any

import numba
import numba.extending
import torch

from made_fast.masks.plan import GroupColumn
from made_fast.outputs.codes import Code, Encoding
from made_fast.programs.functions import FUNCTION_CODES
from made_fast.programs.schedule import Kind, StepColumn
from made_fast.programs.wiring import HEADS

__all__ = ["dispatch", "in_threads", "intrinsic", "jit", "jit_part"]

_ENUMERATIONS: tuple[type[IntEnum], ...] = (Code, Encoding, Kind, StepColumn, GroupColumn)
# What kernels are made from: the files of this backend, and numbers that come from elsewhere.
_STAMP = (
    *((path.name, path.stat().st_mtime, path.stat().st_size) for path in sorted(Path(__file__).parent.rglob("*.py"))),
    *((enumeration.__name__, *((each.name, each.value) for each in enumeration)) for enumeration in _ENUMERATIONS),
    tuple(FUNCTION_CODES.items()),
    HEADS,
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


def jit_part(function: Callable[..., Any]) -> Any:
    """Compiles what only kernels call, as ``jit`` does; it is kept with those, and without what Python needs to call it."""
    njit: Any = numba.njit  # whose stubs know fewer options
    return njit(nogil=True, fastmath={"contract"}, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(
        function
    )


def intrinsic(function: Callable[..., Any]) -> Any:
    """A function that kernels call and that writes LLVM's code itself."""
    return numba.extending.intrinsic(function)


def dispatch(name: str, parameters: str, arguments: str, cases: Mapping[int, Any]) -> Any:
    """A kernel that calls one of several by number.

    It is written as text: compiled code looks no function up, and a table says all of them once.

    Args:
        name: of the kernel.
        parameters: what it takes, ``code`` among them.
        arguments: what it hands on.
        cases: code -> kernel, all of one kind. A code that is not among them gets the last; nobody packs one.
    """
    codes_of: dict[Any, list[int]] = {}
    for code, kernel in cases.items():
        codes_of.setdefault(kernel, []).append(int(code))
    names = {f"case_{codes[0]}": kernel for kernel, codes in codes_of.items()}
    *tests, last = [
        (" or ".join(f"code == {code}" for code in codes), f"return case_{codes[0]}({arguments})")
        for codes in codes_of.values()
    ]
    body = [f"    if {test}:\n        {call}" for test, call in tests]
    text = "\n".join([f"def {name}({parameters}):", *body, f"    {last[1]}", ""])
    scope: dict[str, Any] = {"__name__": __name__, **names}
    exec(compile(text, __file__, "exec"), scope)  # the name of a file that exists, or numba keeps nothing on disk
    return jit(scope[name])


def in_threads(
    function: Callable[..., object], arguments: tuple[object, ...], count: int, most: int | None = None
) -> list[object]:
    """Calls ``function(*arguments, start, stop)`` for as many parts of ``range(count)`` as there are threads, or ``most``."""
    threads = max(1, min(torch.get_num_threads() if most is None else most, count))
    if threads == 1:
        return [function(*arguments, 0, count)]
    bounds = [count * thread // threads for thread in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(function, *arguments, bounds[i], bounds[i + 1]) for i in range(threads)]
        return [future.result() for future in futures]

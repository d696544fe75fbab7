"""What a peer file says about itself, and how one case of it is timed.

A peer file has two names, ``PACKAGES`` and ``CALLS``, and ends with ``main(PACKAGES, CALLS)``. It imports its library
inside ``prepare``, so that the runner can read the two names without having the library. One process times one case:

    python -m benchmarks.peers.zuko --call maf --case 64 512 100

Only the standard library is imported here, because every peer has an environment of its own.
"""

import argparse
import importlib.metadata
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Draw = Callable[[int], Any]
"""seed -> B finished draws: B * D numbers, last axis D. A library that keeps a state of its own ignores the seed."""

Widths = tuple[int, ...]


def one_layer(features: int, hidden: int) -> Widths:
    """One hidden layer of H units."""
    return (hidden,)


def two_layers(features: int, hidden: int) -> Widths:
    """Two hidden layers of H units."""
    return (hidden, hidden)


@dataclass(frozen=True)
class Call:
    """One way to draw samples with one library.

    Attributes:
        name: Tells the calls of one library apart.
        text: The call that is timed, as its user would write it.
        draws: What one draw of one variable is, and how the library goes through the variables.
        widths: (D, H) -> widths of the hidden layers that the library really has.
        prepare: (D, widths, B) -> draw. What it does is not timed.
        note: What else differs from ours.
    """

    name: str
    text: str
    draws: str
    widths: Callable[[int, int], Widths]
    prepare: Callable[[int, Widths, int], Draw]
    note: str = ""


def processors() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads() -> str:
    """Thread counts of the libraries that are loaded, e.g. ``torch 2``."""
    said = []
    if "torch" in sys.modules:
        said.append(f"torch {sys.modules['torch'].get_num_threads()}")
    if "jax" in sys.modules:
        said.append(f"XLA pool on {processors()} processors")
    return ", ".join(said) or "1"


def _check(sample: Any, rows: int, features: int) -> None:
    """Raise unless ``sample`` holds B rows of D finite numbers."""
    shape = tuple(sample.shape)
    count = 1
    for size in shape:
        count *= size
    if count != rows * features or shape[-1] != features:
        raise ValueError(f"the draw must hold {rows} rows of {features} numbers, got shape {shape}")
    if not bool((abs(sample) < float("inf")).all()):
        raise ValueError("the draw holds numbers that are not finite")


def measure(call: Call, features: int, widths: Widths, rows: int, *, seconds: float) -> dict[str, Any]:
    """Time one case: prepare, one draw to warm up (compilation is there), then draws until time and count suffice.

    Args:
        call: What to time.
        features: D.
        widths: Widths of the hidden layers.
        rows: B.
        seconds: Draws are repeated until this much time has passed, and at least three times.

    Returns:
        Times in milliseconds, their count, and the thread counts, ready for JSON.
    """
    begin = time.perf_counter()
    draw = call.prepare(features, widths, rows)
    prepared = time.perf_counter()
    sample = draw(0)
    warm = time.perf_counter()
    _check(sample, rows, features)
    times: list[float] = []
    stop = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < stop:
        start = time.perf_counter()
        draw(len(times) + 1)
        times.append((time.perf_counter() - start) * 1e3)
    return {
        "median_ms": statistics.median(times),
        "min_ms": min(times),
        "repeats": len(times),
        "prepare_ms": (prepared - begin) * 1e3,
        "first_draw_ms": (warm - prepared) * 1e3,
        "threads": _threads(),
    }


def _version(requirement: str) -> str:
    name = requirement.partition("==")[0]
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{name} (not installed as a package)"


def main(packages: Sequence[str], calls: Sequence[Call], about: Callable[[], list[str]] | None = None) -> None:
    """Time one case as the command line says, and print the result as one line of JSON.

    Args:
        packages: The peer's requirements; their installed versions are reported.
        calls: The peer's calls.
        about: What else belongs beside the versions, asked once the case has been timed.
    """
    parser = argparse.ArgumentParser(description="Time one case of one peer.")
    parser.add_argument("--call", choices=[call.name for call in calls], default=calls[0].name)
    parser.add_argument("--case", nargs=3, type=int, metavar=("D", "H", "B"), default=(64, 512, 1))
    parser.add_argument("--widths", nargs="+", type=int, help="of the hidden layers; default: what the call makes of H")
    parser.add_argument("--seconds", type=float, default=3.0, help="repeat draws for this long")
    args = parser.parse_args()
    # `python -m` puts the current folder first; an installed package must win over a source tree with nothing compiled.
    sys.path.append(sys.path.pop(0))
    call = next(call for call in calls if call.name == args.call)
    features, hidden, rows = args.case
    widths = tuple(args.widths or call.widths(features, hidden))
    try:
        result = measure(call, features, widths, rows, seconds=args.seconds)
        result["versions"] = [_version(package) for package in packages]
        if about is not None:
            result["versions"] += about()
    except Exception as error:  # the row says why; any failure of a library that is not ours is a result
        first_line = (str(error).strip().splitlines() or [""])[0]
        result = {"error": f"{type(error).__name__}: {first_line}"}
    print(json.dumps(result))

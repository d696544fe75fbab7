"""What ``accelerate`` does for flows of other libraries: what is served, how exactly, how quickly, what reading them prints.

Every library that is installed is tried, the others are named (``pip install -c constraints.txt zuko nflows ...``; several
want old versions of others: ``pip install --no-deps``). Each flow has fresh weights that are stirred, and runs its slow
direction on the same numbers as it is and accelerated: in fp64 to be compared and in fp32, in turns, to be timed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from benchmarks import WrongResult
from benchmarks.report import machine, measured_on, table, write
from benchmarks.suites.library_flows import FLOWS, Peer
from benchmarks.timing import measure, ratio
from made_fast.flows.adapters import accelerate_flow, inverters

TEXT = "every known library of flows: what is served, how exactly, how quickly; takes what is installed"
QUICK = {"features": [4], "hidden": 16, "rows": 8, "seconds": 0.01}
TOLERANCE = 1e-6
READINGS = 3  # of which the quickest counts: the first of a kind loads what torch.export needs for it


class Printed:
    """What was written to the terminal meanwhile, by Python and by native code."""

    text = ""


@contextlib.contextmanager
def printed() -> Iterator[Printed]:
    """Everything that goes to the file descriptors 1 and 2, warnings too."""
    found = Printed()
    sys.stdout.flush(), sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    with tempfile.TemporaryFile() as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        try:
            yield found
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            for number, each in zip((1, 2), kept, strict=True):
                os.dup2(each, number)
                os.close(each)
            file.seek(0)
            found.text = file.read().decode(errors="replace")


def slow(peer: Peer, flow: Any, z: Tensor) -> Tensor:
    """The slow direction (B, D) of z (B, D), under the default dtype of z: several libraries draw and begin in that."""
    standard = torch.get_default_dtype()
    torch.set_default_dtype(z.dtype)
    try:
        return peer.slow(flow, z)
    finally:
        torch.set_default_dtype(standard)


def stirred(make: Callable[[int, int], Any], features: int, hidden: int) -> Any:
    """A flow in fp64 whose weights are no library's cautious first ones; from the same seed the same."""
    torch.manual_seed(0)
    flow = make(features, hidden).double().eval()
    with torch.no_grad():
        for parameter in flow.parameters():
            if parameter.requires_grad and parameter.ndim > 1:  # scales and shifts of whole variables are left alone
                parameter.add_(0.2 * torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    return flow


def read_again(flow: Any, ours: Any) -> float:
    """Seconds that an accelerated flow takes to notice that weights have changed and to read them, the quickest of three."""
    taken = []
    for _ in range(READINGS):
        with torch.no_grad():
            for parameter in flow.parameters():
                if parameter.requires_grad and parameter.ndim > 1:
                    parameter.mul_(1.01)
        start = time.perf_counter()
        for inverter in inverters(ours):
            inverter.prepare()
        taken.append(time.perf_counter() - start)
    return min(taken)


def one_size(peer: Peer, features: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Reading in seconds, and what it printed; the largest difference in fp64; the paired ratio in fp32."""
    flow, readings = stirred(peer.make, features, arguments.hidden), []
    with printed() as output:
        for _ in range(READINGS):
            start = time.perf_counter()
            ours = accelerate_flow(flow)
            readings.append(time.perf_counter() - start)
        again = read_again(flow, ours)
    z = torch.randn(arguments.rows, features, dtype=torch.float64)
    with torch.no_grad():
        found, expected = slow(peer, ours, z), slow(peer, flow, z)
        difference = float(((found - expected).abs() / expected.abs().clamp(min=1)).max())
        if not difference < TOLERANCE:
            raise WrongResult(f"{peer.name} differs by {difference:.1e} in fp64")
        z, theirs = z.float(), flow.float()
        ours = accelerate_flow(theirs)
        runs = {"library": lambda: slow(peer, theirs, z), "ours": lambda: slow(peer, ours, z)}
        times = measure(runs, seconds=arguments.seconds, min_rounds=3)
    return {
        "way": ", ".join(sorted({each.how for each in inverters(ours)})) or "as it was",
        "difference": difference,
        "reading": min(readings),
        "again": again,
        "printed": len(output.text),
        "ratio": ratio(times, "library", "ours"),
    }


def refused(peer: Peer, hidden: int) -> str:
    """Why a flow is not served, as ``accelerate`` says it; raises if it is."""
    flow = stirred(peer.make, 4, hidden)
    try:
        accelerate_flow(flow)
    except ValueError as error:
        return str(error)
    raise WrongResult(f"{peer.name} was expected to be refused")


def versions(peer: Peer) -> str | None:
    """The version of its library; None where that is not installed, or lacks what it needs itself."""
    try:
        found = version(peer.package)
        peer.make(3, 8)
    except (PackageNotFoundError, ImportError):
        return None
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    names = [peer.name for peer in FLOWS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--features", nargs="+", type=int, default=[8, 64], metavar="D", help="small and large")
    parser.add_argument("--hidden", type=int, default=128, metavar="H")
    parser.add_argument("--rows", type=int, default=100, metavar="B")
    parser.add_argument("--seconds", type=float, default=3.0, help="for a case; three rounds are made in any case")


def row_of(peer: Peer, found: str, arguments: argparse.Namespace, reading: float) -> dict[str, Any]:
    """A line of the table; ``reading`` are the seconds that those of zuko's MAF took."""
    row: dict[str, Any] = {"library": f"{peer.package} {found}", "flow": peer.name, "slow direction": peer.direction}
    sizes = [one_size(peer, features, arguments) for features in arguments.features]
    row["served"] = sizes[0]["way"]
    row["largest difference, fp64"] = f"{max(each['difference'] for each in sizes):.0e}"
    for features, each in zip(arguments.features, sizes, strict=True):
        row[f"D = {features}: library / ours"] = each["ratio"]
    row["read, s"] = sizes[0]["reading"]
    row["read / MAF"] = sizes[0]["reading"] / reading
    row["again, s"] = sizes[0]["again"]
    row["printed"] = max(each["printed"] for each in sizes)
    return row


def run(arguments: argparse.Namespace) -> None:
    """Writes ``libraries.md`` and ``libraries.json``."""
    warnings.filterwarnings("ignore", module="zuko|nflows|normflows|pyro|sbi|torchflows|glasflow")
    chosen = [peer for peer in FLOWS if peer.name in arguments.only]
    missing = sorted({peer.package for peer in chosen if versions(peer) is None})
    maf = next(peer for peer in FLOWS if peer.name == "MAF")
    reading = float("nan")
    if versions(maf) is not None:
        alone = argparse.Namespace(**{**vars(arguments), "seconds": 0.0})
        reading = one_size(maf, arguments.features[0], alone)["reading"]
    rows, reasons = [], []
    for peer in chosen:
        found = versions(peer)
        if found is None:
            continue
        if peer.refused:
            reasons.append(
                {
                    "library": f"{peer.package} {found}",
                    "flow": peer.name,
                    "what is said": refused(peer, arguments.hidden),
                }
            )
        else:
            rows.append(row_of(peer, found, arguments, reading))
            print(rows[-1], flush=True)
    facts = machine()
    lines = [
        f"# Libraries\n\n`python -m benchmarks libraries`: {arguments.rows} rows, {arguments.hidden} hidden units, two "
        f"transforms. {measured_on(facts)}",
        "*library / ours*: time of the library's own slow direction over that of the accelerated flow, median and quartiles "
        "of rounds. *Read*: seconds of the quickest of three `accelerate` at the small D, and over those of zuko's "
        "MAF. *Again*: seconds to read it once more after its weights have changed. *Printed*: characters that reached the "
        "terminal meanwhile.",
    ]
    if rows:
        lines.append(table(tuple(rows[0]), rows))
    if reasons:
        lines += ["Not served:", table(tuple(reasons[0]), reasons)]
    if missing:
        lines.append(f"Not installed here: {', '.join(missing)}.")
    write(
        "libraries",
        arguments.out,
        "\n\n".join(lines),
        {"machine": facts, "rows": rows, "refused": reasons, "missing": missing},
    )

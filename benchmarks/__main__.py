"""The one runner: ``python -m benchmarks`` lists the suites, ``python -m benchmarks SUITE [--quick]`` runs one."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from benchmarks import WrongResult

# Name -> where it is; each is a ``Suite``. They are imported when they are asked for, since what they need differs.
SUITES = {
    "sampling": "suites.sampling",
    "small": "suites.small",
    "fresh": "suites.fresh",
    "training": "suites.training",
    "outputs": "suites.outputs",
    "cardinality": "suites.cardinality",
    "tables": "suites.tables",
    "ising": "suites.ising",
    "accelerate": "suites.accelerate",
    "steps": "suites.steps",
    "flows": "suites.flows",
    "libraries": "suites.libraries",
    "posterior": "suites.posterior",
    "npe": "suites.npe",
    "calibration": "suites.calibration",
    "nested": "suites.nested",
    "peers": "peers.run",
    "output_peers": "suites.output_peers",
    "paper": "paper.run",
    "direct": "experiments.direct",
    "orders": "experiments.orders",
    "leak": "experiments.leak",
    "autoencoder": "experiments.autoencoder",
    "filling": "experiments.filling",
    "figures": "suites.figures",
    "gpu": "gpu.run",
    "gpu_checks": "gpu.checks",
    "triton_static": "triton_static.run",
    "bits": "campaigns.bits",
    "fuzz": "campaigns.fuzz",
    "faults": "campaigns.faults",
    "chi_square": "campaigns.chi_square",
    "sanitize": "campaigns.sanitize",
}
PROG = "python -m benchmarks"
USAGE = f"{PROG} SUITE [--quick] [--out DIR] [options of the suite, see SUITE --help]"


class Suite(Protocol):
    """What the module of a suite has.

    Attributes:
        TEXT: a line for the list of suites.
        QUICK: what ``--quick`` makes of options that are not given, so that all is tried within seconds.
    """

    TEXT: str
    QUICK: Mapping[str, Any]

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Adds the suite's own options, or another default for ``out``."""

    def run(self, arguments: argparse.Namespace) -> int | None:
        """Measures and writes; returns the exit code, None for 0."""


def suite_of(name: str) -> Suite:
    """The module of a suite."""
    module: Any = importlib.import_module(f"benchmarks.{SUITES[name]}")
    return module


def arguments_of(name: str, words: Sequence[str]) -> argparse.Namespace:
    """The command line of a suite, without its name."""
    suite = suite_of(name)
    parser = argparse.ArgumentParser(
        prog=f"{PROG} {name}",
        description=sys.modules[f"benchmarks.{SUITES[name]}"].__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, within seconds, to see that it works")
    parser.add_argument(
        "--out", type=Path, default=Path("out"), metavar="DIR", help="for results (default: %(default)s)"
    )
    suite.add_options(parser)
    if parser.parse_args(words).quick:
        parser.set_defaults(**suite.QUICK)
    return parser.parse_args(words)


def listing() -> str:
    """A line for each suite; of those that cannot be imported here, what they lack."""
    lines = []
    for name in SUITES:
        try:
            text = suite_of(name).TEXT
        except ModuleNotFoundError as error:
            text = f"(cannot run here: {error})"
        lines.append(f"  {name:14} {text}")
    return "\n".join([USAGE, "", *lines])


def main(words: Sequence[str] | None = None) -> int:
    """Runs a suite; the exit code."""
    name, *others = (sys.argv[1:] if words is None else list(words)) or ["--help"]
    if name in ("-h", "--help"):
        print(listing())
        return 0
    if name not in SUITES:
        raise SystemExit(f"SUITE must be one of {', '.join(SUITES)}, got {name!r}")
    arguments = arguments_of(name, others)
    try:
        return suite_of(name).run(arguments) or 0
    except WrongResult as error:
        raise SystemExit(f"{name}: {error}; nothing is timed") from error


if __name__ == "__main__":
    sys.exit(main())

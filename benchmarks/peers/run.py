"""Every peer in an environment of its own, ours before and after each, in one table.

Environments are made once from the package registry that pip is set up for, and kept for the next run. Torch is always
installed first and by version: left to a dependency, it may come as a build for accelerators, which is gigabytes. With
``--quick`` nothing is installed: peers are asked in the interpreter that runs this, and those that are absent say so.
"""

import argparse
import datetime
import importlib
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import cases_of
from benchmarks.report import processor, write

from . import table
from ._protocol import Call, processors

TEXT = "other libraries that sample, each in an environment of its own (8.5 GB)"
QUICK = {"seconds": 0.01, "limit": 60.0, "only": ["naive_torch", "zuko"]}
ROOT = Path(__file__).resolve().parents[2]
PEERS = ("naive_torch", "zuko", "nflows", "normflows", "pyro", "sbi", "netket", "flowjax", "tfp")
INSTALL_LIMIT = 1200.0  # seconds for one environment

Result = dict[str, Any]


def _module(peer: str) -> Any:
    return importlib.import_module(f"{__package__}.{peer}")


def _run(command: Sequence[str], limit: float) -> tuple[int | None, str, str]:
    """Exit status (None: stopped at the limit), output and errors of a command, which runs in the repository root."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that what it started is stopped with it
    )
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None, "", ""
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out, err


def _why(code: int | None, err: str, limit: float) -> str:
    """One line that says why a command failed."""
    if code is None:
        return f"no result within {limit:.0f} s"
    lines = [line for line in err.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
    if code < 0:
        return f"ended by signal {signal.Signals(-code).name}"
    return errors[-1].strip() if errors else f"exit status {code}"


def environment(peer: str, folder: Path) -> tuple[str | None, str]:
    """Make the peer's environment, or find it.

    Args:
        peer: Name of a peer file.
        folder: Where environments are kept, one folder for each peer.

    Returns:
        Path of its interpreter and "", or None and why it could not be made.
    """
    packages = _module(peer).PACKAGES
    home = folder / peer
    python = home / "bin" / "python"
    marker = home / "installed.txt"
    wanted = "\n".join(packages)
    if marker.is_file() and marker.read_text() == wanted:
        return str(python), ""
    print(f"{peer}: installing {', '.join(packages)}", flush=True)
    shutil.rmtree(home, ignore_errors=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    steps = [[sys.executable, "-m", "venv", str(home)], [*install, packages[0]], [*install, *packages]]
    for step in steps:
        code, _, err = _run(step, INSTALL_LIMIT)
        if code != 0:
            return None, f"not installed: {_why(code, err, INSTALL_LIMIT)}"
    marker.write_text(wanted)
    return str(python), ""


def interpreter(peer: str, arguments: argparse.Namespace) -> tuple[str | None, str]:
    """Interpreter that has a peer, or None and why there is none; with ``--quick`` the one that has made_fast."""
    return (arguments.python, "") if arguments.quick else environment(peer, arguments.envs.absolute())


def measure(
    python: str, peer: str, call: Call, case: Sequence[int], *, seconds: float, limit: float, hidden: Sequence[int] = ()
) -> Result:
    """Time one case of one call in a process of its own; a failure is a result with ``error``.

    Args:
        python: Interpreter that has the peer.
        peer: Name of a peer file.
        call: One of its calls.
        case: D, H, B.
        seconds: For how long draws are repeated.
        limit: Seconds after which the process is stopped.
        hidden: Widths of the hidden layers, where the peer takes any (ours).
    """
    command = [python, "-m", f"{__package__}.{peer}", "--call", call.name, "--seconds", str(seconds)]
    command += ["--case", *map(str, case)]
    if hidden:
        command += ["--widths", *map(str, hidden)]
    code, out, err = _run(command, limit)
    lines = out.strip().splitlines()
    if code != 0 or not lines:
        return {"error": _why(code, err, limit)}
    result: Result = json.loads(lines[-1])
    return result


def _row(peer: str, call: Call, case: Sequence[int], sizes: Sequence[int], result: Result) -> Result:
    features, hidden, batch = case
    return {
        "peer": peer,
        "call": call.name,
        "features": features,
        "hidden": hidden,
        "batch": batch,
        "widths": list(sizes),
        "text": call.text,
        "draws": call.draws,
        "note": call.note,
    } | result


class Runner:
    """Goes through cases and peers, ours before and after each, and collects rows.

    Args:
        args: What the command line said, see `add_options`.
        pythons: Interpreter of each peer, or None and why there is none.
    """

    def __init__(self, args: argparse.Namespace, pythons: dict[str, tuple[str | None, str]]) -> None:
        self.args = args
        self.pythons = pythons
        self.rows: list[Result] = []

    def _ours(self, case: Sequence[int], sizes: Sequence[int]) -> Result:
        (call,) = _module("ours").CALLS
        return measure(
            self.args.python, "ours", call, case, seconds=self.args.seconds, limit=self.args.limit, hidden=sizes
        )

    def _peer(self, peer: str, call: Call, case: Sequence[int]) -> Result:
        python = self.pythons[peer][0]
        assert python is not None
        return measure(python, peer, call, case, seconds=self.args.seconds, limit=self.args.limit)

    def case(self, case: Sequence[int]) -> None:
        """All peers in one case. Ours after one peer is ours before the next, where both have the same widths."""
        ours: dict[tuple[int, ...], list[Result]] = {}
        last: tuple[tuple[int, ...], Result] | None = None
        for peer in self.args.only:
            for call in _module(peer).CALLS:
                sizes = call.widths(case[0], case[1])
                if self.pythons[peer][0] is None:
                    self.rows.append(_row(peer, call, case, sizes, {"error": self.pythons[peer][1]}))
                    continue
                if last is None or last[0] != sizes:
                    last = (sizes, self._ours(case, sizes))
                    ours.setdefault(sizes, []).append(last[1])
                before, result = last[1], self._peer(peer, call, case)
                last = (sizes, self._ours(case, sizes))
                ours[sizes].append(last[1])
                beside = {"ours_before_ms": before.get("median_ms"), "ours_after_ms": last[1].get("median_ms")}
                self.rows.append(_row(peer, call, case, sizes, result | beside))
                print(_summary(self.rows[-1]), flush=True)
        (call,) = _module("ours").CALLS
        self.rows += [_row("ours", call, case, sizes, _together(results)) for sizes, results in ours.items()]


def _together(results: Sequence[Result]) -> Result:
    """Ours over all its processes: median of medians, least minimum; its error where one failed."""
    failed = next((result for result in results if "error" in result), None)
    if failed is not None:
        return failed
    return results[-1] | {
        "median_ms": statistics.median(result["median_ms"] for result in results),
        "min_ms": min(result["min_ms"] for result in results),
        "repeats": sum(result["repeats"] for result in results),
    }


def _summary(row: Result) -> str:
    what = row.get("error") or f"{table.number(row['median_ms'])} ms"
    factor = table.ratio(row)
    beside = f", {table.number(factor)} x ours" if factor else ""
    return f"D={row['features']} H={row['hidden']} B={row['batch']} {row['peer']} {row['call']}: {what}{beside}"


def _load() -> str:
    return " ".join(f"{value:.2f}" for value in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"


def _machine(args: argparse.Namespace) -> Result:
    return {
        "processor": f"{processor()}, {processors()} usable",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "load average at the start": _load(),
        "started": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "draws repeated for": f"{args.seconds:g} s and at least 3 times",
        "limit of one case": f"{args.limit:g} s",
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS), metavar="NAME", help=", ".join(PEERS))
    envs = ROOT / ".venvs" / "peers"
    parser.add_argument("--envs", type=Path, default=envs, metavar="DIR", help="environments, kept")
    parser.add_argument("--case", nargs=3, type=int, action="append", metavar=("D", "H", "B"), help="may be repeated")
    parser.add_argument("--seconds", type=float, default=3.0, help="draws of one case are repeated for this long")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds after which one case is given up")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has made_fast installed")


def cases(name: str, arguments: argparse.Namespace) -> list[tuple[int, int, int]]:
    """D, H, B of the cases that are given, or of a group."""
    named = [(case.features, case.hidden, case.rows) for case in cases_of(name, quick=arguments.quick)]
    return [(features, hidden, rows) for features, hidden, rows in arguments.case or named]


def run(args: argparse.Namespace) -> None:
    """Makes the environments, runs the cases, and writes ``peers.md`` and ``peers.json`` after each case."""
    machine, runner = _machine(args), Runner(args, {peer: interpreter(peer, args) for peer in args.only})
    for case in cases("peers", args):
        runner.case(case)
        machine["load average at the end"] = _load()
        text = table.render(runner.rows, machine)
        write("peers", args.out, text, {"machine": machine, "rows": runner.rows}, tell=False)
    print(f"wrote {args.out / 'peers.md'} and {args.out / 'peers.json'}")

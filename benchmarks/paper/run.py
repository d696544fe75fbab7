"""The tables of the MADE paper, trained anew.

For each set in ``--data DIR`` (files NAME.npz in the layout of ``made_fast.datasets``) every configuration of the grid is
trained, the one with the lowest validation NLL is chosen, and only then are the test rows read, once. Everything is written
to ``--out``: one JSON line for each finished run with its configuration, curve and time, and a checkpoint of the one that is
being trained. Run the command again to go on where it was stopped. ``--quick`` trains on made-up rows for a few epochs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.paper.grid import Configuration, grid_of, weight_of
from benchmarks.paper.published import MADE_FIXED, MADE_SAMPLED, OTHERS, Figure
from benchmarks.report import machine, measured_on, table, write
from benchmarks.small_data import write_bars
from made_fast import MADE
from made_fast.datasets import Dataset, load
from made_fast.training import Epoch, TrainingError, evaluate, fit

TEXT = "the tables of the MADE paper, trained anew; needs the data sets"
QUICK = {"out": Path("out/quick"), "budget": 0.1}
QUICK_GRID = (Configuration((16,), epochs=2), Configuration((16,), epochs=2, learning_rate=1e-4))
COLUMNS = (
    *("set", "rows x D", "ours", "published, one mask", "published, many masks", "best of NADE, EoNADE, DARN"),
    *("verdict", "chosen", "validation", "epochs", "minutes"),
)


def make_model(data: Dataset, configuration: Configuration) -> MADE:
    """A network with fresh weights; the same ones for the same seed."""
    torch.manual_seed(configuration.seed)
    return MADE(
        data.features,
        configuration.hidden,
        activation=configuration.activation,
        direct=True,
        order=configuration.order,
        num_masks=configuration.num_masks,
        shuffle=configuration.shuffle,
        seed=configuration.seed,
    )


class Log:
    """All finished runs on one set: JSON lines in ``runs.jsonl``, and model files beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "runs.jsonl"

    def runs(self) -> dict[str, dict[str, Any]]:
        """Finished runs by the name of their configuration."""
        if not self.path.exists():
            return {}
        found = [json.loads(line) for line in self.path.read_text().splitlines() if line.strip()]
        return {run["name"]: run for run in found}

    def append(self, run: dict[str, Any]) -> None:
        """Adds a line."""
        with self.path.open("a") as file:
            file.write(json.dumps(run) + "\n")

    def file(self, configuration: Configuration, suffix: str) -> Path:
        """A file of one run."""
        return self.folder / (configuration.name + suffix)


def train_one(data: Dataset, configuration: Configuration, log: Log, minutes: float) -> dict[str, Any]:
    """Trains one configuration, or takes it up from its checkpoint, and logs it."""
    checkpoint = log.file(configuration, ".ckpt")

    def say(epoch: Epoch) -> None:
        mark = " *" if epoch.improved else ""
        print(
            f"{data.name} {configuration.name}: epoch {epoch.number}, train {epoch.train_nll:.3f}, "
            f"valid {epoch.valid_nll:.3f}, {epoch.seconds:.1f} s{mark}",
            file=sys.stderr,
            flush=True,
        )

    model = make_model(data, configuration)
    run: dict[str, Any] = {"name": configuration.name, "configuration": dataclasses.asdict(configuration)}
    try:
        history = fit(
            model,
            data.train,
            data.valid,
            epochs=configuration.epochs,
            batch_size=configuration.batch_size,
            learning_rate=configuration.learning_rate,
            weight_decay=configuration.weight_decay,
            input_dropout=configuration.input_dropout,
            averaging=configuration.averaging,
            patience=configuration.patience,
            seed=configuration.seed,
            max_minutes=minutes,
            checkpoint=checkpoint,
            resume=checkpoint.exists(),
            on_epoch=say,
        )
    except TrainingError as error:
        run |= {"failed": str(error)}
    else:
        model.save(log.file(configuration, ".safetensors"))
        run |= {
            "valid": history.best.valid_nll,
            "best epoch": history.best.number,
            "epochs": len(history.epochs),
            "stopped": history.stopped,
            "minutes": sum(epoch.seconds for epoch in history.epochs) / 60,
            "threads": torch.get_num_threads(),
            "curve": [dataclasses.astuple(epoch) for epoch in history.epochs],
        }
    log.append(run)
    checkpoint.unlink(missing_ok=True)
    return run


def run_set(path: Path, out: Path, minutes: float, grid: Sequence[Configuration] | None = None) -> dict[str, Any]:
    """Trains what of the grid is not yet trained, chooses by validation, and reads the test rows once."""
    data, log, started = load(str(path)), Log(out / path.stem), time.monotonic()
    todo = [one for one in grid or grid_of(path.stem) if one.name not in log.runs()]
    for place, configuration in enumerate(todo):
        left = minutes - (time.monotonic() - started) / 60
        if left <= 0:
            print(f"{path.stem}: no time is left for {len(todo) - place} configurations", file=sys.stderr)
            break
        train_one(data, configuration, log, left / (len(todo) - place))
    finished = [run for run in log.runs().values() if "valid" in run]
    if not finished:
        raise SystemExit(f"{path.stem}: no run was finished; give more minutes")
    best = min(finished, key=lambda run: run["valid"])
    settings = best["configuration"] | {"hidden": tuple(best["configuration"]["hidden"])}
    model = MADE.load(log.file(Configuration(**settings), ".safetensors"))
    nats, half_width = evaluate(model, data.test)
    result = {"set": path.stem, "rows": [len(data.train), len(data.valid), len(data.test)], "D": data.features}
    result |= {"test": nats, "half_width": half_width, "runs": len(finished), **best}
    (log.folder / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def verdict(name: str, ours: Figure) -> str:
    """How ours stands beside the published row of one mask."""
    published = MADE_FIXED.get(name)
    if published is None:
        return ""
    least = min(filter(None, (published, MADE_SAMPLED.get(name))), key=lambda figure: figure.nats)
    if ours.nats <= least.nats:
        return "better than both rows of MADE"
    if ours.nats <= published.nats:
        return "better than one mask"
    return "within its interval" if ours.nats <= published.nats + (published.half_width or 0) else "worse"


def row_of(result: dict[str, Any]) -> dict[str, Any]:
    """One row of the table."""
    name, ours = result["set"], Figure(result["test"], result["half_width"])
    others = OTHERS.get(name, {})
    return {
        "set": name,
        "rows x D": " / ".join(f"{count:,}" for count in result["rows"]) + f" x {result['D']}",
        "ours": str(ours),
        "published, one mask": str(MADE_FIXED.get(name, "")),
        "published, many masks": str(MADE_SAMPLED.get(name, "")),
        "best of NADE, EoNADE, DARN": f"{min(others.values()):.2f}" if others else "",
        "verdict": verdict(name, ours),
        "chosen": f"{result['name']} (of {result['runs']})",
        "validation": f"{result['valid']:.2f}",
        "epochs": f"{result['best epoch']} of {result['epochs']}, {result['stopped']}",
        "minutes": f"{result['minutes']:.1f}",
    }


def markdown(results: list[dict[str, Any]]) -> str:
    """The table."""
    return (
        "Test NLL in nats with 95 % intervals. "
        + measured_on(machine(), verb="Trained")
        + " Chosen on validation rows; minutes are those of the chosen run.\n\n"
        + table(COLUMNS, [row_of(result) for result in results])
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of NAME.npz files")
    parser.add_argument("--set", nargs="+", metavar="NAME", help="sets to train on (default: all in DIR)")
    parser.add_argument("--budget", type=float, default=120.0, metavar="MINUTES", help="for all (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="(default: torch's number)")


def paths_of(arguments: argparse.Namespace) -> list[Path]:
    """The files to train on; with ``--quick`` a made-up one, unless a folder is given."""
    if arguments.data is None:
        if not arguments.quick:
            raise SystemExit("--data must be a folder with .npz files")
        return [write_bars(arguments.out)]
    paths = sorted(arguments.data.glob("*.npz"))
    unknown = set(arguments.set or ()) - {path.stem for path in paths}
    if unknown:
        raise SystemExit(f"--set must name files of {arguments.data}, got {', '.join(sorted(unknown))}")
    if not paths:
        raise SystemExit(f"--data must be a folder with .npz files, found none in {arguments.data}")
    return [path for path in paths if not arguments.set or path.stem in arguments.set]


def run(arguments: argparse.Namespace) -> None:
    """Trains on every set; writes ``paper.md`` and ``paper.json`` after each."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    out = arguments.out / "paper"
    paths = paths_of(arguments)
    left, weights, results = arguments.budget, {path: weight_of(path.stem) for path in paths}, []
    for path in sorted(paths, key=lambda path: weights[path]):  # what the small ones leave over is the large one's
        started, share = time.monotonic(), weights[path] / sum(weights.values())
        results.append(run_set(path, out, left * share, QUICK_GRID if arguments.quick else None))
        del weights[path]
        left -= (time.monotonic() - started) / 60
        write("paper", arguments.out, markdown(results), results)

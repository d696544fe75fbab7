"""The tables of the MADE paper, trained anew by ``made_fast.training.recipe``.

For each set in ``--data DIR`` (files NAME.npz in the layout of ``made_fast.datasets``, the paper's nine and any other) the
recipe is trained; the epoch is chosen by validation rows, and only then are the test rows read, once. Everything is
written to ``--out``: one JSON line for each finished run with its recipe, curve and time, and a checkpoint of the one that is
being trained. Run the command again to go on where it was stopped. The same seed, number of threads and epochs give the same
figures; ``--budget`` may cut epochs off, and the table says where it did. What is left of it is divided among the sets
that are left by the multiply-adds that they need, the cheapest first.

``--ablation`` trains the recipe with one part changed at a time, and tells validation figures alone; no test row is read.
``--wide`` times steps of wide networks and says how much memory they take.
``--quick`` trains on made-up rows for a few epochs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.paper.patients import patients
from benchmarks.paper.published import MADE_FIXED, MADE_SAMPLED, OTHERS, Figure
from benchmarks.paper.variants import RECIPE, VARIANTS, cost_of, recipe_of
from benchmarks.paper.wide import wide
from benchmarks.report import machine, measured_on, table, write
from benchmarks.small_data import write_bars
from made_fast import MADE
from made_fast.datasets import Dataset, load
from made_fast.models import Mixture
from made_fast.outputs.output import Output
from made_fast.training import Epoch, Recipe, TrainingError, evaluate, fit

TEXT = "the tables of the MADE paper, trained anew; needs the data sets"
QUICK = {"out": Path("out/quick"), "budget": 0.2, "members": 2, "epochs": 0.005}
COLUMNS = (
    *("set", "rows x D", "ours", "MADE, one mask", "MADE, many masks", "NADE", "EoNADE", "DARN", "verdict"),
    *("validation", "epochs", "minutes"),
)


class Log:
    """All finished runs on one set: JSON lines in ``runs.jsonl``, and model files beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "runs.jsonl"

    def runs(self) -> dict[str, dict[str, Any]]:
        """Finished runs by their names."""
        if not self.path.exists():
            return {}
        found = [json.loads(line) for line in self.path.read_text().splitlines() if line.strip()]
        return {run["name"]: run for run in found}

    def append(self, run: dict[str, Any]) -> None:
        """Adds a line."""
        with self.path.open("a") as file:
            file.write(json.dumps(run) + "\n")

    def file(self, name: str, suffix: str) -> Path:
        """A file of one run."""
        return self.folder / (name.replace(" ", "-").replace(",", "") + suffix)


def make_model(chosen: Recipe, seed: int, output: str | Output = "bernoulli") -> Mixture:
    """A mixture with fresh weights; the same ones for the same seed."""
    torch.manual_seed(seed)
    return Mixture([MADE(**chosen.member(number, seed), output=output) for number in range(chosen.members)])


def train_one(
    data: Dataset,
    name: str,
    chosen: Recipe,
    log: Log,
    minutes: float | None = None,
    seed: int = 0,
    output: str | Output = "bernoulli",
) -> dict[str, Any]:
    """Trains one recipe, or takes it up from its checkpoint, and logs it."""
    checkpoint, started = log.file(name, ".ckpt"), time.process_time()

    def say(epoch: Epoch) -> None:
        mark = " *" if epoch.improved else ""
        print(
            f"{data.name}, {name}: epoch {epoch.number} of {chosen.epochs}, train {epoch.train_nll:.3f}, "
            f"valid {epoch.valid_nll:.3f}, {epoch.seconds:.1f} s{mark}",
            file=sys.stderr,
            flush=True,
        )

    model = make_model(chosen, seed, output)
    run: dict[str, Any] = {"name": name, "recipe": dataclasses.asdict(chosen), "seed": seed}
    try:
        history = fit(
            model,
            chosen.rows(data.train),
            data.valid,
            **chosen.training(),
            seed=seed,
            max_minutes=minutes,
            checkpoint=checkpoint,
            resume=checkpoint.exists(),
            on_epoch=say,
        )
    except TrainingError as error:
        run |= {"failed": str(error)}
    else:
        kept = model.selected(data.valid)
        kept.save(log.file(name, ".safetensors"))
        run |= {
            "selected": [n for n, each in enumerate(model.members) if any(each is one for one in kept.members)],
            "valid of all": history.best.valid_nll,
            "valid": evaluate(kept, data.valid)[0],
            "members": [evaluate(model.members[number], data.valid)[0] for number in range(chosen.members)],
            "best epoch": history.best.number,
            "epochs": len(history.epochs),
            "stopped": history.stopped,
            "minutes": sum(epoch.seconds for epoch in history.epochs) / 60,
            "processor minutes since the last start": (time.process_time() - started) / 60,
            "threads": torch.get_num_threads(),
            "curve": [dataclasses.astuple(epoch) for epoch in history.epochs],
        }
    log.append(run)
    checkpoint.unlink(missing_ok=True)
    return run


def run_set(data: Dataset, chosen: Recipe, out: Path, minutes: float | None = None, seed: int = 0) -> dict[str, Any]:
    """Trains the recipe if it is not yet trained, and reads the test rows once."""
    log = Log(out / data.name)
    run = log.runs().get(RECIPE) or train_one(data, RECIPE, chosen, log, minutes, seed)
    if "failed" in run:
        raise SystemExit(f"{data.name}: {run['failed']}")
    path = log.folder / "result.json"
    if path.exists():
        read: dict[str, Any] = json.loads(path.read_text())
        return read
    nats, half_width = evaluate(Mixture.load(log.file(RECIPE, ".safetensors")).eval(), data.test)
    result = {"set": data.name, "rows": [len(data.train), len(data.valid), len(data.test)], "D": data.features}
    result |= {"test": nats, "half_width": half_width, **run}
    path.write_text(json.dumps(result, indent=1) + "\n")
    return result


def verdict(name: str, ours: Figure) -> str:
    """How ours stands beside the published rows."""
    published = MADE_FIXED.get(name)
    if published is None:
        return ""
    made = min(figure.nats for figure in (published, MADE_SAMPLED.get(name)) if figure is not None)
    if ours.nats <= min(made, *OTHERS[name].values()):
        return "best of all rows"
    if ours.nats <= made:
        return "better than both rows of MADE"
    if ours.nats <= published.nats:
        return "better than one mask"
    return "within its interval" if ours.nats <= published.nats + (published.half_width or 0) else "worse"


def row_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """One row of the table."""
    name, ours = result["set"], Figure(result["test"], result["half_width"])
    others = OTHERS.get(name, {})
    return {
        "set": name,
        "rows x D": " / ".join(f"{count:,}" for count in result["rows"]) + f" x {result['D']}",
        "ours": str(ours),
        "MADE, one mask": str(MADE_FIXED.get(name, "")),
        "MADE, many masks": str(MADE_SAMPLED.get(name, "")),
        **{other: f"{others[other]:.2f}" if other in others else "" for other in ("NADE", "EoNADE", "DARN")},
        "verdict": verdict(name, ours),
        "validation": f"{result['valid']:.2f}, one member {sum(result['members']) / len(result['members']):.2f}",
        "epochs": f"{result['best epoch']} of {result['epochs']}, {result['stopped']}",
        "minutes": f"{result['minutes']:.1f}",
    }


def markdown(results: list[dict[str, Any]]) -> str:
    """The table."""
    return (
        "Test NLL in nats with 95 % intervals. "
        + measured_on(machine(), verb="Trained")
        + " Epochs are chosen by validation rows, test rows are read once; minutes are those of the training.\n\n"
        + table(COLUMNS, [row_of(result) for result in results])
    )


def ablation(
    datas: list[Dataset], recipes: list[Recipe], outputs: list[str | Output], out: Path, seed: int
) -> tuple[str, list[dict[str, Any]]]:
    """Trains every variant of the recipe that is not yet trained; the table of validation figures, and all runs."""
    rows, runs = [], []
    for name, change in {RECIPE: lambda chosen: chosen, **VARIANTS}.items():
        row: dict[str, Any] = {"changed": name}
        for data, chosen, output in zip(datas, recipes, outputs, strict=True):
            log = Log(out / data.name)
            run = log.runs().get(name) or train_one(data, name, change(chosen), log, seed=seed, output=output)
            runs.append({"set": data.name, **run})
            row[data.name] = run.get("valid", math.nan)
        rows.append(row)
    names, first = [data.name for data in datas], rows[0]
    shown = [
        {"changed": row["changed"], **{name: f"{row[name]:.2f} ({row[name] - first[name]:+.2f})" for name in names}}
        for row in rows
    ]
    text = "Validation NLL in nats, and its distance from the recipe's. " + measured_on(machine(), verb="Trained")
    return f"{text}\n\n{table(('changed', *names), shown)}", runs


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of NAME.npz files")
    parser.add_argument("--set", nargs="+", metavar="NAME", help="sets to train on (default: all in DIR)")
    parser.add_argument("--budget", type=float, metavar="MINUTES", help="for all sets (default: what the epochs take)")
    parser.add_argument("--members", type=int, default=8, help="networks of a mixture (default: %(default)s)")
    text = "so many times the epochs of the recipe (default: %(default)s)"
    parser.add_argument("--epochs", type=float, default=1.0, metavar="FACTOR", help=text)
    parser.add_argument("--seed", type=int, default=0, help="of weights, orders and rows (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="(default: torch's number)")
    parser.add_argument("--ablation", action="store_true", help="the recipe with one part changed at a time")
    parser.add_argument("--table", action="store_true", help="with --ablation: the demo's table of patients too")
    parser.add_argument(
        "--wide", action="store_true", help="how wide layers can be, and what bf16 brings; needs no data"
    )


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
    """Trains on every set; writes ``paper.md`` and ``paper.json`` after each, or ``ablation.md`` and its JSON."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.wide:
        write("wide", arguments.out, *(wide(((16,),), 32) if arguments.quick else wide()))
        return
    out = arguments.out / "paper"
    datas = [load(str(path)) for path in paths_of(arguments)]
    outputs: list[str | Output] = ["bernoulli"] * len(datas)
    if arguments.ablation and arguments.table:
        data, output = patients()
        datas, outputs = [*datas, data], [*outputs, output]
    recipes = [recipe_of(data, members=arguments.members, epochs=arguments.epochs) for data in datas]
    if arguments.ablation:
        write("ablation", arguments.out, *ablation(datas, recipes, outputs, out / "ablation", arguments.seed))
        return
    todo = sorted(((cost_of(*pair), *pair) for pair in zip(datas, recipes, strict=True)), key=lambda each: each[0])
    left, results = arguments.budget, []
    for place, (cost, data, chosen) in enumerate(todo):
        started = time.monotonic()
        minutes = None if left is None else max(left, 0.01) * cost / sum(each[0] for each in todo[place:])
        results.append(run_set(data, chosen, out, minutes, arguments.seed))
        left = None if left is None else left - (time.monotonic() - started) / 60
        write("paper", arguments.out, markdown(results), results)

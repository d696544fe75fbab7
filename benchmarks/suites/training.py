"""Masked forwards and training steps beside the same network in plain torch.

A step is forward, loss and backward, without the optimizer, which is the same for all. Contenders are checked against the
model in fp64, then take turns in one process.
"""

from __future__ import annotations

import argparse
import ctypes
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import WrongResult
from benchmarks.cases import Case, cases_of
from benchmarks.contenders import (
    Forward,
    check_close,
    layers_of,
    one_pass,
    onednn_network,
    plain_network,
)
from benchmarks.report import machine, measured_on, table, write
from benchmarks.timing import ForeignLoad, measure, median, ratio, share_of_peak
from made_fast import MADE

TEXT = "masked forwards and training steps beside plain torch, eager, compiled and by oneDNN; changing masks; memory"
QUICK = {"seconds": 0.01}
OURS, MASKED, COMPILED, DENSE, ONEDNN = "ours", "W*mask", "W*mask compiled", "dense", "oneDNN"
ENSEMBLES = {
    "32 masks, order": {"num_masks": 32, "shuffle": "order"},
    "32 masks, both": {"num_masks": 32, "shuffle": "both"},
    "a fresh mask each step": {"num_masks": 0, "shuffle": "both"},
}


def networks(model: MADE, *, compiled: bool = True) -> tuple[dict[str, Forward], dict[str, list[Tensor]]]:
    """The same network as each contender has it, and the parameters that each learns."""
    layers = {name: layers_of(model, masked=name == MASKED, learned=True) for name in (MASKED, DENSE, ONEDNN)}

    def onednn(x: Tensor) -> Tensor:
        value = x.to_mkldnn()
        for index, (weight, _, bias) in enumerate(layers[ONEDNN]):
            value = F.linear(F.relu(value) if index else value, weight, bias)  # with weights as torch has them
        return value.to_dense()

    forwards: dict[str, Forward] = {OURS: model}
    forwards |= {name: plain_network(layers[name]) for name in (MASKED, DENSE)}
    forwards[ONEDNN] = onednn
    learned = {name: [tensor for weight, _, bias in own for tensor in (weight, bias)] for name, own in layers.items()}
    learned[OURS] = list(model.parameters())
    if compiled:
        torch.compiler.reset()  # else it compiles once for many shapes, and then no more
        forwards[COMPILED] = torch.compile(forwards[MASKED], dynamic=False)
        learned[COMPILED] = learned[MASKED]
    return forwards, learned


def step(network: Forward, learned: list[Tensor], x: Tensor) -> Callable[[], None]:
    """One training step: forward, loss, backward."""

    def run() -> None:
        for parameter in learned:
            parameter.grad = None
        F.binary_cross_entropy_with_logits(network(x), x, reduction="sum").backward()

    return run


def check(model: MADE, forwards: dict[str, Forward], learned: dict[str, list[Tensor]], x: Tensor) -> None:
    """Refuses to time a contender whose parameters of the conditionals or whose gradients are wrong."""
    exact = MADE(model.features, model.hidden_features).double()
    exact.load_state_dict(model.state_dict())
    expected = exact(x.double())
    F.binary_cross_entropy_with_logits(expected, x.double(), reduction="sum").backward()
    gradients = [parameter.grad for parameter in exact.parameters()]
    for name, network in forwards.items():
        step(network, learned[name], x)()
        check_close(name, network(x), expected)
        if name not in (OURS, MASKED):
            continue
        wrong = [float((p.grad - g).norm() / g.norm()) for p, g in zip(learned[name], gradients, strict=True)]
        if max(wrong) > 1e-3:
            raise WrongResult(f"{name} has gradients that are wrong by {wrong}")


def useful_macs(model: MADE) -> dict[str, int]:
    """Multiply-adds of one row with unmasked weights, in a forward and in a step."""
    kept = sum(int(layer.mask.sum()) for layer in model.masked_layers)
    return {"forward": kept, "step": 3 * kept - int(model.hidden[0].mask.sum())}  # no gradient of the first input


def measure_case(case: Case, seconds: float, *, compiled: bool) -> dict[str, Any]:
    """Forward and step of one network and batch."""
    model, x = case.model().train(), case.some_rows()
    forwards, learned = networks(model, compiled=compiled)
    check(model, forwards, learned, x)
    passes = {name: one_pass(network, x) for name, network in {**forwards, ONEDNN: onednn_network(model)}.items()}
    steps = {name: step(network, learned[name], x) for name, network in forwards.items()}
    with ForeignLoad() as load:
        times = {"forward": measure(passes, seconds=seconds / 3), "step": measure(steps, seconds=seconds)}
    row: dict[str, Any] = {"case": case.name, "foreign load": load.share}
    for label, macs in useful_macs(model).items():
        taken = median(times[label][OURS])
        row[f"{label}, ms"] = 1e3 * taken
        row[f"{label}, share of FMA peak"] = share_of_peak(macs * case.rows, taken)
        row |= {f"{label} / {other}": ratio(times[label], OURS, other) for other in forwards if other != OURS}
    return row


def measure_ensembles(case: Case, seconds: float) -> dict[str, Any]:
    """Steps under changing masks against steps under one."""
    x = case.some_rows()
    models = {"one mask": MADE(case.features, case.widths)}
    models |= {name: MADE(case.features, case.widths, **options) for name, options in ENSEMBLES.items()}
    runs: dict[str, Callable[[], None]] = {}
    for name, model in models.items():
        run = step(model, list(model.parameters()), x)
        for _ in range(max(1, model.num_masks)):  # plans are made once for each mask
            model.next_mask()
            run()

        def cycled(model: MADE = model, run: Callable[[], None] = run) -> None:
            model.next_mask()
            run()

        runs[name] = cycled
    times = measure(runs, seconds=seconds)
    return {"case": case.name, **{f"{name} / one": ratio(times, name, "one mask") for name in ENSEMBLES}}


def peak_memory(contender: str, case: Case) -> float:
    """Megabytes by which five steps raise the peak of this process; call it in a process of its own."""
    model = case.model().train()
    forwards, learned = networks(model, compiled=False)
    small = torch.zeros(16, case.features)
    step(forwards[contender], learned[contender], small)()
    for parameter in learned[contender]:
        parameter.grad = None
    x = case.some_rows()
    ctypes.CDLL(None).malloc_trim(0)  # what the first step left would hide the peak
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    for _ in range(5):
        step(forwards[contender], learned[contender], x)()
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return (int(peak.split()[1]) * 1024 - before) / 2**20


def measure_memory(case: Case) -> dict[str, Any]:
    """Peak memory of a step over what the model itself takes, each contender in a process of its own."""
    row: dict[str, Any] = {"case": case.name}
    for name in (OURS, MASKED, DENSE):
        command = [sys.executable, "-m", "benchmarks", "training", "--memory", name, case.name]
        row[f"{name}, MB"] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    row["ours / W*mask"] = row[f"{OURS}, MB"] / row[f"{MASKED}, MB"]
    return row


def markdown(result: dict[str, Any]) -> str:
    """All tables."""
    head = measured_on(result["machine"]) + " Ratios: median of paired rounds [quartiles]; below 1 ours is quicker."
    parts = [head]
    for label, title in (("step", "Training step"), ("forward", "Forward without gradients")):
        keys = [key for key in result["cases"][0] if key.startswith((f"{label} ", f"{label},"))]
        parts.append(f"### {title}\n\n" + table(("case", *keys, "foreign load"), result["cases"]))
    for key, title in (("ensembles", "Changing masks"), ("memory", "Peak memory of a step")):
        if result[key]:
            parts.append(f"### {title}\n\n" + table(tuple(result[key][0]), result[key]))
    return "\n\n".join(parts)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=4.0, help="for each case (default: %(default)s)")
    parser.add_argument("--memory", nargs=2, metavar=("CONTENDER", "CASE"), help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> None:
    """Writes ``training.md`` and ``training.json``; nothing is compiled with ``--quick``."""
    if arguments.memory:
        print(peak_memory(arguments.memory[0], Case.named(arguments.memory[1])))
        return
    result: dict[str, Any] = {"machine": machine(), "cases": []}
    for case in cases_of("training", quick=arguments.quick):
        print(case.name, "...", file=sys.stderr, flush=True)
        result["cases"].append(measure_case(case, arguments.seconds, compiled=not arguments.quick))
    fixed = cases_of("changing masks", quick=arguments.quick)
    result["ensembles"] = [measure_ensembles(case, 2 * arguments.seconds) for case in fixed]
    linux = Path("/proc/self/clear_refs").exists()
    result["memory"] = [measure_memory(case) for case in fixed] if linux else []
    write("training", arguments.out, markdown(result), result)

"""Masked forwards and training steps: ``python -m benchmarks.training``.

A step is forward, loss and backward, without the optimizer, which is the same for all. Contenders are checked against the
model in fp64, then take turns in one process. See README.md in this folder for the method.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import mkldnn

from benchmarks.cases import TRAINING_BATCHES, TRAINING_SHAPES, Case
from benchmarks.report import table
from benchmarks.timing import ForeignLoad, fma_peak, machine, measure, ratio
from made_fast import MADE, build_config

OURS, MASKED, COMPILED, DENSE, ONEDNN = "ours", "W*mask", "W*mask compiled", "dense", "oneDNN"
ENSEMBLES = {
    "32 masks, order": {"num_masks": 32, "shuffle": "order"},
    "32 masks, both": {"num_masks": 32, "shuffle": "both"},
    "a fresh mask each step": {"num_masks": 0, "shuffle": "both"},
}
Network = Callable[[Tensor], Tensor]


def networks(model: MADE, *, compiled: bool = True) -> tuple[dict[str, Network], dict[str, list[Tensor]]]:
    """The same network as each contender has it, and the parameters that each learns."""
    layers = [*model.hidden, model.parameters_layer]

    def copies(masked: bool) -> list[tuple[Tensor, Tensor]]:
        def weight(layer: Any) -> Tensor:
            return (layer.weight * layer.mask if masked else layer.weight).detach().clone().requires_grad_()

        return [(weight(layer), layer.bias.detach().clone().requires_grad_()) for layer in layers]

    masks = [layer.mask.to(layer.weight.dtype) for layer in layers]
    of_masked, of_dense, of_onednn = copies(False), copies(True), copies(True)

    def masked(x: Tensor) -> Tensor:
        for index, ((weight, bias), mask) in enumerate(zip(of_masked, masks, strict=True)):
            x = F.linear(F.relu(x) if index else x, weight * mask, bias)
        return x

    def dense(x: Tensor) -> Tensor:
        for index, (weight, bias) in enumerate(of_dense):
            x = F.linear(F.relu(x) if index else x, weight, bias)
        return x

    def onednn(x: Tensor) -> Tensor:
        value = x.to_mkldnn()
        for index, (weight, bias) in enumerate(of_onednn):
            value = F.linear(F.relu(value) if index else value, weight, bias)  # with weights as torch has them
        return value.to_dense()

    found: dict[str, Network] = {OURS: model, MASKED: masked, DENSE: dense, ONEDNN: onednn}
    flat = {name: [t for pair in pairs for t in pair] for name, pairs in ((MASKED, of_masked), (DENSE, of_dense))}
    learned = {OURS: list(model.parameters()), **flat, ONEDNN: [t for pair in of_onednn for t in pair]}
    if compiled:
        torch.compiler.reset()  # else it compiles once for many shapes, and then no more
        found[COMPILED], learned[COMPILED] = torch.compile(masked, dynamic=False), learned[MASKED]
    return found, learned


def step(network: Network, learned: list[Tensor], x: Tensor) -> Callable[[], None]:
    """One training step: forward, loss, backward."""

    def run() -> None:
        for parameter in learned:
            parameter.grad = None
        F.binary_cross_entropy_with_logits(network(x), x, reduction="sum").backward()

    return run


def forward(network: Network, x: Tensor) -> Callable[[], Tensor]:
    """One forward without gradients."""

    def run() -> Tensor:
        with torch.no_grad():
            return network(x)

    return run


def packed_onednn(model: MADE) -> Network:
    """The forward through oneDNN with weights packed by it beforehand, masks multiplied in."""
    packed = []
    for layer in (*model.hidden, model.parameters_layer):
        linear = torch.nn.Linear(*reversed(layer.weight.shape))
        with torch.no_grad():
            linear.weight.copy_(layer.weight * layer.mask)
            linear.bias.copy_(layer.bias)
        packed.append(mkldnn.to_mkldnn(linear.eval()))

    def run(x: Tensor) -> Tensor:
        value = x.to_mkldnn()
        for index, linear in enumerate(packed):
            value = linear(F.relu(value) if index else value)
        return value.to_dense()

    return run


def check(model: MADE, found: dict[str, Network], learned: dict[str, list[Tensor]], x: Tensor) -> None:
    """Refuses to time a contender whose parameters of the conditionals or whose gradients are wrong."""
    exact = MADE(model.features, model.hidden_features).double()
    exact.load_state_dict(model.state_dict())
    expected = exact(x.double())
    size = float(expected.detach().abs().max())
    F.binary_cross_entropy_with_logits(expected, x.double(), reduction="sum").backward()
    gradients = [parameter.grad for parameter in exact.parameters()]
    for name, network in found.items():
        step(network, learned[name], x)()
        error = float((network(x) - expected).detach().abs().max()) / size
        pairs = zip(learned[name], gradients, exact.parameters(), strict=True)
        wrong = [float((p.grad - g).norm() / g.norm()) for p, g, _ in pairs] if name in (OURS, MASKED) else []
        if error > 1e-4 or max(wrong, default=0) > 1e-3:
            raise SystemExit(f"{name} is wrong by {error:.1e}, its gradients by {wrong}; nothing is timed")


def measure_case(case: Case, seconds: float, *, compiled: bool) -> dict[str, Any]:
    """Forward and step of one network and batch."""
    model = case.model().train()
    torch.manual_seed(1)
    x = (torch.rand(case.rows, case.features) < 0.13).float()
    found, learned = networks(model, compiled=compiled)
    check(model, found, learned, x)
    peak = fma_peak(str(build_config()["instruction_set"]), torch.get_num_threads())
    with ForeignLoad() as load:
        forwards = measure(
            {name: forward(packed_onednn(model) if name == ONEDNN else net, x) for name, net in found.items()},
            seconds=seconds / 3,
        )
        steps = measure({name: step(net, learned[name], x) for name, net in found.items()}, seconds=seconds)
    kept = sum(int(layer.mask.sum()) for layer in model.masked_layers)
    products = 3 * kept - int(model.hidden[0].mask.sum())  # nobody asks for the gradient of the first input
    row: dict[str, Any] = {"case": case.name, "foreign load": load.share}
    for label, times, macs in (("forward", forwards, kept), ("step", steps, products)):
        median = sorted(times[OURS])[len(times[OURS]) // 2]
        row[f"{label}, ms"] = 1e3 * median
        row[f"{label}, share of FMA peak"] = macs * case.rows / median / peak
        row |= {f"{label} / {other}": ratio(times, OURS, other) for other in found if other != OURS}
    return row


def measure_ensembles(case: Case, seconds: float) -> dict[str, Any]:
    """Steps under changing masks against steps under one."""
    torch.manual_seed(1)
    x = (torch.rand(case.rows, case.features) < 0.13).float()
    widths = (case.hidden,) * case.layers
    models = {"one mask": MADE(case.features, widths)}
    models |= {name: MADE(case.features, widths, **options) for name, options in ENSEMBLES.items()}
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
    found, learned = networks(model, compiled=False)
    small = torch.zeros(16, case.features)
    step(found[contender], learned[contender], small)()
    for parameter in learned[contender]:
        parameter.grad = None
    x = (torch.rand(case.rows, case.features) < 0.13).float()
    ctypes.CDLL(None).malloc_trim(0)  # what the first step left would hide the peak
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    for _ in range(5):
        step(found[contender], learned[contender], x)()
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return (int(peak.split()[1]) * 1024 - before) / 2**20


def measure_memory(case: Case) -> dict[str, Any]:
    """Peak memory of a step over what the model itself takes, each contender in a process of its own."""
    row: dict[str, Any] = {"case": case.name}
    for name in (OURS, MASKED, DENSE):
        shape = [str(size) for size in (case.features, case.hidden, case.layers, case.rows)]
        command = [sys.executable, "-m", "benchmarks.training", "--memory", name, *shape]
        row[f"{name}, MB"] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    row["ours / W*mask"] = row[f"{OURS}, MB"] / row[f"{MASKED}, MB"]
    return row


def markdown(result: dict[str, Any]) -> str:
    """All tables."""
    about = result["machine"]
    head = (
        f"Measured on {about['processor']}, {about['threads']} threads, torch {about['torch']}, {about['compiler']}, "
        f"{about['instruction_set']}, {about['date']}. Ratios: median of paired rounds [quartiles]; below 1 ours is quicker."
    )
    parts = [head]
    for label, title in (("step", "Training step"), ("forward", "Forward without gradients")):
        keys = [key for key in result["cases"][0] if key.startswith((f"{label} ", f"{label},"))]
        parts.append(f"### {title}\n\n" + table(("case", *keys, "foreign load"), result["cases"]))
    for key, title in (("ensembles", "Changing masks"), ("memory", "Peak memory of a step")):
        if result[key]:
            parts.append(f"### {title}\n\n" + table(tuple(result[key][0]), result[key]))
    return "\n\n".join(parts) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Runs the comparison and writes ``training.md`` and ``training.json``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each case (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="small shapes and no compiled contender, to see it work")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the results (default: %(default)s)")
    parser.add_argument("--memory", nargs=5, metavar=("CONTENDER", "D", "H", "L", "B"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.memory:
        print(peak_memory(arguments.memory[0], Case(*map(int, arguments.memory[1:]))))
        return
    shapes, batches = (TRAINING_SHAPES[-1:], (16, 256)) if arguments.quick else (TRAINING_SHAPES, TRAINING_BATCHES)
    result: dict[str, Any] = {"machine": machine(), "cases": []}
    for shape in shapes:
        for rows in batches:
            case = Case(*shape, rows)
            print(case.name, "...", file=sys.stderr, flush=True)
            result["cases"].append(measure_case(case, arguments.seconds, compiled=not arguments.quick))
    result["ensembles"] = [measure_ensembles(Case(*shape, 256), 2 * arguments.seconds) for shape in shapes]
    linux = Path("/proc/self/clear_refs").exists()
    result["memory"] = [measure_memory(Case(*shape, 256)) for shape in shapes] if linux else []
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "training.json").write_text(json.dumps(result, default=vars, indent=1) + "\n")
    text = markdown(result)
    (arguments.out / "training.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()

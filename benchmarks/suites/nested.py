"""Nested sampling by nessai with a masked autoregressive flow, before and after ``accelerate``.

Needs nessai in the environment (``pip install nessai``), which has its flows from glasflow. The sampler draws from its flow
in a loop and trains it anew from time to time. First the draws a second of its flow, in turns and compared; then whole runs
on a normal likelihood, whose evidence is known, with the seconds of the processor that they took.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
import warnings
from typing import Any

import torch

from benchmarks import WrongResult
from benchmarks.report import machine, measured_on, table, write
from benchmarks.timing import measure, medians, ratio
from made_fast import accelerate

TEXT = "nested sampling by nessai before and after accelerate; needs nessai"
QUICK = {"features": [2], "rows": [10], "live": 50, "seconds": 0.01, "run": []}
HALF_WIDTH = 10.0
TOLERANCE = 1e-4


def flows() -> dict[str, Any]:
    """How the flow is made, before and after: as the class of the library is called."""
    try:
        from nessai.flows.maf import MaskedAutoregressiveFlow
    except ModuleNotFoundError as error:
        raise SystemExit(f"nested needs nessai (pip install nessai): {error}") from error

    def accelerated(*sizes: Any, **options: Any) -> Any:
        return accelerate(MaskedAutoregressiveFlow(*sizes, **options))

    return {"before": MaskedAutoregressiveFlow, "after": accelerated}


def config(flow: Any) -> dict[str, Any]:
    """nessai's own sizes, but for the kind of flow."""
    return {"n_neurons": 32, "n_blocks": 2, "n_layers": 2, "flow": flow}


def draws(features: int, rows: int, seconds: float, folder: str) -> dict[str, Any]:
    """Draws a second with their log-probabilities."""
    import numpy as np
    from nessai.flowmodel import FlowModel

    made = {}
    for name, flow in flows().items():
        torch.manual_seed(0)
        made[name] = FlowModel(flow_config={"n_inputs": features, **config(flow)}, output=folder)
        made[name].initialise()
        made[name].model.eval()

    def run(name: str) -> Any:
        torch.manual_seed(1)
        return np.column_stack(made[name].sample_and_log_prob(N=rows))

    difference = float(np.abs(run("after") - run("before")).max())
    if not difference < TOLERANCE * features:
        raise WrongResult(f"draws of {features} variables differ by {difference:.1e}")
    times = measure({name: lambda name=name: run(name) for name in made}, seconds=seconds)
    taken = medians(times)
    return {
        "parameters": features,
        "rows": rows,
        "difference": f"{difference:.0e}",
        "draws a second, before": f"{rows / taken['before']:,.0f}",
        "after": f"{rows / taken['after']:,.0f}",
        "before / after": ratio(times, "before", "after"),
    }


def whole(features: int, live: int, name: str, flow: Any) -> dict[str, Any]:
    """A run of nested sampling; raises where the evidence is wrong."""
    from nessai.flowsampler import FlowSampler
    from nessai.model import Model

    class Normal(Model):  # type: ignore[misc]
        def __init__(self) -> None:
            self.names = [f"x{each}" for each in range(features)]
            self.bounds = {each: [-HALF_WIDTH, HALF_WIDTH] for each in self.names}

        def log_prior(self, x: Any) -> Any:
            import numpy as np

            return np.log(self.in_bounds(x), dtype=float) - features * math.log(2 * HALF_WIDTH)

        def log_likelihood(self, x: Any) -> Any:
            return sum(-(x[each] ** 2) / 2 for each in self.names) - features * math.log(2 * math.pi) / 2

    exact = -features * math.log(2 * HALF_WIDTH)
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        options = {"output": folder, "seed": 1, "resume": False, "plot": False, "signal_handling": False}
        sampler = FlowSampler(Normal(), nlive=live, flow_config=config(flow), **options)
        sampler.run(plot=False, save=False)
        seconds = time.process_time() - start
    found, error = float(sampler.ns.log_evidence), float(sampler.ns.log_evidence_error)
    if not abs(found - exact) < 5 * error:
        raise WrongResult(f"log-evidence {found:.2f} with error {error:.2f}, {exact:.2f} exact")
    return {
        "parameters": features,
        "flow": name,
        "log-evidence": f"{found:.2f} with error {error:.2f}",
        "exact": f"{exact:.2f}",
        "likelihoods": int(sampler.ns.model.likelihood_evaluations),
        "trainings": int(sampler.ns.proposal.training_count),
        "seconds of the processor": seconds,
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--features", nargs="+", type=int, default=[4, 16, 64], metavar="D", help="of single draws")
    parser.add_argument("--rows", nargs="+", type=int, default=[100, 1000, 10000], metavar="B")
    parser.add_argument("--run", nargs="*", type=int, default=[4, 16], metavar="D", help="of whole runs")
    parser.add_argument("--live", type=int, default=200, help="live points of whole runs")
    parser.add_argument("--seconds", type=float, default=2.0, help="for single draws of one size")


def run(arguments: argparse.Namespace) -> None:
    """Writes ``nested.md`` and ``nested.json``."""
    warnings.filterwarnings("ignore", module="nessai|glasflow")
    with tempfile.TemporaryDirectory() as folder:
        sizes = [(features, rows) for features in arguments.features for rows in arguments.rows]
        single = [draws(*size, arguments.seconds, folder) for size in sizes]
    runs = [whole(features, arguments.live, name, flow) for features in arguments.run for name, flow in flows().items()]
    facts = machine()
    said = [
        f"# Nested sampling\n\n`python -m benchmarks nested`: nessai. {measured_on(facts)}",
        table(tuple(single[0]), single),
    ]
    if runs:
        said += [f"Whole runs, {arguments.live} live points:", table(tuple(runs[0]), runs)]
    write("nested", arguments.out, "\n\n".join(said), {"machine": facts, "draws": single, "runs": runs})

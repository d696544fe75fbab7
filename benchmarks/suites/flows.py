"""Flows of other libraries, as they are and accelerated, in turns.

The packages are those of the libraries (``pip install -c constraints.txt nflows zuko normflows pyro-ppl``); what is not
installed is left out and named. Both draw from the same base noise, and their results are compared before they are timed.
Of pyro, and of normflows as it is documented, the quick direction is sampling: their density is timed.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import WrongResult
from benchmarks.report import machine, measured_on, table, write
from benchmarks.timing import measure, medians, ratio
from made_fast.flows import MaskedAutoregressiveFlow
from made_fast.flows.adapters import accelerate_flow, inverters

TEXT = "flows of other libraries, as they are and accelerated; needs the libraries"
QUICK = {"features": [6], "hidden": 16, "rows": [4], "transforms": [2], "seconds": 0.01}
TOLERANCE = 1e-4
Draw = Callable[[Any], Tensor]


def _zuko(name: str, features: int, hidden: int, transforms: int) -> Any:
    import zuko

    return getattr(zuko.flows, name)(features, transforms=transforms, hidden_features=(hidden,))


def _nflows(features: int, hidden: int, transforms: int) -> Any:
    from nflows.flows import MaskedAutoregressiveFlow as Flow

    return Flow(features, hidden, transforms, num_blocks_per_layer=1, use_residual_blocks=False)


def _normflows(features: int, hidden: int, transforms: int) -> Any:
    import normflows

    layer = normflows.flows.MaskedAffineAutoregressive
    layers = [layer(features, hidden, num_blocks=1, use_residual_blocks=False) for _ in range(transforms)]
    return normflows.NormalizingFlow(normflows.distributions.DiagGaussian(features), layers)


def _pyro(features: int, hidden: int, transforms: int) -> Any:
    from pyro.distributions.transforms import ComposeTransformModule, affine_autoregressive

    return ComposeTransformModule([affine_autoregressive(features, hidden_dims=[hidden]) for _ in range(transforms)])


# name -> package, (D, H, T) -> flow, (flow, B) -> samples. The seed is set before each call.
PEERS: dict[str, tuple[str, Callable[[int, int, int], Any], Callable[[Any, int], Tensor]]] = {
    "zuko MAF": ("zuko", lambda *sizes: _zuko("MAF", *sizes), lambda flow, rows: flow().sample((rows,))),
    "zuko NSF": ("zuko", lambda *sizes: _zuko("NSF", *sizes), lambda flow, rows: flow().sample((rows,))),
    "nflows MAF": ("nflows", _nflows, lambda flow, rows: flow.sample(rows)),
    "normflows MAF, density": (
        "normflows",
        _normflows,
        lambda flow, rows: flow.log_prob(torch.randn(rows, flow.q0.loc.shape[-1])),
    ),
    "pyro, density": ("pyro", _pyro, lambda flow, rows: flow.inv(torch.randn(rows, flow[0].arn.input_dim))),
}


def one_case(peer: str, features: int, hidden: int, rows: int, transforms: int, seconds: float) -> dict[str, Any]:
    """One row of the table: largest difference, milliseconds of each, and the paired ratio."""
    _, make, draw = PEERS[peer]
    torch.manual_seed(0)
    flow = make(features, hidden, transforms).eval()
    start = time.perf_counter()
    ours = accelerate_flow(flow)
    reading = time.perf_counter() - start

    def run(which: Any) -> Tensor:
        torch.manual_seed(1)
        with torch.no_grad():
            return draw(which, rows)

    found, expected = run(ours), run(flow)
    difference = float(((found - expected).abs() / expected.abs().clamp(min=1)).max())
    if not difference < TOLERANCE:
        raise WrongResult(f"samples of {peer} differ by {difference:.1e}")
    own = MaskedAutoregressiveFlow(features, transforms, (hidden,))
    runs = {"library": lambda: run(flow), "ours": lambda: run(ours), "own": lambda: own.sample(rows, seed=1)}
    times = measure(runs, seconds=seconds, min_rounds=3)
    taken = medians(times, 1e3)
    return {
        "flow": peer,
        "D": features,
        "H": hidden,
        "transforms": transforms,
        "rows": rows,
        "way": inverters(ours)[0].how,
        "difference": f"{difference:.1e}",
        "library, ms": taken["library"],
        "ours, ms": taken["ours"],
        "library / ours": ratio(times, "library", "ours"),
        "own flow, ms": taken["own"],
        "read once, s": reading,
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS), metavar="NAME", help=", ".join(PEERS))
    parser.add_argument("--features", nargs="+", type=int, default=[64, 784], metavar="D")
    parser.add_argument("--hidden", type=int, default=512, metavar="H")
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 100], metavar="B")
    parser.add_argument("--transforms", nargs="+", type=int, default=[1, 5], metavar="T")
    parser.add_argument("--seconds", type=float, default=5.0, help="for a case; three rounds are made in any case")


def run(arguments: argparse.Namespace) -> None:
    """Writes ``flows.md`` and ``flows.json``."""
    warnings.filterwarnings("ignore", module="zuko|nflows|normflows|pyro")
    missing = [peer for peer in arguments.only if importlib.util.find_spec(PEERS[peer][0]) is None]
    rows: list[dict[str, Any]] = []
    for peer in (peer for peer in arguments.only if peer not in missing):
        for features in arguments.features:
            for transforms in arguments.transforms:
                for count in arguments.rows:
                    rows.append(one_case(peer, features, arguments.hidden, count, transforms, arguments.seconds))
                    print({name: str(value) for name, value in rows[-1].items()}, flush=True)
    facts = machine()
    text = [measured_on(facts), table(tuple(rows[0]), rows) if rows else "Nothing was measured."]
    if missing:
        text.append(f"Not installed here: {', '.join(missing)}.")
    write("flows", arguments.out, "\n\n".join(text), {"machine": facts, "rows": rows, "missing": missing})

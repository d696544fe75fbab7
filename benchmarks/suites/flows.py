"""Sampling flows of other libraries, as they are and accelerated, in turns: ``python -m benchmarks.flows``.

The packages are those of the libraries (``pip install -c constraints.txt nflows zuko normflows pyro-ppl``); what is not
installed is left out and named. Both draw from the same base noise, and their results are compared before they are timed.
Of pyro, and of normflows as it is documented, the quick direction is sampling: their density is timed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.report import table as markdown_table
from benchmarks.timing import machine, measure, ratio
from made_fast.flows import MaskedAutoregressiveFlow
from made_fast.flows.adapters import accelerate_flow, inverters

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
        raise SystemExit(f"samples of {peer} differ by {difference:.1e}; nothing is timed")
    own = MaskedAutoregressiveFlow(features, transforms, (hidden,))
    runs = {"library": lambda: run(flow), "ours": lambda: run(ours), "own": lambda: own.sample(rows, seed=1)}
    times = measure(runs, seconds=seconds, min_rounds=3)
    return {
        "flow": peer,
        "D": features,
        "H": hidden,
        "transforms": transforms,
        "rows": rows,
        "way": inverters(ours)[0].how,
        "difference": f"{difference:.1e}",
        "library, ms": 1e3 * statistics.median(times["library"]),
        "ours, ms": 1e3 * statistics.median(times["ours"]),
        "library / ours": ratio(times, "library", "ours"),
        "own flow, ms": 1e3 * statistics.median(times["own"]),
        "read once, s": reading,
    }


def main() -> None:
    """Runs the cases that the command line names and prints a table after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--features", nargs="+", type=int, default=[64, 784])
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 100])
    parser.add_argument("--transforms", nargs="+", type=int, default=[1, 5])
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="for one case, of which at least three rounds are made"
    )
    parser.add_argument("--out", type=Path, default=None, help="folder for flows.json and flows.md")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", module="zuko|nflows|normflows|pyro")
    missing = [peer for peer in arguments.only if importlib.util.find_spec(PEERS[peer][0]) is None]
    found: list[dict[str, Any]] = []
    for peer in (each for each in arguments.only if each not in missing):
        for features in arguments.features:
            for transforms in arguments.transforms:
                for rows in arguments.rows:
                    found.append(one_case(peer, features, arguments.hidden, rows, transforms, arguments.seconds))
                    print({name: str(value) for name, value in found[-1].items()}, flush=True)
    text = markdown_table(tuple(found[0]), found) if found else "nothing was measured"
    if missing:
        text += f"\n\nNot installed here: {', '.join(missing)}."
    print(text)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        result = {"machine": machine(), "rows": found, "missing": missing}
        (arguments.out / "flows.json").write_text(json.dumps(result, default=vars, indent=1) + "\n")
        (arguments.out / "flows.md").write_text(text + "\n")


if __name__ == "__main__":
    main()

"""Networks of other libraries, drawn from as they do and by ``accelerate``.

The library's way of drawing from a masked network is one whole forward for each variable, or one for each of zuko's passes.
Each forward costs the same, so where all of them would take too long, the first ones are timed and counted as often as there
are more; the column "forwards timed" says how many. Both draw normals, in fp32, from the same module. Draws are compared
before anything is timed: those of the library's forward and ours, from the same uniforms. "Kept" leaves out the comparison of
the module's parameters with those that were captured (``stale="keep"``). Needs the group ``peers``.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import made_fast
from benchmarks import WrongResult
from benchmarks.report import machine, measured_on, table, write
from benchmarks.timing import ForeignLoad, measure, medians, ratio, seconds_of
from made_fast.backends import reference
from made_fast.outputs import Normal

TEXT = "networks of other libraries, drawn from as they do and by accelerate; needs the libraries"
QUICK = {"features": [6], "hidden": 16, "rows": [1, 4], "seconds": 0.01}
CHECKED_ROWS = 3
COLUMNS = (
    *("network", "D", "B", "difference, fp64", "levels", "macs / dense", "library, ms", "ours, ms", "library / ours"),
    *("library / ours, kept", "forwards timed", "accelerate, s", "foreign load"),
)


@dataclass(frozen=True)
class Network:
    """One kind of network.

    Attributes:
        name: library and variant.
        module, attribute: where its class is.
        options: its arguments, from D and H.
        context_features: C.
        then: what is taken of it.
        joined: whether the context is joined to x.
        passes: whole forwards of one draw, if they are fewer than D.
    """

    name: str
    module: str
    attribute: str
    options: Callable[[int, int], dict[str, Any]]
    context_features: int = 0
    then: Callable[[Any], nn.Module] = lambda made: made
    joined: bool = False
    passes: int | None = None

    def build(self, features: int, hidden: int) -> nn.Module:
        """The network in fp32 with the weights that its library begins with."""
        torch.manual_seed(0)
        made = getattr(importlib.import_module(self.module), self.attribute)(**self.options(features, hidden))
        return self.then(made).eval()

    def forward(self, module: nn.Module, x: Tensor, context: Tensor | None) -> Tensor:
        """Parameters (B, D, 2)."""
        if context is None:
            result = module(x)
        else:
            result = module(torch.cat([x, context], dim=-1)) if self.joined else module(x, context)
        return torch.stack(result, dim=-1) if isinstance(result, tuple) else result.unflatten(-1, (-1, 2))


def _made(**more: Any) -> Callable[[int, int], dict[str, Any]]:
    """Arguments of the classes that derive from nflows' MADE."""
    return lambda features, hidden: {
        "features": features,
        "hidden_features": hidden,
        "output_multiplier": 2,
        "num_blocks": 1,
        **more,
    }


def _zuko(**more: Any) -> Callable[[int, int], dict[str, Any]]:
    return lambda features, hidden: {"features": features, "hidden_features": (hidden, hidden), **more}


def _pyro(**more: Any) -> Callable[[int, int], dict[str, Any]]:
    # pyro refuses hidden layers narrower than D
    return lambda features, hidden: {"input_dim": features, "hidden_dims": [max(features, hidden)] * 2, **more}


TRANSFORMS, NDE, NORMFLOWS = "nflows.transforms.made", "nflows.nn.nde.made", "normflows.nets.made"
CONTEXT = 8
TRANSFORM = ("zuko.flows", "MaskedAutoregressiveTransform")
NETWORKS = (
    Network("nflows transforms, residual", TRANSFORMS, "MADE", _made()),
    Network("nflows transforms, feed-forward", TRANSFORMS, "MADE", _made(use_residual_blocks=False)),
    Network("nflows transforms, batch norm", TRANSFORMS, "MADE", _made(use_batch_norm=True)),
    Network("nflows transforms, context", TRANSFORMS, "MADE", _made(context_features=CONTEXT), CONTEXT),
    Network("nflows nde, residual", NDE, "MADE", _made()),
    Network("nflows nde, random masks", NDE, "MADE", _made(use_residual_blocks=False, random_mask=True)),
    Network("normflows, residual", NORMFLOWS, "MADE", _made()),
    Network("normflows, permuted", NORMFLOWS, "MADE", _made(permute_mask=True)),
    Network("normflows, gated context", NORMFLOWS, "MADE", _made(context_features=CONTEXT), CONTEXT),
    Network("zuko, default", *TRANSFORM, _zuko(), then=lambda made: made.hyper),
    Network("zuko, residual", *TRANSFORM, _zuko(residual=True), then=lambda made: made.hyper),
    Network("zuko, 2 passes", *TRANSFORM, _zuko(passes=2), then=lambda made: made.hyper, passes=2),
    Network("zuko, context", *TRANSFORM, _zuko(context=CONTEXT), CONTEXT, lambda made: made.hyper, joined=True),
    Network("pyro, random order", "pyro.nn", "AutoRegressiveNN", _pyro()),
    Network("pyro, skip connections", "pyro.nn", "AutoRegressiveNN", _pyro(skip_connections=True)),
    Network("pyro, context", "pyro.nn", "ConditionalAutoRegressiveNN", _pyro(context_dim=CONTEXT), CONTEXT),
)


def forwards_of(network: Network, sampler: Any) -> list[Tensor]:
    """The variables that the library draws after each of its forwards."""
    if network.passes is None:
        return list(sampler.order.split(1))
    return [(sampler.levels == level).nonzero()[:, 0] for level in range(network.passes)]


def library_draw(
    network: Network, module: nn.Module, forwards: list[Tensor], shape: tuple[int, int], context: Tensor | None
) -> Tensor:
    """A whole forward for each group of variables, normals drawn after it: x of ``shape`` (B, D)."""
    floor = Normal().conditional.floor
    x = torch.zeros(shape)
    with torch.no_grad():
        for variables in forwards:
            loc, raw = network.forward(module, x, context)[:, variables].unbind(-1)
            x[:, variables] = loc + (nn.functional.softplus(raw) + floor) * torch.randn(loc.shape)
    return x


def check(network: Network, module: nn.Module, sampler: Any, context: Tensor | None) -> None:
    """Compares draws from the same uniforms; refuses to time what is wrong."""
    given = None if context is None else context[:1].expand(CHECKED_ROWS, -1)
    with torch.no_grad():
        expected, _ = reference.naive_draw(
            lambda x: network.forward(module, x, given).flatten(1),
            sampler.order,
            sampler.conditionals,
            torch.arange(CHECKED_ROWS),
            seed=0,
            dtype=torch.float32,
        )
    found = sampler.sample(CHECKED_ROWS, None if context is None else context[:1], seed=0).reshape(expected.shape)
    worst = ((found - expected).abs() / expected.abs().clamp(min=1)).max().item()
    if not worst <= 1e-3:
        raise WrongResult(f"{network.name}: draws differ by {worst:.3g}")


def rows_of(network: Network, features: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures one network at each number of rows."""
    module = network.build(features, arguments.hidden)
    start = time.perf_counter()
    sampler = made_fast.accelerate(
        module, features=features, context_features=network.context_features, output=Normal()
    )
    reading = time.perf_counter() - start
    contexts = torch.randn(max(arguments.rows), network.context_features) if network.context_features else None
    check(network, module, sampler, contexts)
    forwards, measured = forwards_of(network, sampler), []
    for rows in arguments.rows:
        context = None if contexts is None else contexts[:rows]
        count, shape = 1 if context is not None else rows, (rows, features)
        two = partial(library_draw, network, module, forwards[:2], shape, context)
        two()
        one_forward = seconds_of(two) / 2
        timed = forwards[: max(1, int(arguments.seconds / 8 / one_forward))]  # at least seven runs are made
        runs: dict[str, Callable[[], object]] = {
            "library": partial(library_draw, network, module, timed, shape, context),
            "ours": partial(sampler.sample, count, context, seed=1),
            "kept": partial(sampler.sampler.sample, count, context, seed=1),
        }
        with ForeignLoad() as load:
            times = measure(runs, seconds=arguments.seconds)
        scale, taken = len(forwards) / len(timed), medians(times, 1e3)
        measured.append(
            {
                "network": network.name,
                "D": features,
                "B": rows,
                "difference, fp64": f"{sampler.capture.difference:.1e}",
                "levels": sampler.num_steps,
                "macs / dense": f"{sampler.macs / sampler.dense_macs:.2f}",
                "library, ms": f"{scale * taken['library']:.4g}",
                "ours, ms": f"{taken['ours']:.3g}",
                "library / ours": str(ratio(times, "library", "ours", scale)),
                "library / ours, kept": str(ratio(times, "library", "kept", scale)),
                "forwards timed": f"{len(timed)} of {len(forwards)}",
                "accelerate, s": f"{reading:.2f}",
                "foreign load": f"{load.share:.2f}",
            }
        )
        print(*(f"{value}" for value in measured[-1].values()), sep=" | ", flush=True)
    return measured


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=6, help="for each row of the table, about")
    parser.add_argument("--features", type=int, nargs="+", default=[64, 784], metavar="D")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 100], metavar="B")
    parser.add_argument("--hidden", type=int, default=512, metavar="H")
    parser.add_argument("--only", default="", help="networks whose name contains this")


def run(arguments: argparse.Namespace) -> None:
    """Writes ``accelerate.md`` and ``accelerate.json``."""
    rows: list[dict[str, Any]] = []
    for network in (network for network in NETWORKS if arguments.only in network.name):
        for features in arguments.features:
            rows += rows_of(network, features, arguments)
    facts = machine()
    text = f"{measured_on(facts)}\n\n{table(COLUMNS, rows)}"
    write("accelerate", arguments.out, text, {"machine": facts, "rows": rows})

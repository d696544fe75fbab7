"""Training steps and log-probabilities of networks in one call, against layers of torch and against zuko, in turns.

A step is forward, loss and backward; ours, and one of an accelerated flow, also by ``training.backward``, in one call. Flows
are affine, with random weights of the same sizes on both sides; a flow of zuko (NSF: of splines, by autograd in any case) or
nflows is held against itself, accelerated, and a MADE against the same layers as ``F.linear(x, W * mask)``: there results and
gradients are compared first. Where nothing is compiled at install, numba runs networks: in one call, against their layers one
by one.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.util
import warnings
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import WrongResult
from benchmarks.contenders import on_backend
from benchmarks.report import machine, measured_on, table, write
from benchmarks.timing import Call, measure, medians, ratio
from made_fast import MADE, accelerate
from made_fast.flows import MaskedAutoregressiveFlow
from made_fast.training import backward, fit

TEXT = "training steps and log-probabilities of networks in one call; zuko and nflows where they are installed"
QUICK = {"seconds": 0.01, "flows": ["3,2x8,2,9"], "mades": ["5,2x8,16"]}
FLOWS = ["5,2x50,5,50", "10,2x50,5,100", "20,2x128,5,200", "64,2x512,3,256"]
EPOCH = 10_000
MADES = ["64,2x512,1", "64,2x512,16", "64,2x512,256", "784,2x1024,256"]


class _ByLayers(nn.Module):
    """The definition of a MADE of bits with torch's own products."""

    def __init__(self, model: MADE) -> None:
        super().__init__()
        self.layers = copy.deepcopy(nn.ModuleList(model.masked_layers))

    def log_prob(self, x: Tensor) -> Tensor:
        value = x
        for number, layer in enumerate(self.layers):
            value = F.linear(value, layer.weight * layer.mask, layer.bias)  # type: ignore[operator]
            value = F.relu(value) if number < len(self.layers) - 1 else value
        return -F.binary_cross_entropy_with_logits(value, x, reduction="none").sum(-1)


def _step(module: nn.Module, log_prob: Any) -> Call:
    parameters = list(module.parameters())  # as an optimizer has them

    def run() -> None:
        (-log_prob().mean()).backward()
        for parameter in parameters:
            parameter.grad = None

    return run


def _step_in_one_call(model: nn.Module, x: Tensor) -> Call:
    parameters = list(model.parameters())

    def run() -> None:
        backward(model, x)
        for parameter in parameters:
            parameter.grad = None

    return run


def _without_gradients(log_prob: Any) -> Call:
    @torch.no_grad()
    def run() -> None:
        log_prob()

    return run


def _rows(
    calls: dict[str, dict[str, Call]], baseline: str, seconds: float, case: dict[str, Any]
) -> list[dict[str, Any]]:
    rows = []
    for what, contenders in calls.items():
        times = measure(contenders, seconds=seconds, min_rounds=5)
        taken = medians(times, 1e3)
        rows.append(
            {
                **case,
                "what": what,
                "ours, ms": taken["ours"],
                "baseline": baseline,
                "baseline, ms": taken[baseline],
                "ours / baseline": ratio(times, "ours", baseline),
            }
        )
    return rows


def _flow_rows(text: str, seconds: float) -> list[dict[str, Any]]:
    import zuko

    features, hidden, transforms, batch = _sizes(text)
    torch.manual_seed(0)
    x = torch.randn(batch, features)
    ours: Any = MaskedAutoregressiveFlow(features, transforms, hidden)
    theirs: Any = zuko.flows.MAF(features, transforms=transforms, hidden_features=hidden)
    exact = copy.deepcopy(ours).double().log_prob(x.double())
    difference = float(((ours.log_prob(x).double() - exact).abs().max() / exact.abs().max()).detach())
    if not difference < 1e-4:
        raise WrongResult(f"log-probabilities differ from those in fp64 by {difference:.1e}")
    calls = {"ours": lambda: ours.log_prob(x), "zuko": lambda: theirs().log_prob(x)}
    case = {"D": features, "hidden": str(hidden), "transforms": transforms, "rows": batch}
    steps = {"ours": _step(ours, calls["ours"]), "zuko": _step(theirs, calls["zuko"])}
    at_once = {"ours": _step_in_one_call(ours, x), "zuko": steps["zuko"]}
    plain = {name: _without_gradients(call) for name, call in calls.items()}
    epochs = {"ours": _epoch_of_fit(ours, batch), "zuko": _epoch_of_zuko(theirs, features, batch)}
    what = {"step": steps, "step by backward": at_once, "log_prob": plain, f"epoch of {EPOCH:,} rows": epochs}
    return _rows(what, "zuko", seconds, case)


def _accelerated_rows(text: str, seconds: float) -> list[dict[str, Any]]:
    """The same flow of a library, with the same parameters, before and after ``accelerate``."""
    features, hidden, transforms, batch = _sizes(text)
    case = {"D": features, "hidden": str(hidden), "transforms": transforms, "rows": batch}
    rows: list[dict[str, Any]] = []
    for name, make in _FLOWS.items():
        if importlib.util.find_spec(name.split()[0]) is None:
            continue
        torch.manual_seed(0)
        x = torch.randn(batch, features)
        flow, log_prob = make(features, hidden, transforms)
        flows = {"ours": accelerate(flow), name: flow}
        calls: dict[str, Any] = {each: partial(log_prob, module, x) for each, module in flows.items()}
        _check_alike(flows["ours"], calls["ours"](), calls[name]())
        _check_backward(flows["ours"], x, calls[name]())
        steps = {each: _step(module, calls[each]) for each, module in flows.items()}
        at_once = {"ours": _step_in_one_call(flows["ours"], x), name: steps[name]}
        plain = {each: _without_gradients(call) for each, call in calls.items()}
        what = {"step": steps, "step by backward": at_once, "log_prob": plain}
        rows += _rows({f"{each}, accelerated": of for each, of in what.items()}, name, seconds, case)
    return rows


def _zuko(features: int, hidden: tuple[int, ...], transforms: int) -> tuple[Any, Any]:
    flow = importlib.import_module("zuko").flows.MAF(features, transforms=transforms, hidden_features=hidden)
    return flow, lambda module, x: module().log_prob(x)


def _nflows(features: int, hidden: tuple[int, ...], transforms: int) -> tuple[Any, Any]:
    blocks = len(hidden) - 1
    flow = importlib.import_module("nflows.flows").MaskedAutoregressiveFlow(
        features, hidden[0], transforms, blocks, use_residual_blocks=False
    )
    return flow, lambda module, x: module.log_prob(x)


def _splines(features: int, hidden: tuple[int, ...], transforms: int) -> tuple[Any, Any]:
    flow = importlib.import_module("zuko").flows.NSF(features, transforms=transforms, hidden_features=hidden)
    return flow, lambda module, x: module().log_prob(x)


_FLOWS: dict[str, Any] = {"zuko": _zuko, "nflows": _nflows, "zuko NSF": _splines}


def _check_alike(module: nn.Module, found: Tensor, expected: Tensor) -> None:
    """Raises unless two log-probabilities of the same parameters, and their gradients, are the same to rounding."""
    parameters = list(module.parameters())
    gradients = (torch.autograd.grad(each.mean(), parameters) for each in (found, expected))
    _check_pairs([(found, expected), *zip(*gradients, strict=True)])


def _check_backward(module: nn.Module, x: Tensor, expected: Tensor) -> None:
    """Raises unless ``backward`` finds the mean of minus these log-probabilities, and its gradients, to rounding."""
    parameters = list(module.parameters())
    loss = backward(module, x)
    gradients = torch.autograd.grad(-expected.mean(), parameters)
    found = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
    _check_pairs([(loss, -expected.mean()), *zip(found, gradients, strict=True)])
    module.zero_grad()


def _check_pairs(pairs: list[tuple[Tensor, Tensor]]) -> None:
    difference = max(float(((a - b).abs().max() / b.abs().max().clamp(min=1e-3)).detach()) for a, b in pairs)
    if not difference < 1e-3:
        raise WrongResult(f"log-probabilities or gradients differ by {difference:.1e}")


def _epoch_of_fit(flow: Any, batch: int) -> Call:
    x = torch.randn(EPOCH + EPOCH // 10, flow.features)

    def run() -> None:
        fit(flow, x[:EPOCH], x[EPOCH:], epochs=1, batch_size=batch, learning_rate=1e-6)

    return run


def _epoch_of_zuko(flow: Any, features: int, batch: int) -> Call:
    """Adam, rows in a new order, and validation, as its tutorials do."""
    x = torch.randn(EPOCH + EPOCH // 10, features)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-6)

    def run() -> None:
        for rows in torch.randperm(EPOCH).split(batch):
            loss = -flow().log_prob(x[rows]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
        with torch.no_grad():
            for valid in x[EPOCH:].split(1000):
                flow().log_prob(valid)

    return run


def _made_rows(text: str, seconds: float) -> list[dict[str, Any]]:
    features, hidden, batch = _sizes(text)
    torch.manual_seed(0)
    x = (torch.rand(batch, features) < 0.5).float()
    ours = MADE(features, hidden)
    layers = _ByLayers(ours)
    calls: dict[str, Any] = {"ours": lambda: ours.log_prob(x), "W * mask": lambda: layers.log_prob(x)}
    difference = float((calls["ours"]() - calls["W * mask"]()).abs().max().detach())
    if not difference < 1e-3:
        raise WrongResult(f"log-probabilities differ by {difference:.1e}")
    case = {"D": features, "hidden": str(hidden), "transforms": "-", "rows": batch}
    steps = {"ours": _step(ours, calls["ours"]), "W * mask": _step(layers, calls["W * mask"])}
    plain = {name: _without_gradients(call) for name, call in calls.items()}
    return _rows({"step": steps, "log_prob": plain}, "W * mask", seconds, case)


def _numba_rows(text: str, seconds: float) -> list[dict[str, Any]]:
    """A MADE by numba: in one call, and by layers as where somebody looks at one of them."""
    features, hidden, batch = _sizes(text)
    torch.manual_seed(0)
    x = (torch.rand(batch, features) < 0.5).float()
    ours = MADE(features, hidden)
    layers = copy.deepcopy(ours)
    layers.hidden[0].register_forward_hook(lambda *_: None)
    case = {"D": features, "hidden": str(hidden), "transforms": "-", "rows": batch}
    with on_backend("numba"):
        calls: dict[str, Any] = {"ours": lambda: ours.log_prob(x), "by layers": lambda: layers.log_prob(x)}
        difference = float((calls["ours"]() - calls["by layers"]()).abs().max().detach())
        if not difference < 1e-3:
            raise WrongResult(f"log-probabilities differ by {difference:.1e}")
        steps = {"ours": _step(ours, calls["ours"]), "by layers": _step(layers, calls["by layers"])}
        plain = {name: _without_gradients(call) for name, call in calls.items()}
        return _rows({"step, numba": steps, "log_prob, numba": plain}, "by layers", seconds, case)


def _sizes(text: str) -> Any:
    """``D,LxH,...`` as numbers: D, the hidden widths, and the others."""
    features, hidden, *others = text.split(",")
    count, width = hidden.split("x")
    return int(features), (int(width),) * int(count), *map(int, others)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--flows", nargs="*", default=FLOWS, metavar="D,LxH,T,B")
    parser.add_argument("--mades", nargs="*", default=MADES, metavar="D,LxH,B")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0, help="for a case; five rounds are made in any case")


def run(arguments: argparse.Namespace) -> None:
    """Writes ``steps.md`` and ``steps.json``."""
    warnings.filterwarnings("ignore", module="zuko")
    threads = torch.get_num_threads()
    torch.set_num_threads(arguments.threads)
    missing = importlib.util.find_spec("zuko") is None
    cases = [] if missing else [(_flow_rows, text) for text in arguments.flows]
    cases += [(_accelerated_rows, text) for text in arguments.flows]
    rows: list[dict[str, Any]] = []
    printed = 0
    cases += [(_made_rows, text) for text in arguments.mades]
    if importlib.util.find_spec("numba") is not None:
        cases += [(_numba_rows, text) for text in arguments.mades]
    for measured, text in cases:
        rows += measured(text, arguments.seconds)
        for row in rows[printed:]:
            print({name: str(value) for name, value in row.items()}, flush=True)
        printed = len(rows)
    facts = machine()
    torch.set_num_threads(threads)
    command = f"steps --seconds {arguments.seconds:g}"
    said = [
        "# Steps",
        f"`python -m benchmarks {command}`. {measured_on(facts)} Below 1 ours is quicker.",
        table(tuple(rows[0]), rows) if rows else "Nothing was measured.",
    ]
    if missing:
        said.append("zuko is not installed here, so flows were not measured.")
    write("steps", arguments.out, "\n\n".join(said), {"machine": facts, "rows": rows})

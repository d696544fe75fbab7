"""The flows of other libraries that ``libraries`` tries: how one is made, and how its slow direction runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

__all__ = ["FLOWS", "Peer"]


@dataclass(frozen=True)
class Peer:
    """A flow of a library.

    Attributes:
        name, package: of the flow; of the distribution on the package index.
        make: a flow of D variables with H hidden units.
        slow: its slow direction, (flow, z (B, D)) -> (B, D).
        direction: which that is.
        refused: whether it cannot be served.
    """

    name: str
    package: str
    make: Callable[[int, int], Any]
    slow: Callable[[Any, Tensor], Tensor] = lambda flow, z: z
    direction: str = "sampling"
    refused: bool = False


def _zuko(name: str, **options: Any) -> Callable[[int, int], Any]:
    return lambda features, hidden: getattr(import_module("zuko.flows"), name)(
        features, transforms=2, hidden_features=(hidden,), **options
    )


def _of_zuko(flow: Any, z: Tensor) -> Tensor:
    found: Tensor = flow().transform.inv(z)
    return found


def _nflows(name: str, package: str = "nflows", **options: Any) -> Callable[[int, int], Any]:
    def make(features: int, hidden: int) -> Any:
        transforms = import_module(f"{package}.transforms")
        kind = getattr(import_module(f"{package}.transforms.autoregressive"), name)
        layers = []
        for _ in range(2):
            layers += [transforms.ReversePermutation(features), kind(features, hidden, num_blocks=1, **options)]
        return transforms.CompositeTransform(layers)

    return make


def _of_nflows(flow: Any, z: Tensor) -> Tensor:
    found: Tensor = flow.inverse(z)[0]
    return found


def _normflows(name: str, *arguments: Any) -> Callable[[int, int], Any]:
    def make(features: int, hidden: int) -> Any:
        kind = getattr(import_module("normflows").flows, name)
        return torch.nn.ModuleList(
            [kind(features, *((1, hidden) if "Spline" in name else (hidden,)), *arguments) for _ in range(2)]
        )

    return make


def _through(method: str) -> Callable[[Any, Tensor], Tensor]:
    def slow(flow: Any, z: Tensor) -> Tensor:
        for layer in flow:
            z = getattr(layer, method)(z)[0]
        return z

    return slow


def _pyro(features: int, hidden: int) -> Any:
    transforms = import_module("pyro.distributions.transforms")
    layers = [transforms.affine_autoregressive(features, hidden_dims=[hidden]) for _ in range(2)]
    return transforms.ComposeTransformModule(layers)


def _of_pyro(flow: Any, z: Tensor) -> Tensor:
    found: Tensor = flow.inv(z.clone())  # it keeps the last result of the very tensor
    return found


def _sbi(name: str) -> Callable[[int, int], Any]:
    def make(features: int, hidden: int) -> Any:
        build = import_module("sbi.neural_nets").posterior_nn(name, hidden_features=hidden, num_transforms=2)
        return build(torch.randn(50, features), torch.randn(50, 3))

    return make


def _of_sbi(flow: Any, z: Tensor) -> Tensor:
    """By the seed: an estimator draws its own noise."""
    torch.manual_seed(0)
    found: Tensor = flow.sample((len(z),), torch.ones(1, 3).to(z))
    return found


def _torchflows(name: str) -> Callable[[int, int], Any]:
    def make(features: int, hidden: int) -> Any:
        layers = import_module("torchflows.bijections.finite.autoregressive.layers")
        kind, given = getattr(layers, name), {"conditioner_kwargs": {"n_hidden": hidden}}
        return torch.nn.ModuleList([kind(event_shape=(features,), **given) for _ in range(2)])

    return make


def _denmarf(features: int, hidden: int) -> Any:
    flows = import_module("denmarf.flows")
    return flows.FlowSequential(*[flows.MADE(features, hidden), flows.Reverse(features), flows.MADE(features, hidden)])


def _deeprob(features: int, hidden: int) -> Any:
    return import_module("deeprob.flows.models").MAF(features, n_flows=2, units=hidden, batch_norm=False)


def _flowtorch(features: int, hidden: int) -> Any:
    bijectors = import_module("flowtorch.bijectors")
    network = import_module("flowtorch.parameters").DenseAutoregressive(hidden_dims=(hidden,))
    lazy = bijectors.Compose([bijectors.AffineAutoregressive(network) for _ in range(2)])
    return lazy(shape=torch.Size([features]))


def _glasflow(name: str, **options: Any) -> Callable[[int, int], Any]:
    return lambda features, hidden: getattr(import_module("glasflow.flows.autoregressive"), name)(
        features, 2, n_neurons=hidden, n_blocks_per_transform=1, **options
    )


def _lampe(features: int, hidden: int) -> Any:
    return import_module("lampe.inference").NPE(features, 3, transforms=2, hidden_features=(hidden,))


def _of_lampe(flow: Any, z: Tensor) -> Tensor:
    found: Tensor = flow.flow(torch.ones(3).to(z)).transform.inv(z)
    return found


def _causalflows(features: int, hidden: int) -> Any:
    kind = import_module("causalflows.flows").CausalMAF
    return kind(features, order=tuple(range(features)), hidden_features=(hidden,))


def _freia(features: int, hidden: int) -> Any:
    def network(inputs: int, outputs: int) -> Any:
        return torch.nn.Sequential(torch.nn.Linear(inputs, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, outputs))

    flow = import_module("FrEIA.framework").SequenceINN(features)
    flow.append(import_module("FrEIA.modules").AllInOneBlock, subnet_constructor=network)
    return flow


FLOWS = (
    Peer("MAF", "zuko", _zuko("MAF"), _of_zuko),
    Peer("NSF", "zuko", _zuko("NSF"), _of_zuko),
    Peer("SOSPF", "zuko", _zuko("SOSPF"), _of_zuko),
    Peer("BPF", "zuko", _zuko("BPF"), _of_zuko),
    Peer("NAF", "zuko", _zuko("NAF"), refused=True),
    Peer("NICE", "zuko", _zuko("NICE"), refused=True),
    Peer("nflows affine", "nflows", _nflows("MaskedAffineAutoregressiveTransform"), _of_nflows),
    Peer(
        "nflows rational quadratic",
        "nflows",
        _nflows("MaskedPiecewiseRationalQuadraticAutoregressiveTransform", tails="linear", tail_bound=3.0),
        _of_nflows,
    ),
    Peer(
        "MaskedAffineAutoregressive",
        "normflows",
        _normflows("MaskedAffineAutoregressive"),
        _through("inverse"),
        "density",
    ),
    Peer(
        "AutoregressiveRationalQuadraticSpline",
        "normflows",
        _normflows("AutoregressiveRationalQuadraticSpline"),
        _through("forward"),
    ),
    Peer("affine_autoregressive", "pyro-ppl", _pyro, _of_pyro, "density"),
    Peer("maf", "sbi", _sbi("maf"), _of_sbi),
    Peer("zuko_nsf", "sbi", _sbi("zuko_nsf"), _of_sbi),
    Peer("made", "sbi", _sbi("made"), refused=True),
    Peer("mdn", "sbi", _sbi("mdn"), refused=True),
    Peer("torchflows affine", "torchflows", _torchflows("AffineForwardMaskedAutoregressive"), _through("inverse")),
    Peer(
        "torchflows inverse affine",
        "torchflows",
        _torchflows("AffineInverseMaskedAutoregressive"),
        _through("forward"),
        "density",
    ),
    Peer(
        "torchflows rational quadratic",
        "torchflows",
        _torchflows("RQSForwardMaskedAutoregressive"),
        _through("inverse"),
    ),
    Peer("torchflows sigmoidal", "torchflows", _torchflows("DeepSigmoidalForwardMaskedAutoregressive"), refused=True),
    Peer("FlowSequential of MADE", "denmarf", _denmarf, lambda flow, z: flow(z, mode="inverse")[0]),
    Peer("deeprob MAF", "deeprob-kit", _deeprob, lambda flow, z: flow.apply_forward(z)[0]),
    Peer("AffineAutoregressive", "flowtorch", _flowtorch, lambda flow, z: flow.inverse(z.clone()), "density"),
    Peer(
        "glasflow affine", "glasflow", _glasflow("MaskedAffineAutoregressiveFlow"), lambda flow, z: flow.inverse(z)[0]
    ),
    Peer(
        "glasflow quadratic",
        "glasflow",
        _glasflow("MaskedPiecewiseQuadraticAutoregressiveFlow", tails="linear", tail_bound=4.0),
        lambda flow, z: flow.inverse(z)[0],
    ),
    Peer("SequenceINN", "FrEIA", _freia, refused=True),
    Peer("lampe NPE", "lampe", _lampe, _of_lampe),
    Peer("CausalMAF", "causalflows", _causalflows, _of_zuko),
)

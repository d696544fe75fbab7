"""What is done to an accelerated flow before a step: one call where that gives the same gradients, else autograd."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from flow_densities import linears
from flow_peers import library
from flow_steps import agree, counted, defined, gradients, pair, rows, same
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

import made_fast
from made_fast.training import backward

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(not made_fast.build_config()["compiled"], reason="the compiled module is not installed"),
]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each mean that was found in one call."""
    return counted(monkeypatch)


Change = Callable[[Any, list[Any]], object]


class _Twice(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def _base_of(flow: Any) -> Any:
    return flow._modules.get("base", flow._modules.get("_distribution"))


def _transform_of(flow: Any) -> Any:
    return flow._modules.get("transform", flow._modules.get("_transform"))


def _tie(flow: Any, layers: list[Any]) -> None:
    first = layers[0].weight
    next(each for each in layers[1:] if each.weight.shape == first.shape).weight = first


def _replace(flow: Any, layers: list[Any]) -> None:
    layers[1].weight = nn.Parameter(layers[1].weight.detach() * 0.5)


def _write(flow: Any, layers: list[Any]) -> None:
    layers[1].weight.data = layers[1].weight.data * 0.5
    layers[0].bias.data.add_(0.1)


def _turn(flow: Any, layers: list[Any]) -> None:
    layers[1].weight.data = layers[1].weight.data.T.contiguous().T


def _freeze(flow: Any, layers: list[Any]) -> None:
    for each in layers[1:3]:
        each.bias.requires_grad_(False)


def _freeze_but_one(flow: Any, layers: list[Any]) -> None:
    flow.requires_grad_(False)
    layers[-1].bias.requires_grad_(True)


def _without_biases(flow: Any, layers: list[Any]) -> None:
    for each in layers:
        each.bias = None


def _in_a_graph(flow: Any, layers: list[Any]) -> None:
    weight = layers[0]._parameters.pop("weight")
    layers[0].weight = weight + 0.5
    layers[0].register_parameter("inner", weight)


def _own_log_prob(flow: Any, layers: list[Any]) -> None:
    flow.log_prob = lambda x: -x.sum(1) * layers[0].weight.sum()


def _subclass(flow: Any, layers: list[Any]) -> None:
    def log_prob(self: Any, x: Tensor) -> Tensor:
        return -x.sum(1) * layers[0].weight.sum()

    flow.__class__ = type("Mine", (type(flow),), {"log_prob": log_prob})


# What is done to a flow, given its layers; to both flows, or where that is enough to layers that both have; and whether one
# call still finds the gradients afterwards.
LAYERS: dict[str, tuple[Change, bool]] = {
    "frozen": (_freeze, True),
    "tied": (_tie, False),
    "replaced": (_replace, True),
    "written to": (_write, True),
    "not contiguous": (_turn, False),
    "made by a graph": (_in_a_graph, False),
    "parametrized": (lambda _, of: parametrize.register_parametrization(of[1], "weight", _Twice()), False),
    "pruned": (lambda _, of: prune.l1_unstructured(of[1], "weight", 0.5), False),
    "hook of a layer": (lambda _, of: of[0].register_forward_hook(lambda m, i, o: 1.5 * o), False),
    "gradient hook of a layer": (
        lambda _, of: of[1].register_full_backward_hook(lambda m, i, o: (2 * i[0],)),
        False,
    ),
    "hook of a weight": (lambda _, of: of[0].weight.register_hook(lambda grad: 3 * grad), False),
    "without biases": (_without_biases, False),
    "nan": (lambda _, of: of[1].weight.data[0].fill_(torch.nan), False),
    "mask of others": (lambda _, of: of[1].mask.copy_(of[1].mask.flip(0)), True),
}
FLOWS: dict[str, tuple[Change, bool]] = {
    "frozen but one": (_freeze_but_one, True),
    "unused parameter": (
        lambda flow, _: setattr(flow, "unused", nn.Parameter(torch.ones(2, dtype=torch.float64))),
        True,
    ),
    "density of its own": (_own_log_prob, False),
    "subclass": (_subclass, False),
    "hook of the transform": (
        lambda flow, _: _transform_of(flow).register_forward_hook(lambda m, i, o: o),
        False,
    ),
}


@pytest.mark.parametrize("change", [*LAYERS, *FLOWS])
@pytest.mark.parametrize("name", ["zuko", "nflows"])
def test_what_is_done_to_a_flow_is_seen(name: str, change: str, calls: list[int]) -> None:
    ours, theirs = pair(name)
    agree(name, ours, theirs)
    calls.clear()
    do, native = {**LAYERS, **FLOWS}[change]
    for flow in (ours,) if change in LAYERS else (ours, theirs):
        do(flow, linears(flow))
    for _ in range(2):
        agree(name, ours, theirs)
    assert calls == ([70, 70] if native else [])


@pytest.mark.parametrize(
    "name", ["zuko composed of one", "zuko single", "nflows", "nflows composed of one", "nflows single"]
)
def test_hooks_of_a_flow_and_of_its_transforms_are_called(name: str, calls: list[int]) -> None:
    ours, theirs = pair(name)
    agree(name, ours, theirs)
    kinds = {"MaskedAutoregressiveTransform", "MaskedAffineAutoregressiveTransform", "UnconditionalDistribution"}
    hooked = [each for each in ours.modules() if type(each).__name__ in kinds]
    hooked += [ours] if name.startswith("zuko") else []  # whose call makes the density
    expected = gradients(theirs, defined, *rows(name))
    for each in hooked:
        seen: list[int] = []
        handle = each.register_forward_hook(lambda module, given, made, seen=seen: seen.append(1))
        same(gradients(ours, backward, *rows(name)), expected)
        assert seen == [1]
        handle.remove()
    assert calls == [70]
    agree(name, ours, theirs)
    assert calls == [70, 70]


@pytest.mark.parametrize("change", ["moved", "wider", "trained", "hook", "exchanged"])
def test_another_base_is_seen(change: str, calls: list[int]) -> None:
    zuko = library("zuko")
    ours, theirs = pair("zuko")
    agree("zuko", ours, theirs)
    base = _base_of(ours)
    if change == "moved":
        base.loc.data.add_(0.25)
    elif change == "wider":
        base.scale.mul_(2)
    elif change == "trained":
        loc = base._buffers.pop("loc")
        base.register_parameter("loc", nn.Parameter(loc))
    elif change == "hook":
        base.register_forward_hook(lambda module, given, made: zuko.distributions.DiagNormal(2 + base.loc, base.scale))
    else:
        for flow in (ours, theirs):
            options = {"loc": base.loc, "scale": 2 * base.scale, "buffer": True}
            flow.base = zuko.lazy.UnconditionalDistribution(zuko.distributions.DiagNormal, **options)
    before = len(calls)
    agree("zuko", ours, theirs)
    assert len(calls) == before == 1


def test_the_constant_of_a_base_is_that_of_now(calls: list[int]) -> None:
    ours, theirs = pair("nflows")
    agree("nflows", ours, theirs)
    _base_of(ours)._log_z.add_(1)
    agree("nflows", ours, theirs)
    assert calls == [70, 70]


def test_a_permutation_that_changes_is_seen(calls: list[int]) -> None:
    ours, theirs = pair("nflows permuted")
    agree("nflows permuted", ours, theirs)
    permutations = [each for name, each in ours.named_buffers() if name.endswith("_permutation")]
    assert len(permutations) == 4
    for each in permutations:
        each.copy_(torch.tensor([1, 2, 3, 4, 0]))
        agree("nflows permuted", ours, theirs)
    assert calls == [70] * 5
    for each in permutations:
        each.copy_(torch.tensor([1, 2, 3, 4, 4]))  # a library takes this too
        agree("nflows permuted", ours, theirs)
        each.copy_(torch.tensor([1, 2, 3, 4, 0]))
    assert calls == [70] * 5


@pytest.mark.parametrize("name", ["zuko", "nflows"])
def test_other_transforms_in_the_place_of_affine_ones(name: str, calls: list[int]) -> None:
    zuko = library("zuko")
    ours, theirs = pair(name)
    agree(name, ours, theirs)
    for flow in (ours, theirs):
        transform = _transform_of(flow)
        several = transform.transforms if name == "zuko" else transform._transforms
        several[1] = (
            library("nflows.transforms").IdentityTransform()
            if name == "nflows"
            else zuko.lazy.UnconditionalTransform(zuko.transforms.IdentityTransform)
        )
    agree(name, ours, theirs)
    assert calls == [70]


@pytest.mark.parametrize("name", ["zuko", "nflows"])
def test_who_watches_a_gradient_sees_it_once(name: str, calls: list[int]) -> None:
    ours, _ = pair(name)
    weight, seen = linears(ours)[0].weight, []
    handle = weight.register_post_accumulate_grad_hook(lambda parameter: seen.append(parameter.grad.clone()))
    backward(ours, *rows(name))
    assert len(seen) == 1 and torch.equal(seen[0], weight.grad) and calls == []
    handle.remove()
    backward(ours, *rows(name))
    assert len(seen) == 1 and calls == [70]


@pytest.mark.parametrize("name", ["zuko context", "nflows context"])
def test_rows_and_contexts_that_require_gradients_have_them(name: str, calls: list[int]) -> None:
    ours, theirs = pair(name)
    found = []
    for flow, find in ((ours, backward), (theirs, defined)):
        x, c = (each.clone().requires_grad_() for each in rows(name))
        found.append([*gradients(flow, find, x, c), x.grad, c.grad])
        for given in ((x.detach(), c), (x, c.detach())):
            found[-1] += gradients(flow, find, *given)
    same(*found)
    assert calls == []


@pytest.mark.parametrize("name", ["zuko", "nflows"])
def test_a_gradient_with_a_graph_is_added_to_by_autograd(name: str, calls: list[int]) -> None:
    found = []
    for flow, find in zip(pair(name), (backward, defined), strict=True):
        weight = linears(flow)[0].weight
        weight.grad = 0.5 * weight + 1
        found.append([each.detach() for each in gradients(flow, find, *rows(name))])
    same(*found)
    assert calls == []


@pytest.mark.parametrize("name", ["zuko", "nflows"])
def test_a_flow_of_which_nothing_is_trained_is_refused_as_by_autograd(name: str, calls: list[int]) -> None:
    ours, _ = pair(name)
    ours.requires_grad_(False)
    with pytest.raises(RuntimeError, match="does not require grad"):
        backward(ours, *rows(name))
    assert calls == []


@pytest.mark.parametrize("name", ["zuko context", "nflows"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e38])
def test_numbers_that_are_not_finite_are_those_of_the_library(name: str, value: float, calls: list[int]) -> None:
    ours, theirs = pair(name, torch.float32)
    x, c = rows(name, torch.float32)
    x[3, 2] = value
    same(gradients(ours, backward, x, c), gradients(theirs, defined, x, c), torch.float32)
    assert calls == []


@pytest.mark.parametrize(
    ("value", "native"), [(1e10, True), (1e20, False)], ids=["finite", "too large on the way back"]
)
@pytest.mark.parametrize("name", ["zuko context", "nflows"])
def test_large_numbers_are_those_of_autograd(name: str, value: float, native: bool, calls: list[int]) -> None:
    ours, _ = pair(name, torch.float32)
    x, c = rows(name, torch.float32)
    x[3, 2] = value  # a weight under a mask has nan here in the library, and zero in the engine
    same(gradients(ours, backward, x, c), gradients(ours, defined, x, c), torch.float32)
    assert calls == [70] * native


def test_dropout_draws_as_in_the_library(calls: list[int]) -> None:
    ours, theirs = pair("nflows dropout")
    found = []
    for training in (True, False):
        for flow, find in ((ours, backward), (theirs, defined)):
            flow.train(training)
            torch.manual_seed(5)
            found.append(gradients(flow, find, *rows("nflows dropout")))
        same(*found[-2:])
        assert calls == ([] if training else [70])


@pytest.mark.parametrize("name", ["zuko", "nflows"])
def test_whoever_watches_the_dispatcher_sees_the_library(name: str, calls: list[int]) -> None:
    ours, theirs = pair(name)

    class Counting(torch.utils._python_dispatch.TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.seen += 1
            return function(*args, **(kwargs or {}))

    with Counting() as counting:
        found = gradients(ours, backward, *rows(name))
    same(found, gradients(theirs, defined, *rows(name)))
    with torch.autocast("cpu", torch.bfloat16):
        agree(name, ours.float(), theirs.float(), torch.float32)
    handle = nn.modules.module.register_module_forward_hook(lambda module, given, made: None)
    agree(name, ours, theirs, torch.float32)
    handle.remove()
    assert counting.seen > 100 and calls == []


@pytest.mark.parametrize("name", ["zuko", "nflows"])
def test_without_gradients_it_says_so(name: str) -> None:
    ours, _ = pair(name)
    with torch.no_grad(), pytest.raises(ValueError, match="gradients enabled"):
        backward(ours, *rows(name))

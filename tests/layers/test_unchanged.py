"""What is kept of a call of networks is used as long as nothing has changed, and no longer: every way to change a model."""

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from changes import CHANGES
from torch import Tensor, nn

from made_fast import MADE, MaskedLinear, _core
from made_fast.flows import MaskedAutoregressiveFlow
from made_fast.layers.unchanged import InPython, Seen
from made_fast.models import whole
from made_fast.outputs import Normal

D = 5
MAKERS: dict[str, Callable[[], nn.Module]] = {
    "model": lambda: MADE(D, (9, 9), output=Normal(), direct=True),
    "residual": lambda: MADE(D, (9, 9), output=Normal(), residual=True),
    "conditioned": lambda: MADE(D, (9, 9), output=Normal(), mask_conditioning=True),
    "flow": lambda: MaskedAutoregressiveFlow(D, 2, (9, 9)),
}
X = torch.randn(7, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _warm(name: str) -> Any:
    torch.manual_seed(1)
    model = MAKERS[name]().double()
    model.log_prob(X)
    return model


def _by_layers(model: Any, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    with monkeypatch.context() as patch:
        patch.setattr(whole, "backend_for", lambda _: None)
        found: Tensor = model.log_prob(X.to(next(model.parameters()).dtype))
    return found


def _assert_seen(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = model.log_prob(X.to(next(model.parameters()).dtype))
    tolerance = 1e-10 if found.dtype == torch.float64 else 1e-4
    torch.testing.assert_close(found, _by_layers(model, monkeypatch), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen(name: str, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _warm(name)
    CHANGES[change](model)
    _assert_seen(model, monkeypatch)
    CHANGES[change](model)
    _assert_seen(model, monkeypatch)


def _network(model: Any) -> Any:
    return model.networks[0] if isinstance(model, MaskedAutoregressiveFlow) else model


def _cut_off(model: Any) -> None:
    """A mask written to behind torch's count of versions: the last variable depends on nothing."""
    _network(model).parameters_layer.mask.numpy()[-2:] = False


def _other_activation(model: Any) -> None:
    _network(model).activation = "tanh"


def _own_forward(model: Any) -> None:
    layer = _network(model).hidden[1]
    layer.forward = lambda *arguments, **options: 2 * MaskedLinear.forward(layer, *arguments, **options)


def _other_class(model: Any) -> None:
    class Doubled(MaskedLinear):
        def forward(self, *arguments: Any, **options: Any) -> Tensor:
            return 2 * super().forward(*arguments, **options)

    _network(model).hidden[1].__class__ = Doubled


def _one_layer_less(model: Any) -> None:
    network = _network(model)
    network.hidden = nn.ModuleList([network.hidden[0]]) if not network.residual else network.hidden


def _transposed(model: Any) -> None:
    weight = _network(model).hidden[1].weight
    weight.data = weight.data.t()


def _negative_view(model: Any) -> None:
    weight = _network(model).hidden[1].weight
    weight.data = torch._neg_view(weight.data)


def _hooked(model: Any) -> None:
    _network(model).hidden[0].register_forward_hook(lambda module, inputs, output: output + 1)


def _hooked_everywhere(model: Any) -> None:
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: output + 1 if isinstance(module, MaskedLinear) else output
    )
    weakref.finalize(model, handle.remove)


def _network_hooked(model: Any) -> None:
    """A hook of a network in a flow; that of a model alone has nothing to do with its log-probability."""
    _network(model).register_forward_hook(lambda module, inputs, output: output / 2)


WAYS = [
    _network_hooked,
    *(_cut_off, _other_activation, _own_forward, _other_class, _one_layer_less, _transposed),
    *(_negative_view, _hooked, _hooked_everywhere),
]


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("way", WAYS)
def test_structure_hooks_and_memory_are_seen(name: str, way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _warm(name)
    before = model.log_prob(X).detach()
    way(model)
    _assert_seen(model, monkeypatch)
    changed = not torch.equal(model.log_prob(X), before)
    without = (way is _one_layer_less and name == "residual") or (way is _network_hooked and name != "flow")
    assert changed or without
    gc.collect()


def test_parts_of_a_flow_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    flow, other = _warm("flow"), _warm("flow")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    flow.networks[0] = other.networks[0]
    _assert_seen(flow, monkeypatch)
    flow.networks = nn.ModuleList([*flow.networks, other.networks[1]])
    _assert_seen(flow, monkeypatch)
    shallow = copy.copy(flow)
    shallow._modules = {"networks": nn.ModuleList([other.networks[1]])}
    _assert_seen(shallow, monkeypatch)
    flow.floor = 0.5
    with pytest.raises(ValueError, match=r"networks must have 5 features and output Normal\(floor=0.5\)"):
        flow.log_prob(X)


@pytest.mark.parametrize("name", MAKERS)
def test_copies_and_pickles_begin_anew(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _warm(name)
    expected = model.log_prob(X).detach()
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.copy(model)):
        assert torch.equal(copied.log_prob(X), expected)
    copied = copy.deepcopy(model)
    _cut_off(copied)
    _assert_seen(copied, monkeypatch)
    assert torch.equal(model.log_prob(X), expected)


@pytest.mark.parametrize("name", MAKERS)
def test_a_model_that_holds_what_watches_it_is_collected(name: str) -> None:
    model = _warm(name)
    next(iter(model.modules())).itself = [model]  # a circle through what is watched
    for layer in model.modules():
        layer.__dict__["owner"] = model
    gone = weakref.ref(model)
    del model, layer
    gc.collect()
    assert gone() is None


CLASSES = [InPython, _core.Unchanged, "by methods"]


def _seen() -> tuple[Seen, Any]:
    class Thing:
        pass

    thing: Any = Thing()
    thing.of, thing.kind = {"a": "left", "b": None}, Thing()
    thing.square, thing.mask = torch.ones(4, 4), torch.ones(3, 5, dtype=torch.bool)
    of, counted = thing.of, torch.zeros(2)
    thing.counted = counted
    seen = Seen(
        held=[(of, "a", of["a"]), (of, "b", None), (of, "c", None), (thing.__dict__, "mask", thing.mask)],
        sizes=[(of, 2)],
        kinds=[(thing.kind, Thing)],
        tensors=[thing.square],
        contents=[thing.mask],
        versions=[(counted, counted._version)],
    )
    return seen, thing


def _unchanged(kind: Any, seen: Seen) -> Any:
    lists = (seen.held, seen.sizes, seen.kinds, seen.tensors, seen.contents, seen.versions)
    if kind != "by methods":
        return kind(*lists)
    with pytest.MonkeyPatch.context() as patch:  # of a torch that does not say where all lies in one call
        patch.setattr(Tensor, "__dlpack_c_exchange_api__", None, raising=False)
        return _core.Unchanged(*lists)


def _new_data(tensor: Tensor, data: Tensor) -> None:
    tensor.data = data


EDITS: dict[str, Callable[[Any], object]] = {
    "another value": lambda t: t.of.update(a="right"),
    "no value": lambda t: t.of.pop("a"),
    "a value where there was none": lambda t: t.of.update(b=0),
    "one where there was no key": lambda t: t.of.update(c=0),
    "one more key": lambda t: t.of.update(d=None),
    "another class": lambda t: setattr(t.kind, "__class__", type("Other", (), {})),
    "another tensor": lambda t: setattr(t, "mask", t.mask.clone()),
    "a counted write": lambda t: t.counted.add_(1),
    "other memory": lambda t: _new_data(t.square, t.square.clone()),
    "transposed": lambda t: _new_data(t.square, torch.rand(4, 4).t()),
    "transposed in place": lambda t: _new_data(t.square, t.square.data.t()),
    "another shape": lambda t: _new_data(t.square, t.square.data[:2]),
    "another dtype": lambda t: _new_data(t.square, t.square.data.view(torch.int32)),
    "a negative view": lambda t: _new_data(t.square, torch._neg_view(t.square.data)),
    "another content": lambda t: t.mask.numpy().__setitem__((2, 4), False),
    "a content of another shape": lambda t: _new_data(t.mask, t.mask.data.view(5, 3)),
    "a content of another dtype": lambda t: _new_data(t.mask, t.mask.data.view(torch.uint8)),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_what_stays_the_same(kind: Any) -> None:
    seen, thing = _seen()
    watched = _unchanged(kind, seen)
    assert watched.same()
    thing.square.data.mul_(3)  # weights may be written to
    thing.of["b"] = None
    assert watched.same()


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("kind", CLASSES)
def test_what_does_not(kind: Any, edit: str) -> None:
    seen, thing = _seen()
    watched = _unchanged(kind, seen)
    EDITS[edit](thing)
    assert not watched.same()


def test_wrong_lists_are_refused() -> None:
    with pytest.raises(ValueError, match="tensors must be contiguous"):
        _unchanged(_core.Unchanged, Seen(tensors=[torch.rand(3, 4).t()]))
    for rows in ({"held": [(1, 2, 3)]}, {"sizes": [({},)]}, {"tensors": [3]}, {"versions": [(3, "x")]}):
        with pytest.raises((TypeError, RuntimeError, IndexError, AttributeError)):
            _unchanged(_core.Unchanged, Seen(**rows))
    with pytest.raises(AttributeError):
        _unchanged(_core.Unchanged, Seen(versions=[(3, 0)])).same()

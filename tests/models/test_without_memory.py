"""Models made on the meta device, in FakeTensorMode or without initialisation draw as others once their weights are there."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import skip_init

from made_fast import MADE, MaskedLinear, outputs

D = 5
OPTIONS: dict[str, dict[str, Any]] = {
    "bits": {},
    "residual": {"residual": True, "direct": True, "order": "random", "degrees": "random", "context_features": 2},
    "ensemble": {"num_masks": 4, "mask_conditioning": True},
    "endless ensemble": {"num_masks": 0},
    "one-hot": {"output": outputs.Categorical(3)},
    "embedded": {"output": outputs.Categorical(3, embedding=2)},
    "several kinds": {"output": outputs.Mixed([("normal", 2), ("bernoulli", 2), (outputs.Categorical(3), 1)])},
}
every = pytest.mark.parametrize("options", OPTIONS.values(), ids=[*OPTIONS])


def _make(**options: Any) -> MADE:
    return MADE(D, (16, 16), **options).eval()


def _given(model: MADE, rows: int) -> Tensor | None:
    return torch.linspace(0, 1, rows * 2).reshape(rows, 2) if model.context_features else None


def _check_equal(model: MADE, expected: MADE) -> None:
    context = _given(model, 6)
    drawn = expected.sample(1, context, seed=1)[..., 0, :] if context is not None else expected.sample(6, seed=1)
    again = model.sample(1, context, seed=1)[..., 0, :] if context is not None else model.sample(6, seed=1)
    assert torch.equal(again, drawn)
    assert torch.equal(model.log_prob(drawn, context), expected.log_prob(drawn, context))
    assert model.arguments() == expected.arguments()
    assert not any(each.is_meta for each in (*model.parameters(), *model.buffers()))


@every
def test_made_on_meta_and_loaded(options: dict[str, Any]) -> None:
    expected = _make(**options)
    state = {name: tensor.clone() for name, tensor in expected.state_dict().items()}
    with torch.device("meta"):
        model = _make(**options)
    assert all(each.is_meta for each in (*model.parameters(), *model.buffers()))
    assert model.arguments() == expected.arguments()
    model.load_state_dict(state, assign=True)
    _check_equal(model, expected)
    model = _make(**options, device="meta")
    model.to_empty(device="cpu").load_state_dict(state)
    _check_equal(model, expected)


@every
def test_pickled_on_meta_and_loaded_without_structure(options: dict[str, Any]) -> None:
    expected = _make(**options)
    weights = {name: tensor.clone() for name, tensor in expected.named_parameters()}
    moved = _make(**options)
    moved.log_prob(torch.zeros(1, D), _given(moved, 1))  # its structure was looked at while it had memory
    for on_meta in (_make(**options, device="meta"), moved.to("meta")):
        model = pickle.loads(pickle.dumps(on_meta))
        model.load_state_dict(weights, assign=True, strict=False)
        _check_equal(model, expected)


@every
def test_made_without_initialisation(options: dict[str, Any]) -> None:
    """Weights are what memory held, but the structure is that of the constructor."""
    expected, model = _make(**options), skip_init(MADE, D, (16, 16), **options).eval()
    with torch.no_grad():
        for weight, other in zip(model.parameters(), expected.parameters(), strict=True):
            weight.copy_(other)
    _check_equal(model, expected)


@every
def test_shapes_alone(options: dict[str, Any]) -> None:
    on_meta = _make(**options, device="meta", dtype=torch.float64)
    if options.get("num_masks") != 0:
        context = None if not on_meta.context_features else torch.empty(3, 2, device="meta", dtype=torch.float64)
        found = on_meta.log_prob(torch.empty(3, D, device="meta", dtype=torch.float64), context)
        assert (found.shape, found.device.type, found.dtype) == ((3,), "meta", torch.float64)
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = MADE(D, (16, 16), **options)
        found = fake.log_prob(torch.zeros(3, D), _given(fake, 3))
        found.sum().backward()
    assert found.shape == (3,)
    assert fake.parameters_layer.weight.grad is not None
    copy.deepcopy(on_meta)


@every
def test_what_needs_memory_says_so(options: dict[str, Any], tmp_path: Any) -> None:
    model = _make(**options, device="meta")
    calls = (lambda: model.sample(3, _given(model, 1)), model.check, lambda: model.save(tmp_path / "m.safetensors"))
    for call in calls:
        with pytest.raises(ValueError, match=r"weights must (have memory|be on a device with memory)"):
            call()


def test_a_mask_must_have_values() -> None:
    mask = torch.tensor([[1, 0, 0], [1, 1, 0]])
    with torch.device("meta"):
        assert MaskedLinear(3, 2, mask).mask.is_meta  # type: ignore[union-attr]
        with pytest.raises(ValueError, match="mask must be a tensor whose values can be read, got one on meta"):
            MaskedLinear(3, 2, torch.ones(2, 3))
    with pytest.raises(ValueError, match="dtype must be a floating dtype of torch"):
        MADE(3, (4,), dtype=torch.int64)

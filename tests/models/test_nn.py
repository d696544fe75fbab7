"""MaskedLinear and MADE: construction, shapes, dtypes, copies, and what they refuse."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from made_fast import MADE, MaskedLinear, masked_linear, masks
from made_fast.testing import naive_sample

Build = Callable[..., MADE]
Context = Callable[..., Tensor | None]
MASK = torch.tensor([[True, False, True], [False, True, True]])


def _binary(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return (torch.rand(*shape) < 0.5).to(dtype)


def _one_line(error: pytest.ExceptionInfo[Exception]) -> bool:
    return "\n" not in str(error.value)


@pytest.mark.parametrize("mask", [MASK, MASK.int(), MASK.float(), MASK.tolist()])
@pytest.mark.parametrize("bias", [True, False])
def test_masked_linear_is_a_linear_with_a_mask(mask: Any, bias: bool) -> None:
    layer = MaskedLinear(3, 2, mask, bias=bias)
    assert isinstance(layer, nn.Linear)
    assert layer.mask.dtype == torch.bool
    assert set(layer.state_dict()) == ({"weight", "bias", "mask"} if bias else {"weight", "mask"})
    x = torch.randn(4, 5, 3)
    expected = F.linear(x, layer.weight * MASK, layer.bias)
    assert torch.equal(layer(x), expected)
    assert torch.equal(masked_linear(x, layer.weight, MASK, layer.bias), expected)
    torch.testing.assert_close(layer(x.transpose(0, 1)), expected.transpose(0, 1))  # not contiguous
    assert layer(x[0, 0]).shape == (2,)
    assert layer(x[:, :0]).shape == (4, 0, 2)


def test_masked_linear_keeps_its_own_mask() -> None:
    mine = MASK.clone()
    layer = MaskedLinear(3, 2, mine, dtype=torch.float64)
    mine[:] = True
    assert torch.equal(layer.mask, MASK)
    assert layer.weight.dtype == torch.float64
    assert layer.to(torch.bfloat16).mask.dtype == torch.bool


@pytest.mark.parametrize(
    "mask", [MASK.T, MASK[:1], MASK[0], MASK[None], torch.full((2, 3), 0.5), torch.full((2, 3), 2)]
)
def test_masked_linear_refuses_other_masks(mask: Tensor) -> None:
    with pytest.raises(ValueError, match=r"^mask must .*, got ") as error:
        MaskedLinear(3, 2, mask)
    assert _one_line(error)


def test_masked_linear_function_refuses_what_does_not_fit() -> None:
    x, weight = torch.zeros(4, 3), torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"^weight must have shape .*5.*, got \(2, 3\)\Z"):
        masked_linear(torch.zeros(4, 5), weight, MASK)
    with pytest.raises(ValueError, match=r"^mask must have .*\(2, 3\), got \(3, 2\)\Z"):
        masked_linear(x, weight, MASK.T)
    with pytest.raises(ValueError, match=r"^weight must .*, got \(3,\)\Z"):
        masked_linear(x, weight[0], MASK)
    with pytest.raises(ValueError, match=r"^bias must .*, got \(3,\)\Z") as error:
        masked_linear(x, weight, MASK, torch.zeros(3))
    assert _one_line(error)


def test_defaults_are_those_of_the_issue() -> None:
    model = MADE(5)
    assert model.hidden_features == (512, 512)
    assert model.order.tolist() == [0, 1, 2, 3, 4]
    assert model.context_features == 0
    layers = [module for module in model.modules() if isinstance(module, MaskedLinear)]
    assert [tuple(layer.weight.shape) for layer in layers] == [(512, 5), (512, 512), (5, 512)]
    assert model(torch.zeros(2, 5)).dtype == torch.float32
    assert {name.rsplit(".", 1)[-1] for name in model.state_dict()} == {"weight", "bias", "mask", "order"}


def test_seeds_make_orders_and_torch_makes_weights() -> None:
    def made(seed: int, torch_seed: int) -> MADE:
        torch.manual_seed(torch_seed)
        return MADE(30, (8,), order="random", seed=seed)

    assert torch.equal(made(1, 0).order, made(1, 5).order)
    assert not torch.equal(made(1, 0).order, made(2, 0).order)
    assert torch.equal(made(1, 0).hidden[0].weight, made(2, 0).hidden[0].weight)
    assert not torch.equal(made(1, 0).hidden[0].weight, made(1, 5).hidden[0].weight)
    assert torch.equal(made(1, 0).order, masks.make_order("random", 30, seed=1))


def test_forward_log_prob_and_distribution_agree(build: Build, make_context: Context, options: dict[str, Any]) -> None:
    model = build(options)
    x, context = _binary(6, 9), make_context(model, 6)
    params, log_prob = model(x, context), model.log_prob(x, context)
    assert params.shape == (6, 9)
    assert log_prob.shape == (6,)
    torch.testing.assert_close(log_prob, -F.binary_cross_entropy_with_logits(params, x, reduction="none").sum(1))
    distribution = model.distribution(x, context)
    assert distribution.batch_shape == (6,)
    assert distribution.event_shape == (9,)
    torch.testing.assert_close(distribution.log_prob(x), log_prob)
    # alone, with more batch dimensions, not contiguous, and none at all
    for row in range(2):
        each = None if context is None else context[row]
        torch.testing.assert_close(model.log_prob(x[row], each), log_prob[row])
    folded = None if context is None else context.reshape(2, 3, -1)
    torch.testing.assert_close(model.log_prob(x.reshape(2, 3, 9), folded), log_prob.reshape(2, 3))
    strided = None if context is None else context.T.contiguous().T
    torch.testing.assert_close(model.log_prob(x.T.contiguous().T, strided), log_prob)
    empty = None if context is None else context[:0]
    assert model(x[:0], empty).shape == (0, 9)
    assert model.log_prob(x[:0], empty).shape == (0,)
    model.eval()
    assert torch.equal(model(x, context), params)


def test_contexts_broadcast(build: Build, every_option: dict[str, Any]) -> None:
    for name in ("context", "context_belief_network", "context_biases", "residual_direct_context"):
        model = build(every_option[name])
        x, context = _binary(4, 5, 9), torch.randn(4, 1, model.context_features, dtype=torch.float64)
        expected = model.log_prob(x, context.expand(4, 5, -1))
        torch.testing.assert_close(model.log_prob(x, context), expected)
        torch.testing.assert_close(model.log_prob(x[0], context[0, 0]), expected[0])
        assert model.log_prob(x[0, 0], context[:, 0]).shape == (4,)


def test_residual_blocks_add_to_what_they_read(build: Build, every_option: dict[str, Any]) -> None:
    model = build(every_option["residual"])
    with torch.no_grad():
        for layer in model.hidden[1:]:
            layer.weight.zero_()
            layer.bias.zero_()
    x = _binary(5, 9)
    plain = model.parameters_layer(F.relu(model.hidden[0](x)))
    torch.testing.assert_close(model(x), plain)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.float64])
def test_data_of_another_dtype_is_taken_or_refused_by_name(build: Build, dtype: torch.dtype) -> None:
    """``sample(dtype=torch.uint8)`` makes such data; an error of torch from some layer inside would name nothing."""
    model = build({"hidden_features": (8,)}, torch.float32)
    x = _binary(5, 9, dtype=torch.float32)
    try:
        found = model.log_prob(x.to(dtype))
    except ValueError as refusal:
        message = str(refusal)
    else:
        message = None
        torch.testing.assert_close(found, model.log_prob(x), check_dtype=False)
    assert message is None or message.startswith("x must have dtype")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"features": 0}, "features"),
        ({"features": -2}, "features"),
        ({"features": 2.5}, "features"),
        ({"hidden_features": (4, 0)}, "hidden_features"),
        ({"hidden_features": (-1,)}, "hidden_features"),
        ({"hidden_features": (4.5,)}, "hidden_features"),
        ({"hidden_features": 16}, "hidden_features"),
        ({"output": "poisson"}, "output"),
        ({"order": "zigzag"}, "order"),
        ({"order": (0, 1, 1, 2)}, "order"),
        ({"order": (0, 1)}, "order"),
        ({"context_features": -1}, "context_features"),
        ({"activation": "step"}, "activation"),
        ({"activation": "identity"}, "activation"),
        ({"residual": True, "hidden_features": (4, 5)}, "hidden_features"),
        ({"residual": True, "hidden_features": ()}, "hidden_features"),
        ({"degrees": "odd"}, "degrees"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=rf"^{named}(\[\d\])? must .*, got ") as error:
        MADE(**{"features": 4, "hidden_features": (6,), **arguments})
    assert _one_line(error)


def test_options_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        MADE(4, (6,), "bernoulli")


@pytest.mark.parametrize("shape", [(10,), (3, 8), (), (0,)])
@pytest.mark.parametrize("method", ["forward", "log_prob", "distribution"])
def test_wrong_widths_are_named(build: Build, method: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^x must have shape \(\.\.\., 9\), got \(.*\)\Z"):
        getattr(build({"hidden_features": (8,)}), method)(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("bad", [torch.nan, 0.5, 2.0, -1.0, torch.inf])
def test_values_that_are_not_binary_are_named(build: Build, bad: float) -> None:
    x = torch.zeros(3, 9, dtype=torch.float64)
    x[1, 4] = bad
    with pytest.raises(ValueError, match=rf"^x must be 0 or 1 .*got {bad}.*\Z"):
        build({"hidden_features": (8,)}).log_prob(x)


def test_missing_surplus_and_wrong_contexts_are_named(build: Build, every_option: dict[str, Any]) -> None:
    x = torch.zeros(2, 9, dtype=torch.float64)
    for context in (None, torch.zeros(2, 4), torch.zeros(())):
        with pytest.raises(ValueError, match=r"^context must have shape \(\.\.\., 3\), got ") as error:
            build(every_option["context"]).log_prob(x, context)
        assert _one_line(error)
    with pytest.raises(ValueError, match=r"^context must be None .*"):
        build(every_option["natural"]).log_prob(x, torch.zeros(2, 3))


def test_autocast(build: Build, make_context: Context, options: dict[str, Any]) -> None:
    model = build(options, torch.float32)
    x, context = _binary(40, 9, dtype=torch.float32), make_context(model, 40)
    expected = model.log_prob(x, context).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.log_prob(x, context)
        assert model(x, context).shape == (40, 9)
        drawn = model.sample(5, context, seed=1)
    assert found.dtype == torch.float32
    assert ((found - expected).abs() < 0.05 * expected.abs() + 0.3).all()
    found.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    assert torch.equal(drawn, model.sample(5, context, seed=1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models(
    build: Build, make_context: Context, every_option: dict[str, Any], dtype: torch.dtype
) -> None:
    """Samples of a half-precision model are computed in fp32, from the weights as they are."""
    for name in ("natural", "residual_direct_context"):
        model = build(every_option[name], dtype)
        context = make_context(model, 4)
        x, log_prob = model.sample_and_log_prob(50, context, seed=2)
        assert x.dtype == dtype
        assert ((x == 0) | (x == 1)).all()
        in_single = copy.deepcopy(model).float()
        single = None if context is None else context.float()
        assert torch.equal(x.float(), in_single.sample(50, single, seed=2))
        assert torch.equal(log_prob.float(), in_single.sample_and_log_prob(50, single, seed=2)[1])
        rows = model.log_prob(x, None if context is None else context[:, None])
        assert ((rows.float() - log_prob.float()).abs() < 0.05 * log_prob.abs() + 0.3).all()


def _pickled(model: MADE) -> MADE:
    return pickle.loads(pickle.dumps(model))


def _saved(model: MADE) -> MADE:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, _pickled, _saved])
@pytest.mark.parametrize("name", ["random", "residual_direct_context", "context_belief_network"])
def test_copies(build: Build, make_context: Context, every_option: dict[str, Any], name: str, copied: Any) -> None:
    model = build(every_option[name])
    context = make_context(model, 3)
    before = model.sample(20, context, seed=3)  # the kept sampler must not be in the way
    other = copied(model)
    assert torch.equal(other.sample(20, context, seed=3), before)
    assert other.state_dict().keys() == model.state_dict().keys()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.neg_()
    assert torch.equal(model.sample(20, context, seed=3), before)
    assert not torch.equal(other.sample(20, context, seed=3), before)


def test_state_dicts_go_round(build: Build, make_context: Context, options: dict[str, Any]) -> None:
    model = build(options)
    other = MADE(9, **options).double()
    context = make_context(model, 2)
    other.sample(3, context, seed=1)
    assert not other.load_state_dict(model.state_dict()).missing_keys
    x = _binary(2, 9)
    assert torch.equal(other(x, context), model(x, context))
    assert torch.equal(other.sample(30, context, seed=1), model.sample(30, context, seed=1))


def test_moving_between_dtypes(build: Build, every_option: dict[str, Any]) -> None:
    model = build(every_option["random"])
    assert model.sample(5, seed=1).dtype == torch.float64
    model.float()
    assert model.order.dtype == torch.int64
    assert model.sample(40, seed=1).dtype == torch.float32
    assert torch.equal(model.sample(40, seed=1), naive_sample(model, 40, seed=1))
    assert model.log_prob(model.sample(5)).dtype == torch.float32
    assert torch.equal(model.double().sample(40, seed=1), naive_sample(model, 40, seed=1))


def test_one_variable() -> None:
    for arguments in ({}, {"direct": True}, {"residual": True}, {"order": "random"}, {"context_features": 2}):
        for hidden in ((4, 4), ()) if "residual" not in arguments else ((4, 4),):
            model = MADE(1, hidden, **arguments).double()
            context = torch.randn(1, 2, dtype=torch.float64) if arguments.get("context_features") else None
            both = model.log_prob(torch.tensor([[0.0], [1.0]]).double(), context)
            assert abs(both.logsumexp(0).item()) < 1e-14
            assert model.sample(7, context, seed=0).reshape(-1, 1).shape == (7, 1)


def test_check_holds_masks_to_the_order(build: Build, options: dict[str, Any]) -> None:
    model = build(options)
    model.check()
    last, first = int(model.order[-1]), int(model.order[0])
    reads_x = model.parameters_layer if not options["hidden_features"] else model.direct_layer
    with torch.no_grad():
        if reads_x is not None:
            reads_x.mask[first, last] = True
        else:  # a leak through the hidden units: one that sees the last variable feeds the first
            for layer in model.hidden:
                layer.mask[-1, :] = True
            model.parameters_layer.mask[first, -1] = True
    with pytest.raises(
        ValueError, match=r"^[\w., ]*mask must follow the order, but variable \d+ depends on variable \d+\Z"
    ) as error:
        model.check()
    reader, read = (int(word) for word in str(error.value).split() if word.isdigit())
    rank = model.order.argsort()
    assert rank[read] >= rank[reader]
    model = build(options)
    depends = len(model.hidden) > 0 or model.direct
    model.order.copy_(model.order.flip(0))
    if depends:  # connections that follow another order
        with pytest.raises(ValueError, match=r"^masks must follow the order"):
            model.check()


def test_repr_shows_the_arguments() -> None:
    text = repr(MADE(5, (6, 6), residual=True, activation="gelu"))
    assert "5, (6, 6)" in text
    assert "gelu" in text
    assert "residual=True" in text


@pytest.mark.parametrize("name", ["residual", "direct", "mask_conditioning"])
def test_flags_are_flags(name: str) -> None:
    for wrong in ("False", 2, None, [], 0.5):
        with pytest.raises(ValueError, match=rf"^{name} must be True or False, got"):
            MADE(4, (8,), **{name: wrong})
    for value in (False, 0, torch.tensor(False)):
        assert getattr(MADE(4, (8,), **{name: value}), name) is False
    assert getattr(MADE(4, (8,), **{name: 1}), name) is True

"""Tensors: what is unambiguous is converted, everything else refused by name; tables of kinds and of all that takes them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from callers import FLAGS, ROWS, callers, cost_of
from torch import nn

from made_fast import MADE, outputs
from made_fast.arguments import in_dtype
from made_fast.estimation import entropy, free_energy, log_mean_exp, score_function_loss


@pytest.fixture
def made() -> dict[str, Any]:
    """What is called, by name."""
    return callers()


Call = Callable[[dict[str, Any], Any], Any]
OF_REAL_NUMBERS: dict[str, tuple[str, Call]] = {
    "forward x": ("x", lambda m, v: m["plain"](v)),
    "forward context": ("context", lambda m, v: m["model"](m["x"], v)),
    "log_prob x": ("x", lambda m, v: m["plain"].log_prob(v)),
    "log_prob x of reals": ("x", lambda m, v: m["real"].log_prob(v)),
    "log_prob context": ("context", lambda m, v: m["model"].log_prob(m["x"], v)),
    "log_prob context of an ensemble": ("context", lambda m, v: m["ensemble"].log_prob(m["x"], v)),
    "distribution x": ("x", lambda m, v: m["plain"].distribution(v).mean),
    "sample context": ("context", lambda m, v: m["model"].sample(2, v, seed=1)),
    "sample_and_log_prob context": ("context", lambda m, v: m["model"].sample_and_log_prob(2, v, seed=1)[1]),
    "sampler context": ("context", lambda m, v: m["sampler"].sample(2, v, seed=1)),
    "ensemble sampler context": ("context", lambda m, v: m["ensemble sampler"].sample(2, v, seed=1)),
    "accelerated context": ("context", lambda m, v: m["accelerated"].sample(2, v, seed=1)),
    "sample given": ("given", lambda m, v: m["plain"].sample(2, given=v, observed=FLAGS, seed=1).log_weight),
    "sample observed": ("observed", lambda m, v: m["plain"].sample(2, given=m["x"], observed=v, seed=1).x),
    "log_marginal x": ("given", lambda m, v: m["plain"].log_marginal(v, FLAGS, 5, seed=1).value),
    "estimate_probability context": (
        "context",
        lambda m, v: m["model"].estimate_probability({0: {1}}, 5, v, seed=1).value,
    ),
    "flow log_prob x": ("x", lambda m, v: m["flow"].log_prob(v, m["x"])),
    "flow log_prob context": ("context", lambda m, v: m["flow"].log_prob(m["x"], v)),
    "flow inverse z": ("z", lambda m, v: m["flow"].inverse(v, m["x"])),
    "flow inverse context": ("context", lambda m, v: m["flow"].inverse(m["x"], v)),
    "flow sample context": ("context", lambda m, v: m["flow"].sample(2, v, seed=1)),
    "flow rsample context": ("context", lambda m, v: m["flow"].rsample(2, v, seed=1)),
    "flow sample_and_log_prob context": ("context", lambda m, v: m["flow"].sample_and_log_prob(2, v, seed=1)[1]),
    "nflows log_prob x": ("x", lambda m, v: m["nflows"].log_prob(v, m["x"])),
    "nflows log_prob context": ("context", lambda m, v: m["nflows"].log_prob(m["x"], v)),
    "nflows sample context": ("context", lambda m, v: m["nflows"].sample(2, v, seed=1)),
    "pytorch_made log_prob x": ("x", lambda m, v: m["pytorch_made"].log_prob(v)),
    "entropy context": ("context", lambda m, v: entropy(m["model"], 2, v, seed=1).value),
    "free_energy context": ("context", lambda m, v: free_energy(m["model"], cost_of, 2, v, seed=1).variational.value),
    "score_function_loss context": (
        "context",
        lambda m, v: score_function_loss(m["model"], cost_of, 2, v, seed=1).loss,
    ),
    "log_mean_exp": ("log_weights", lambda m, v: log_mean_exp(v).value),
}


def _array(**options: Any) -> np.ndarray[Any, Any]:
    return np.array(ROWS, **options)


TAKEN: dict[str, Callable[[], Any]] = {
    "list": lambda: ROWS,
    "tuples": lambda: tuple(map(tuple, ROWS)),
    "flags in a list": lambda: [[bool(number) for number in row] for row in ROWS],
    "tensors in a list": lambda: [torch.tensor(row).float() for row in ROWS],
    "arrays in a list": lambda: [np.array(row) for row in ROWS],
    "array of int64": _array,
    "array of float64": lambda: _array(dtype=float),
    "array of float16": lambda: _array(dtype=np.float16),
    "array of long double": lambda: _array(dtype=np.longdouble),
    "array of bool": lambda: _array(dtype=bool),
    "array of uint64": lambda: _array(dtype=np.uint64),
    "array, big-endian": lambda: _array(dtype=">f8"),
    "array, not contiguous": lambda: _array()[::-1, ::-1][::-1, ::-1],
    "array, read only": lambda: np.broadcast_to(_array(), (3, 2)),
    "masked array without masks": lambda: np.ma.array(_array()),
    **{
        f"tensor of {dtype}": lambda dtype=dtype: torch.tensor(ROWS, dtype=dtype)
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    },
    "tensor of uint16": lambda: torch.tensor(ROWS, dtype=torch.uint16),
    "tensor with gradient": lambda: torch.tensor(ROWS).float().requires_grad_(),
    "parameter": lambda: nn.Parameter(torch.tensor(ROWS).float()),
    "tensor, transposed": lambda: torch.tensor(ROWS).float().T.contiguous().T,
    "negative view, whose memory holds other numbers": lambda: torch._neg_view(-torch.tensor(ROWS).float()),
}

REFUSED: dict[str, Callable[[], Any]] = {
    "text": lambda: "01",
    "bytes": lambda: b"01",
    "number": lambda: 1.0,
    "text in a list": lambda: [["0", "1"]] * 3,
    "nothing in a list": lambda: [[0, None]] * 3,
    "ragged list": lambda: [[0, 1], [1], [0, 1]],
    "empty list": list,
    "large number in a list": lambda: [[0, 10**30]] * 3,
    "set": lambda: {0, 1},
    "mapping": lambda: {0: [0, 1]},
    "iterator": lambda: iter(ROWS),
    "function": lambda: cost_of,
    "array of objects": lambda: _array(dtype=object),
    "array of text": lambda: _array(dtype=str),
    "array of complex": lambda: _array(dtype=complex),
    "array of dates": lambda: _array().astype("datetime64[D]"),
    "array with masks": lambda: np.ma.array(_array(), mask=_array() == 0),
    "sparse": lambda: torch.tensor(ROWS).float().to_sparse(),
    "compressed": lambda: torch.tensor(ROWS).float().to_sparse_csr(),
    "of oneDNN": lambda: torch.tensor(ROWS).float().to_mkldnn(),
    "quantized": lambda: torch.quantize_per_tensor(torch.tensor(ROWS).float(), 1.0, 0, torch.quint8),
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(2, 2), torch.zeros(1, 2)]),
    "jagged": lambda: torch.nested.nested_tensor([torch.zeros(2, 2), torch.zeros(1, 2)], layout=torch.jagged),
    "complex": lambda: torch.tensor(ROWS).cfloat(),
    "meta": lambda: torch.tensor(ROWS).float().to("meta"),
    "no dimension": lambda: torch.tensor(1.0),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("function", OF_REAL_NUMBERS)
def test_rows_of_numbers_of_every_kind_are_taken(made: dict[str, Any], function: str) -> None:
    _, call = OF_REAL_NUMBERS[function]
    expected = call(made, torch.tensor(ROWS).float())
    for kind, value in TAKEN.items():
        found = call(made, value())
        torch.testing.assert_close(found, expected, check_dtype=False, msg=lambda text, k=kind: f"{k}: {text}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("function", OF_REAL_NUMBERS)
def test_all_else_is_refused_by_name(made: dict[str, Any], function: str) -> None:
    name, call = OF_REAL_NUMBERS[function]
    for kind, value in REFUSED.items():
        with pytest.raises(ValueError, match=rf"^{name} must .*, got ") as error:
            assert call(made, value()) is None, f"{kind} was taken"
        assert "\n" not in str(error.value), kind


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_real_numbers_are_rounded_and_whole_ones_must_fit(dtype: torch.dtype) -> None:
    most = round(2 / torch.finfo(dtype).eps)
    for fits in (most, -most, 0, *([4 * most] if dtype != torch.float16 else [])):
        assert in_dtype("x", torch.tensor([fits]), dtype).item() == fits
    for number in (most + 1, -most - 1):
        with pytest.raises(ValueError, match=rf"^x must be whole numbers that are exact in {dtype}, got {number}\Z"):
            in_dtype("x", torch.tensor([1, number]), dtype)
    assert (
        in_dtype("x", torch.tensor([0.1], dtype=torch.float64), dtype).item() == torch.tensor(0.1, dtype=dtype).item()
    )
    for number in (2**63 - 1, 2**64 - 1):
        with pytest.raises(ValueError, match=r"^x must be whole numbers"):
            in_dtype("x", torch.tensor([number], dtype=torch.uint64), dtype)
    if dtype != torch.float64:
        with pytest.raises(ValueError, match=rf"^x must be finite in {dtype}, got 1e\+300\Z"):
            in_dtype("x", torch.tensor([1.0, 1e300], dtype=torch.float64), dtype)
    assert in_dtype("x", torch.tensor([torch.inf, torch.nan], dtype=torch.float64), dtype).isfinite().sum() == 0
    assert in_dtype("x", torch.zeros(0, 3, dtype=torch.int64), dtype).shape == (0, 3)


def test_rounded_values_are_not_taken_for_others() -> None:
    """A finite value that the dtype of the weights does not have must not become its neighbour."""
    model = MADE(2, (), output=outputs.Categorical(300)).bfloat16()
    for x in ([[283, 0]], [[283.0, 0.0]], torch.tensor([[283.0, 0.0]]), torch.tensor([[283, 0]])):
        with pytest.raises(ValueError, match=r"^x must be .* exact in torch\.bfloat16.*, got 283"):
            model.log_prob(x)
    assert model.log_prob([[284, 0]]).shape == (1,)
    with pytest.raises(
        ValueError, match=r"^x must be 0 or 1, and exact in torch\.float32, for variable 1, got 1\.0000000001\Z"
    ):
        MADE(2, ()).log_prob(torch.tensor([[0.0, 1 + 1e-10]], dtype=torch.float64))


def test_gradients_come_back_through_a_conversion(made: dict[str, Any]) -> None:
    x = torch.tensor(ROWS).double().requires_grad_()
    made["real"].log_prob(x).sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float64 and bool(x.grad.any())


def test_contexts_of_another_batch_are_refused(made: dict[str, Any]) -> None:
    context = torch.zeros(6, 2)
    for model in (made["model"], made["ensemble"], made["flow"]):
        for call in (model, model.log_prob) if isinstance(model, MADE) else (model.log_prob, model.inverse):
            with pytest.raises(ValueError, match=r"must have shape .*\(3, 2\).*\(6, 2\)"):
                call(made["x"], context)
    with pytest.raises(ValueError, match=r"^context must have shape .*\(3, 2\).*\(6, 2\)"):
        made["nflows"].log_prob(made["x"], context)
    found = made["model"].log_prob(made["x"], context[:1])  # one for all
    torch.testing.assert_close(found, made["model"].log_prob(made["x"], context[:3]))
    found = made["nflows"].log_prob(made["x"], context[:1])
    torch.testing.assert_close(found, made["nflows"].log_prob(made["x"], context[:3]))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_contexts_that_are_not_finite_are_refused(made: dict[str, Any], bad: float) -> None:
    context = torch.zeros(3, 2)
    context[1, 1] = bad
    for name in ("model", "ensemble", "flow", "nflows"):
        for call in (lambda m: m.log_prob(made["x"], context), lambda m: m.sample(2, context)):
            with pytest.raises(ValueError, match=r"^context must be finite, found nan or inf"):
                call(made[name])
    large = torch.full((3, 2), 3e38)  # finite, but not their sum
    assert made["model"].log_prob(made["x"], large).shape == (3,)
    for name in ("flow", "real"):
        with pytest.raises(ValueError, match=r"^x must be finite"):
            made[name].log_prob(context, *([made["x"]] if name == "flow" else []))


def test_contexts_are_looked_at_only_where_they_can_be(made: dict[str, Any]) -> None:
    context = torch.full((3, 2), torch.nan)
    mapped = torch.func.vmap(made["model"].log_prob)(made["x"], context)
    assert bool(mapped.isnan().all())
    torch._dynamo.reset()
    compiled = torch.compile(made["model"].log_prob, fullgraph=True, backend="eager")
    assert bool(compiled(made["x"], context).isnan().all())
    torch.testing.assert_close(compiled(made["x"], made["x"]), made["model"].log_prob(made["x"], made["x"]))


def test_meta_models_say_shapes_and_draw_nothing() -> None:
    model = MADE(3, (4,)).to("meta")
    x = torch.zeros(5, 3, device="meta")
    assert model(x).shape == (5, 3) and model.log_prob(x).shape == (5,)
    for value in (torch.zeros(5, 3),):
        with pytest.raises(ValueError, match=r"^x must be on meta like the weights, got cpu"):
            model.log_prob(value)
    with pytest.raises(ValueError, match="meta"):
        model.sample(2)

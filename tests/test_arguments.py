"""One rule for arguments: what is unambiguous is converted, everything else refused by a ValueError that names it.

Tables of kinds of values, and of every function and argument that takes a number or a tensor.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from made_fast import MADE, MaskedLinear, accelerate, masked_linear, outputs, sample_rows
from made_fast.arguments import in_dtype, shown, tensor_of
from made_fast.compat import nflows, pytorch_made
from made_fast.estimation import entropy, enumerate_log_prob, free_energy, log_mean_exp, score_function_loss
from made_fast.flows import MaskedAutoregressiveFlow
from made_fast.masks import make_order

# Every pair of function and argument that takes rows of real numbers: (B, D) or (B, C), here (3, 2) of 0 and 1.
ROWS = [[0, 1], [1, 1], [1, 0]]
CONTEXT = {"hidden_features": (5,), "context_features": 2}
FLAGS = torch.tensor([True, False])


class _Plain(nn.Module):
    """Of someone else: parameters of two variables from x and a context."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.of_context = nn.Linear(2, 2), nn.Linear(2, 2)
        with torch.no_grad():
            self.linear.weight.copy_(self.linear.weight.tril(-1))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self.linear(x) + self.of_context(context)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """What is called, by name."""
    torch.manual_seed(0)
    model, ensemble, real = MADE(2, **CONTEXT), MADE(2, **CONTEXT, num_masks=3).eval(), MADE(2, (4,), output="normal")
    return {
        "plain": MADE(2, (4,)),
        "model": model,
        "ensemble": ensemble,
        "real": real,
        "sampler": model.sampler(),
        "ensemble sampler": ensemble.sampler(),
        "flow": MaskedAutoregressiveFlow(2, 2, (5,), 2),
        "nflows": nflows.MADE(2, 5, 2),
        "pytorch_made": pytorch_made.MADE(2, [5], 2, natural_ordering=True),
        "accelerated": accelerate(_Plain(), features=2, context_features=2),
        "x": torch.tensor(ROWS).float(),
    }


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
    "free_energy context": ("context", lambda m, v: free_energy(m["model"], _cost, 2, v, seed=1).variational.value),
    "score_function_loss context": ("context", lambda m, v: score_function_loss(m["model"], _cost, 2, v, seed=1).loss),
    "log_mean_exp": ("log_weights", lambda m, v: log_mean_exp(v).value),
}


def _cost(x: Tensor) -> Tensor:
    return x.sum(-1)


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
    "function": lambda: _cost,
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


# Every function and argument that takes a whole number, here 3, 2 or 1 as it fits.
_LAYER: dict[str, Any] = {"mask": torch.ones(3, 3)}
OF_WHOLE_NUMBERS: dict[str, tuple[str, int, Callable[[dict[str, Any], Any], Any]]] = {
    "MADE features": ("features", 3, lambda m, v: MADE(v, (4,)).features),
    "MADE hidden_features": ("hidden_features", 3, lambda m, v: MADE(2, (v, 4)).hidden_features),
    "MADE context_features": ("context_features", 3, lambda m, v: MADE(2, (4,), context_features=v).context_features),
    "MADE seed": ("seed", 3, lambda m, v: MADE(4, (4,), seed=v, order="random").order),
    "MADE num_masks": ("num_masks", 3, lambda m, v: MADE(2, (4,), num_masks=v).num_masks),
    "make_order features": ("features", 3, lambda m, v: make_order("natural", v)),
    "make_order seed": ("seed", 3, lambda m, v: make_order("random", 5, seed=v)),
    "mask_index": ("mask_index", 2, lambda m, v: setattr(m["ensemble"], "mask_index", v)),
    "forward mask": ("mask", 2, lambda m, v: m["ensemble"](m["x"], m["x"], mask=v)),
    "log_prob masks": ("masks", 2, lambda m, v: m["ensemble"].log_prob(m["x"], m["x"], masks=v)),
    "log_prob masks, several": ("masks", 2, lambda m, v: m["ensemble"].log_prob(m["x"], m["x"], masks=[0, v])),
    "order_of": ("mask", 2, lambda m, v: m["ensemble"].order_of(v)),
    "program mask": ("mask", 2, lambda m, v: m["ensemble"].program(mask=v).order),
    "sample mask": ("mask", 2, lambda m, v: m["ensemble"].sample(2, m["x"], mask=v, seed=0)),
    "sampler sample mask": ("mask", 2, lambda m, v: m["ensemble sampler"].sample(2, m["x"], mask=v, seed=0)),
    "sample num_samples": ("num_samples", 3, lambda m, v: m["plain"].sample(v, seed=0)),
    "sample seed": ("seed", 3, lambda m, v: m["plain"].sample(3, seed=v)),
    "sample first_row": ("first_row", 3, lambda m, v: m["plain"].sample(3, seed=0, first_row=v)),
    "sample top_k": (
        "top_k",
        1,
        lambda m, v: MADE(2, (), output=outputs.Categorical(3)).sample(3, top_k=v, seed=0) * 0,
    ),
    "flow num_samples": ("num_samples", 3, lambda m, v: m["flow"].sample(v, m["x"], seed=0)),
    "flow seed": ("seed", 3, lambda m, v: m["flow"].sample(2, m["x"], seed=v)),
    "flow transforms": ("transforms", 3, lambda m, v: len(MaskedAutoregressiveFlow(2, v, (4,)).networks)),
    "flow features": ("features", 3, lambda m, v: MaskedAutoregressiveFlow(v, 1, (4,)).features),
    "flow of a seed": ("seed", 3, lambda m, v: MaskedAutoregressiveFlow(2, 1, (4,), seed=v).features),
    "accelerated num_samples": ("num_samples", 3, lambda m, v: m["accelerated"].sample(v, m["x"], seed=0)),
    "accelerate features": (
        "features",
        2,
        lambda m, v: accelerate(_Plain(), features=v, context_features=2).features,
    ),
    "nflows num_samples": ("num_samples", 3, lambda m, v: m["nflows"].sample(v, m["x"], seed=0)),
    "nflows features": ("features", 3, lambda m, v: nflows.MADE(v, 4).features),
    "nflows hidden_features": ("hidden_features", 3, lambda m, v: nflows.MADE(2, v).hidden_features),
    "pytorch_made nin": ("nin", 3, lambda m, v: pytorch_made.MADE(v, [4], 3).nin),
    "pytorch_made hidden_sizes": ("hidden_sizes", 3, lambda m, v: pytorch_made.MADE(2, [v], 2).hidden_sizes),
    "allowed column": (
        "a variable of allowed",
        1,
        lambda m, v: m["plain"].estimate_probability({v: {1}}, 5, seed=0).value,
    ),
    "log_marginal num_samples": (
        "num_samples",
        3,
        lambda m, v: m["plain"].log_marginal(m["x"], FLAGS, v, seed=0).value,
    ),
    "Categorical sizes": ("sizes", 3, lambda m, v: outputs.Categorical(v).sizes),
    "Categorical sizes, several": ("sizes", 3, lambda m, v: outputs.Categorical([2, v]).sizes),
    "Categorical embedding": ("embedding", 3, lambda m, v: outputs.Categorical(4, v).embedding),
    "MixtureOfNormals": ("components", 3, lambda m, v: outputs.MixtureOfNormals(v).conditional.components),
    "MixtureOfLogistics": ("levels", 3, lambda m, v: outputs.MixtureOfLogistics(2, v).conditional.size),
    "sample_rows rank": ("rank", 1, lambda m, v: sample_rows(v, 2, 10)),
    "sample_rows n": ("n", 3, lambda m, v: sample_rows(0, 2, v)),
    "entropy num_samples": ("num_samples", 3, lambda m, v: entropy(m["plain"], v, seed=0).value),
    "enumerate max_states": ("max_states", 8, lambda m, v: enumerate_log_prob(MADE(3, ()), max_states=v)[0]),
    "MaskedLinear in_features": ("in_features", 3, lambda m, v: MaskedLinear(v, 3, **_LAYER).in_features),
}
ALSO_NOTHING = {"seed", "mask", "masks"}  # which may be left out
WHOLE: dict[str, Callable[[int], Any]] = {
    "np.int64": np.int64,
    "np.uint8": np.uint8,
    "array of no dimension": np.array,
    "tensor": torch.tensor,
    "tensor of uint8": lambda number: torch.tensor(number, dtype=torch.uint8),
}
NO_WHOLE: dict[str, Any] = {
    "True": True,
    "np.True_": np.True_,
    "tensor of a flag": torch.tensor(True),
    "text": "3",
    "float": 3.0,
    "np.float64": np.float64(3),
    "tensor of a float": torch.tensor(3.0),
    "nan": math.nan,
    "complex": 3 + 0j,
    "nothing": None,
    "negative": -1,
    "meta": torch.tensor(3, device="meta"),
    "mapping": {3: 3},
    "bytes": b"3",
}


@pytest.mark.parametrize("function", OF_WHOLE_NUMBERS)
def test_whole_numbers_of_every_kind_are_taken(made: dict[str, Any], function: str) -> None:
    _, number, call = OF_WHOLE_NUMBERS[function]
    expected = call(made, number)
    for kind, convert in WHOLE.items():
        if function == "allowed column" and "array" in kind:  # no key of a mapping
            continue
        found = call(made, convert(number))
        same = torch.equal(found, expected) if isinstance(found, Tensor) else found == expected
        assert same, kind
        assert not isinstance(found, np.generic), kind


@pytest.mark.parametrize("function", OF_WHOLE_NUMBERS)
def test_what_is_no_whole_number_is_refused(made: dict[str, Any], function: str) -> None:
    name, _, call = OF_WHOLE_NUMBERS[function]
    for kind, value in NO_WHOLE.items():
        left_out = value is None and (name in ALSO_NOTHING or function == "accelerate features")
        if left_out or (function == "allowed column" and value == {3: 3}):  # no key of a mapping
            continue
        with pytest.raises(ValueError, match=rf"{name} must .*, got"):
            assert call(made, value) is None, f"{kind} was taken"


def test_arrays_where_several_numbers_are_taken(made: dict[str, Any]) -> None:
    table = np.array([[0, 1], [2, 0], [1, 1]])
    assert outputs.Categorical(list(table.max(0) + 1)).sizes == (3, 2)
    for several in (np.array([3, 2]), torch.tensor([3, 2]), (np.int64(3), 2), range(3, 1, -1)):
        assert outputs.Categorical(several).sizes == (3, 2)
        assert MADE(2, several).hidden_features == (3, 2)
        assert pytorch_made.MADE(2, several, 2).hidden_sizes == [3, 2]
    for wrong in (np.array([[3]]), np.array([3.0]), np.array([True]), torch.tensor([[3]]), "3", {3}, np.array(["3"])):
        with pytest.raises(ValueError, match="sizes must"):
            outputs.Categorical(wrong)
    for masks in ([0, 2], np.array([0, 2]), torch.tensor([0, 2]), range(0, 3, 2)):
        for model in (made["ensemble"], MADE(2, **CONTEXT, num_masks=0)):
            found = model.log_prob(made["x"], made["x"], masks=masks)
            assert torch.equal(found, model.log_prob(made["x"], made["x"], masks=(0, 2)))
    assert torch.equal(MADE(3, (), order=np.array([2, 0, 1])).order, torch.tensor([2, 0, 1]))
    expected = made["plain"].sample(3, seed=0)
    for rows in (range(3), [0, 1, 2], np.arange(3), torch.arange(3, dtype=torch.int32), np.arange(3, dtype=np.uint8)):
        assert torch.equal(made["plain"].sample(3, seed=0, rows=rows), expected)
    for rows in ([True] * 3, [0.0, 1.0, 2.0], "012", torch.zeros(3, device="meta").long(), [[0, 1, 2]], range(10**12)):
        with pytest.raises(ValueError, match=r"^rows must "):
            made["plain"].sample(3, seed=0, rows=rows)


def test_no_two_seeds_are_the_same_one(made: dict[str, Any]) -> None:
    calls = (made["plain"].sample, made["flow"].sample, made["accelerated"].sample)
    for call in calls:
        x = (16,) if call is calls[0] else (16, made["x"])
        drawn = [call(*x, seed=seed) for seed in (0, 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)]
        assert all(not torch.equal(a, b) for k, a in enumerate(drawn) for b in drawn[:k])
        for seed in (-1, -(2**63), 2**64, 2**64 + 1, 10**40):
            with pytest.raises(ValueError, match=r"^seed must be an integer, 0 to 18446744073709551615"):
                call(*x, seed=seed)
    for make in (MADE, MaskedAutoregressiveFlow):
        make(3, hidden_features=(4,), seed=2**64 - 1, degrees="random")
        for seed in (-1, 2**64):
            with pytest.raises(ValueError, match=r"^seed must "):
                make(3, hidden_features=(4,), seed=seed)


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
    assert torch.equal(found, made["model"].log_prob(made["x"], context[:3]))
    found = made["nflows"].log_prob(made["x"], context[:1])
    assert torch.equal(found, made["nflows"].log_prob(made["x"], context[:3]))


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


@pytest.mark.parametrize("name", ["sed", "temprature", "top"])
def test_unknown_options_are_refused(made: dict[str, Any], name: str) -> None:
    for kind in ("model", "ensemble", "sampler", "accelerated", "nflows", "flow"):
        with pytest.raises((TypeError, ValueError), match=name):
            made[kind].sample(2, made["x"], **{name: 1})
    for function in (entropy, lambda model, count, **options: free_energy(model, _cost, count, **options)):
        with pytest.raises(ValueError, match=name):
            function(made["plain"], 5, **{name: 1})
        with pytest.raises(ValueError, match="temperature"):  # whose estimate would be of another distribution
            function(made["plain"], 5, temperature=2.0)


def test_numbers_and_flags_of_decoding(made: dict[str, Any]) -> None:
    model = MADE(2, (), output=outputs.Categorical(4))
    expected = model.sample(5, seed=0, temperature=0.5, top_k=2, top_p=0.5)
    same = {"temperature": np.float32(0.5), "top_k": np.int64(2), "top_p": torch.tensor(0.5)}
    assert torch.equal(model.sample(5, seed=0, **same), expected)
    assert torch.equal(model.sample(5, seed=0, greedy=np.True_), model.sample(5, seed=0, greedy=True))
    several = (np.array([1.0, 2.0]), torch.tensor([1.0, 2.0]), "1", True, None, [1.0], math.nan)
    for name in ("temperature", "top_p"):
        for value in (*several, -1, math.inf):
            if value is not True or name == "temperature":
                with pytest.raises(ValueError, match=f"^{name} must "):
                    model.sample(5, **{name: value, "top_k": 1})
    for value in ("False", "", None, 2, np.array([True, False]), [True]):
        with pytest.raises(ValueError, match=r"^greedy must be True or False, got "):
            model.sample(5, greedy=value)


def test_masked_layers_take_masks_of_every_kind() -> None:
    rows = [[1, 0, 0], [1, 1, 0]]
    for mask in (rows, np.array(rows), np.array(rows, dtype=bool), torch.tensor(rows).double()):
        assert torch.equal(MaskedLinear(3, 2, mask).mask, torch.tensor(rows).bool())
    for mask in (
        "mask",
        torch.tensor(rows).to_sparse(),
        torch.tensor(rows).cfloat(),
        torch.zeros(2, 3, device="meta"),
        1,
    ):
        with pytest.raises(ValueError, match=r"^mask must "):
            MaskedLinear(3, 2, mask)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("argument", ["x", "weight", "mask", "bias"])
def test_masked_linear_refuses_what_is_no_dense_tensor(argument: str) -> None:
    known = {"x": torch.ones(9, 4), "weight": torch.ones(5, 4), "mask": torch.ones(5, 4).bool(), "bias": torch.ones(5)}
    tensor = known[argument].float()
    odd: dict[str, Any] = {
        "array": tensor.numpy(),
        "list": tensor.tolist(),
        "text": "x",
        "sparse": tensor.to_sparse(),
        "of oneDNN": tensor.to_mkldnn(),
        "quantized": torch.quantize_per_tensor(tensor, 1.0, 0, torch.quint8),
        "complex": tensor.cfloat(),
        "half": tensor.half(),
        "eight bits": tensor.to(torch.float8_e4m3fn),
        "whole": tensor.int(),
        "nested": torch.nested.nested_tensor([tensor[:1], tensor[:2]]),
        "meta": tensor.to("meta"),
        "no dimension": torch.tensor(1.0),
    }
    for kind, value in odd.items():
        for backend in ("auto", "reference"):
            with pytest.raises(ValueError, match=rf"\b{argument}\b") as error:
                assert masked_linear(**{**known, argument: value, "backend": backend}) is None, f"{kind} was taken"
            assert "must " in str(error.value), kind


def test_messages_are_short() -> None:
    assert len(shown("x" * 10_000)) < 250 and shown(torch.zeros(5, 5)) == "Tensor torch.float32 (5, 5)"
    assert len(shown(list(range(10_000)))) < 250
    assert tensor_of("x", [[1, 2]]).dtype == torch.int64 and tensor_of("x", [0.1]).dtype == torch.float64

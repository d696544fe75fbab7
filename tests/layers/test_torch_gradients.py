"""masked_linear under torch's autograd: every order of gradient, layouts, shapes, checkpoints, changes in between."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from quick import some
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from made_fast import backends, masked_linear
from made_fast.programs.functions import ACTIVATIONS, FUNCTIONS

SERVING = [
    backend.name
    for backend in backends.BACKENDS
    if backends.why_not(backend, backends.Needs(torch.device("cpu"), torch.float64)) is None
]
BACKENDS = ["auto", *SERVING]

anywhere = pytest.mark.parametrize("backend", some(BACKENDS, {"cpp", "numba", "reference"}))  # "auto" is one of them
every_mask = pytest.mark.parametrize("kind", ["degrees", "nested", "scattered", "full", "empty"])


def _mask(kind: str, rows: int, columns: int) -> Tensor:
    degrees = torch.randint(-2, 5, (rows + columns,), generator=torch.Generator().manual_seed(rows))
    chosen = torch.rand(rows, columns, generator=torch.Generator().manual_seed(columns))
    return {
        "degrees": degrees,
        "nested": degrees[:rows, None] >= degrees[rows:],
        "scattered": chosen < 0.4,
        "full": chosen >= 0.0,
        "empty": chosen < 0.0,
    }[kind]


def _dense(
    x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> Tensor:
    if mask.ndim == 1:
        mask = mask[: weight.shape[0], None] >= mask[weight.shape[0] :]
    return FUNCTIONS[activation or "identity"](F.linear(x, torch.where(mask, weight, 0.0), bias))


def _inputs(
    *leading: int, rows: int = 6, columns: int = 5, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    shapes = ((*leading, columns), (rows, columns), (rows,))
    x, weight, bias = (torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes)
    return x, weight, bias


def _agree(function: Callable[..., Tensor], dense: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Values and gradients of two functions are those of each other."""
    found, expected = function(*inputs), dense(*inputs)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(expected)
    wanted = [each for each in inputs if each.requires_grad]
    found_grads, expected_grads = (torch.autograd.grad(y, wanted, upstream) for y in (found, expected))
    torch.testing.assert_close(found_grads, expected_grads)


@anywhere
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_first_and_second_derivatives(backend: str, activation: str) -> None:
    for kind, leading, rows, columns in (("degrees", (3,), 5, 4), ("scattered", (2, 2), 3, 7), ("nested", (), 9, 1)):
        mask = _mask(kind, rows, columns)

        def function(x: Tensor, weight: Tensor, bias: Tensor, mask: Tensor = mask) -> Tensor:
            return masked_linear(x, weight, mask, bias, activation=activation, backend=backend)

        inputs = _inputs(*leading, rows=rows, columns=columns)
        assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@anywhere
@every_mask
def test_gradients_of_a_layer_that_pays(backend: str, kind: str) -> None:
    for dtype in (torch.float32, torch.float64):
        x, weight, bias = _inputs(130, rows=150, columns=140, dtype=dtype)
        mask = _mask(kind, 150, 140)
        for name in (None, "relu", "gelu", "tanh"):
            y = masked_linear(x, weight, mask, bias, activation=name, backend=backend)
            double = [each.detach().double().requires_grad_() for each in (x, weight, bias)]
            expected = _dense(double[0], double[1], mask, double[2], name)
            exact = 1e-4 if dtype == torch.float32 else 1e-9
            torch.testing.assert_close(y.double(), expected, rtol=exact, atol=exact)
            upstream = torch.randn_like(y)
            found = torch.autograd.grad(y, (x, weight, bias), upstream)
            wanted = torch.autograd.grad(expected, double, upstream.double())
            for one, other in zip(found, wanted, strict=True):
                torch.testing.assert_close(one.double(), other, rtol=10 * exact, atol=20 * exact)
            under = _dense(torch.eye(140).double(), torch.ones(150, 140).double(), mask).T == 0
            assert (found[1][under] == 0).all()


@anywhere
@every_mask
def test_nothing_under_the_mask_is_read(backend: str, kind: str) -> None:
    for size in (7, 70):
        x, weight, bias = _inputs(9, rows=size, columns=size + 1)
        mask = _mask(kind, size, size + 1)
        kept = _dense(torch.eye(size + 1).double(), torch.ones(size, size + 1).double(), mask).T != 0
        results = []
        for poison in (0.0, torch.nan, torch.inf, -torch.inf):
            poisoned = weight.detach().masked_fill(~kept, poison).requires_grad_()
            y = masked_linear(x, poisoned, mask, bias, activation="silu", backend=backend)
            first = torch.autograd.grad(y.square().sum(), (x, poisoned, bias), create_graph=True)
            second = torch.autograd.grad([each.square().sum() for each in first], (x, poisoned, bias))
            results.append([y, *first, *second])
            assert (first[1][~kept] == 0).all()
            assert (second[1][~kept] == 0).all()
        for result in results[1:]:
            assert all(map(torch.equal, result, results[0]))


@anywhere
@pytest.mark.parametrize("activation", [None, "sigmoid", "gelu"])
def test_gradient_penalty(backend: str, activation: str | None) -> None:
    x, *weights = _inputs(20, rows=30, columns=30)
    masks = [_mask("degrees", 30, 30), _mask("scattered", 30, 30)]

    def penalty(layer: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        hidden = layer(x, weights[0], masks[0], weights[1], activation=activation)
        y = layer(hidden, weights[0], masks[1], activation=activation)
        (slope,) = torch.autograd.grad(y.tanh().sum(), x, create_graph=True)
        return torch.autograd.grad((slope.norm(dim=1) - 1).square().mean() + y.mean(), weights)

    def layer(*inputs: Tensor, activation: str | None) -> Tensor:
        return masked_linear(*inputs, activation=activation, backend=backend)

    torch.testing.assert_close(penalty(layer), penalty(_dense))


def _window(tensor: Tensor) -> Tensor:
    """The same values amid others: an offset and steps in every dimension."""
    wide = torch.full([3 * size + 2 for size in tensor.shape], 9, dtype=torch.float64).to(tensor.dtype)
    window = wide[tuple(slice(1, 1 + 3 * size, 3) for size in tensor.shape)]
    return window.copy_(tensor)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda tensor: tensor.mT.contiguous().mT if tensor.ndim > 1 else tensor,
    "window": _window,
    "expanded_rows": lambda tensor: tensor[:1].expand(tensor.shape),
    "expanded_columns": lambda tensor: tensor[..., :1].expand(tensor.shape),
    "one_number": lambda tensor: torch.full((), 1, dtype=tensor.dtype).expand(tensor.shape),
    "overlapping": lambda tensor: tensor.as_strided(tensor.shape, (1,) * tensor.ndim),
    "offset": lambda tensor: torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape),
}


@anywhere
@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_in_any_layout(backend: str, layout: str) -> None:
    change = LAYOUTS[layout]
    for kind, leading in (("scattered", (7,)), ("degrees", (2, 3)), ("nested", ())):
        mask = _mask(kind, 6, 5)
        inputs = [each.detach() for each in _inputs(*leading)]
        for place in range(4):
            changed = [change(each) if index == place else each for index, each in enumerate([*inputs, mask])]
            x, weight, bias = (each.detach().requires_grad_() for each in changed[:3])
            kept = changed[3]
            _agree(
                lambda *given, kept=kept: masked_linear(
                    given[0], given[1], kept, given[2], activation="tanh", backend=backend
                ),
                lambda *given, kept=kept: _dense(given[0], given[1], kept, given[2], "tanh"),
                *(x, weight, bias),
            )
        x, weight, bias = (each.requires_grad_() for each in inputs)
        upstream = change(torch.randn(*leading, 6, dtype=torch.float64))
        for name in ("identity", "sigmoid", "elu"):
            y = masked_linear(x, weight, mask, bias, activation=name, backend=backend)
            expected = torch.autograd.grad(_dense(x, weight, mask, bias, name), (x, weight, bias), upstream)
            torch.testing.assert_close(torch.autograd.grad(y, (x, weight, bias), upstream), expected)


@anywhere
@pytest.mark.parametrize("size", [6, 256])
def test_masks_that_are_views(backend: str, size: int) -> None:
    """Many of them, each gone before the next: what is known of one must not be taken for another's."""
    x, weight, _ = _inputs(64, rows=size, columns=size)
    for _ in range(12):
        degrees = torch.rand(size, 2)
        masks = ((degrees[:, :1] >= degrees[:, 1]).T, (torch.rand(size, 2 * size) < 0.5)[:, ::2], degrees[:, 0] < 0.5)
        for mask in (*masks[:2], masks[2].expand(size, size), (9 * torch.rand(2 * size, 2)).long()[:, 1]):
            found = torch.autograd.grad(masked_linear(x, weight, mask, backend=backend).sum(), (x, weight))
            expected = torch.autograd.grad(_dense(x, weight, mask).sum(), (x, weight))
            torch.testing.assert_close(found, expected)


@anywhere
def test_lazily_negated_inputs(backend: str) -> None:
    inputs = [torch.complex(each.detach(), -each.detach()).conj().imag for each in _inputs(7)]
    mask = _mask("scattered", 6, 5)
    assert all(each.is_neg() for each in inputs)
    found = masked_linear(inputs[0], inputs[1], mask, inputs[2], backend=backend)
    torch.testing.assert_close(found, _dense(inputs[0], inputs[1], mask, inputs[2]))
    x, weight, bias = _inputs(7)
    upstream = torch.complex(x.detach() @ weight.detach().T, found).conj().imag
    y = masked_linear(x, weight, mask, bias, activation="tanh", backend=backend)
    expected = torch.autograd.grad(_dense(x, weight, mask, bias, "tanh"), (x, weight, bias), upstream)
    torch.testing.assert_close(torch.autograd.grad(y, (x, weight, bias), upstream), expected)


@anywhere
@every_mask
@pytest.mark.parametrize("leading", [(), (1,), (0,), (0, 3), (2, 1, 3, 1)])
def test_shapes_at_the_edge(backend: str, kind: str, leading: tuple[int, ...]) -> None:
    for rows, columns in ((6, 5), (1, 1), (1, 40), (40, 1)):
        mask = _mask(kind, rows, columns)
        x, weight, bias = _inputs(*leading, rows=rows, columns=columns)
        for activation in ("identity", "sigmoid", "softplus"):
            y = masked_linear(x, weight, mask, bias, activation=activation, backend=backend)
            expected = _dense(x, weight, mask, bias, activation)
            torch.testing.assert_close(y, expected)
            upstream = torch.randn_like(expected)
            found = torch.autograd.grad(y, (x, weight, bias), upstream)
            torch.testing.assert_close(found, torch.autograd.grad(expected, (x, weight, bias), upstream))
            second = torch.autograd.grad(
                masked_linear(x, weight, mask, activation=activation, backend=backend).sum(), x, create_graph=True
            )
            assert second[0].shape == x.shape


NO_WIDTH = """
import itertools, sys, torch, torch.nn.functional as F
from made_fast import masked_linear
sizes, leadings = ((0, 5), (6, 0), (0, 0)), ((), (1,), (4,), (0,), (2, 3))
for backend, *case in itertools.product(sys.argv[1:], sizes, leadings, (False, True), (False, True)):
    (rows, columns), leading, learns, by_degrees = case
    mask = torch.zeros(rows + columns).long() if by_degrees else torch.ones(rows, columns).bool()
    shapes = (*leading, columns), (rows, columns), (rows,)
    x, weight, bias = (torch.randn(shape, requires_grad=learns) for shape in shapes)
    print(backend, "out", rows, "in", columns, "x", leading, "learns", learns, end=": ", flush=True)
    try:
        y, expected = masked_linear(x, weight, mask, bias, backend=backend), F.linear(x, weight, bias)
        torch.testing.assert_close(y, expected)
        if learns:
            both = (torch.autograd.grad(each.sum(), (x, weight, bias)) for each in (y, expected))
            torch.testing.assert_close(*both)
    except Exception as error:
        print(error, flush=True)
    else:
        print("right", flush=True)
"""


@pytest.mark.slow
def test_layers_of_no_width() -> None:
    """In a process of its own, which dividing by zero or reading nothing would end."""
    command = [sys.executable, "-P", "-c", NO_WIDTH, *sorted(BACKENDS, key="cpp".__eq__)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert [line for line in done.stdout.splitlines() if not line.endswith(": right")] == []
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.count(": right") == 60 * len(BACKENDS)


@anywhere
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2), ()])
def test_gradients_of_some_inputs_only(backend: str, wanted: tuple[int, ...]) -> None:
    mask = _mask("scattered", 6, 5)
    for activation in (None, "relu", "silu"):
        inputs = [each.requires_grad_(index in wanted) for index, each in enumerate(_inputs(4))]
        y = masked_linear(inputs[0], inputs[1], mask, inputs[2], activation=activation, backend=backend)
        assert y.requires_grad == bool(wanted)
        if wanted:
            y.sum().backward()
            expected = _dense(inputs[0], inputs[1], mask, inputs[2], activation).sum()
            given = [inputs[index] for index in wanted]
            torch.testing.assert_close([each.grad for each in given], list(torch.autograd.grad(expected, given)))
        assert all((each.grad is None) == (index not in wanted) for index, each in enumerate(inputs))


@anywhere
def test_modes_without_gradients(backend: str) -> None:
    (x, weight, bias), mask = _inputs(4), _mask("degrees", 6, 5)
    expected = _dense(x, weight, mask, bias, "gelu").detach()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            y = masked_linear(x, weight, mask, bias, activation="gelu", backend=backend)
            made_inside = [each.clone() for each in (x, weight, mask, bias)]
        assert not y.requires_grad
        torch.testing.assert_close(y.clone(), expected)
        y = masked_linear(*made_inside, activation="gelu", backend=backend)
        torch.testing.assert_close(y.clone(), expected)
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved"):
        masked_linear(made_inside[0], weight, mask, bias, backend=backend).sum().backward()


@anywhere
@pytest.mark.parametrize("activation", ["identity", "tanh", "gelu"])
def test_changes_between_forward_and_backward(backend: str, activation: str) -> None:
    mask = _mask("scattered", 6, 5)
    for place in range(3):
        leaves = _inputs(4)
        x, weight, bias = (leaf.clone() for leaf in leaves)
        kept = mask.clone()
        y = masked_linear(x, weight, kept, bias, activation=activation, backend=backend)
        with torch.no_grad():
            (x, weight, kept)[place].logical_not_() if place == 2 else (x, weight)[place].add_(1)
        try:
            found = torch.autograd.grad(y.sum(), leaves)
        except RuntimeError as error:
            assert "modified by an inplace operation" in str(error)  # noqa: PT017
        else:  # where a copy was kept, as the reference keeps one of the weights
            assert (backend, place) in (("reference", 1), ("auto", 1))
            expected = torch.autograd.grad(_dense(leaves[0], leaves[1], mask, leaves[2], activation).sum(), leaves)
            torch.testing.assert_close(found, expected)
    leaves = _inputs(4)
    y = masked_linear(leaves[0], leaves[1], mask, leaves[2], activation=activation, backend=backend)
    if activation != "tanh":  # whose gradient is made from the result
        y.mul_(2)
        expected = torch.autograd.grad(2 * _dense(leaves[0], leaves[1], mask, leaves[2], activation).sum(), leaves)
        torch.testing.assert_close(torch.autograd.grad(y.sum(), leaves), expected)
        return
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.mul_(2).sum().backward()


@anywhere
@pytest.mark.parametrize("activation", ["identity", "relu", "silu"])
def test_checkpoints_and_saved_tensor_hooks(backend: str, activation: str) -> None:
    (x, weight, bias), mask = _inputs(8, rows=20, columns=20), _mask("degrees", 20, 20)

    def twice(x: Tensor) -> Tensor:
        for _ in range(2):
            x = masked_linear(x, weight, mask, bias, activation=activation, backend=backend)
        return x

    expected = torch.autograd.grad(twice(x).square().sum(), (x, weight, bias))
    for reentrant in (False, True):
        for leaf in (x, weight, bias):
            leaf.grad = None
        checkpoint(twice, x, use_reentrant=reentrant).square().sum().backward()
        torch.testing.assert_close((x.grad, weight.grad, bias.grad), expected)
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: saved.numpy(force=True).copy(), torch.from_numpy):
        y = twice(x)
    torch.testing.assert_close(torch.autograd.grad(y.square().sum(), (x, weight, bias)), expected)
    with torch.autograd.detect_anomaly(check_nan=True):
        y = twice(x)
        first = torch.autograd.grad(y.square().sum(), (x, weight, bias), retain_graph=True)
        again = torch.autograd.grad(y.square().sum(), (x, weight, bias))
    torch.testing.assert_close(first, again)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        y.sum().backward()


@anywhere
@pytest.mark.parametrize("kind", ["degrees", "scattered"])
@pytest.mark.parametrize("size", [6, 256])
def test_batches_of_gradients(backend: str, kind: str, size: int) -> None:
    (x, weight, bias), mask = _inputs(64, rows=size, columns=size), _mask(kind, size, size)
    directions = torch.randn(3, 64, size, dtype=torch.float64)
    y, expected = masked_linear(x, weight, mask, bias, backend=backend), _dense(x, weight, mask, bias)
    found, wanted = (
        torch.autograd.grad(each, (x, weight, bias), directions, is_grads_batched=True) for each in (y, expected)
    )
    torch.testing.assert_close(found, wanted)


@anywhere
@pytest.mark.parametrize("learns", [False, True])
def test_forward_mode_gives_the_tangent_or_an_error(backend: str, learns: bool) -> None:
    """An output without a tangent would be a derivative of zero that nobody notices."""
    (x, weight, _), mask = _inputs(64, rows=256, columns=256), _mask("nested", 256, 256)
    tangent = torch.randn_like(x)
    with forward_ad.dual_level():
        try:
            y = masked_linear(
                forward_ad.make_dual(x.detach(), tangent), weight.requires_grad_(learns), mask, backend=backend
            )
        except (NotImplementedError, ValueError):  # a named backend says that it cannot serve
            assert backend != "auto"
            return
        found = forward_ad.unpack_dual(y).tangent
    assert found is not None
    torch.testing.assert_close(found, _dense(tangent, weight, mask))

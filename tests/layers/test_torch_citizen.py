"""masked_linear, MaskedLinear and MADE under what torch does to modules: compile, export, autocast, transforms, copies."""

import copy
import io
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from quick import some
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacrev, stack_module_state, vmap
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from made_fast import MADE, MaskedLinear, backends, masked_linear
from made_fast.programs.functions import FUNCTIONS

SERVING = [
    backend.name
    for backend in backends.BACKENDS
    if backends.why_not(backend, backends.Needs(torch.device("cpu"), torch.float64)) is None
]
BACKENDS = ["auto", *SERVING]
HAS_CPP = "cpp" in BACKENDS

anywhere = pytest.mark.parametrize("backend", BACKENDS)
every_mask = pytest.mark.parametrize("kind", ["degrees", "scattered"])


def _mask(kind: str, rows: int, columns: int) -> Tensor:
    degrees = torch.randint(-2, 5, (rows + columns,), generator=torch.Generator().manual_seed(rows))
    chosen = torch.rand(rows, columns, generator=torch.Generator().manual_seed(columns))
    return degrees if kind == "degrees" else chosen < 0.4


def _dense(
    x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> Tensor:
    if mask.ndim == 1:
        mask = mask[: weight.shape[0], None] >= mask[weight.shape[0] :]
    return FUNCTIONS[activation or "identity"](F.linear(x, torch.where(mask, weight, 0.0), bias))


def _inputs(*leading: int, rows: int = 6, columns: int = 5, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    shapes = ((*leading, columns), (rows, columns), (rows,))
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def _binary(*shape: int) -> Tensor:
    return torch.randint(0, 2, shape).float()


def _model(width: int = 16, **options: Any) -> MADE:
    return MADE(9, (width, width), **options)


def _masked(layer: nn.Module) -> MaskedLinear:
    assert isinstance(layer, MaskedLinear)
    return layer


def _fresh(code: str, *words: str, **environment: str) -> "subprocess.Popen[str]":
    """A new interpreter that runs code and knows only these words."""
    known = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "MASTER_PORT")}
    command = [sys.executable, "-P", "-c", code, *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env={**known, **environment})


COLD = """
import sys
import torch
from made_fast import MADE, masked_linear
torch.manual_seed(0)
model = MADE(9, (24, 16), activation="gelu")
mask = torch.rand(40, 30) < 0.5
def both(x, y, weight):
    return model.log_prob(x).mean() + masked_linear(y, weight, mask, activation="tanh", backend="auto").square().mean()
compiled = torch.compile(both, fullgraph=True, dynamic=sys.argv[1] == "dynamic")
learned = [*model.parameters(), torch.randn(40, 30, requires_grad=True)]
for rows in (5, 17, 64):
    x, y = torch.randint(0, 2, (rows, 9)).float(), torch.randn(rows, 30)
    found, expected = compiled(x, y, learned[-1]), both(x, y, learned[-1])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, learned), torch.autograd.grad(expected, learned))
    print(rows, "rows agree")
"""


# Where CI is set, torch's compiler refuses what it lets pass elsewhere.
@pytest.mark.slow
@pytest.mark.parametrize("sizes", ["dynamic", "static"])
def test_compiled_from_cold(tmp_path: Path, sizes: str) -> None:
    process = _fresh(COLD, sizes, TORCHINDUCTOR_CACHE_DIR=str(tmp_path), OMP_NUM_THREADS="1", CI="1")
    output, errors = process.communicate(timeout=300)
    assert output.splitlines() == [f"{rows} rows agree" for rows in (5, 17, 64)], errors[-2000:]


@pytest.mark.parametrize("backend", some(BACKENDS, {"cpp"}))
@pytest.mark.parametrize(
    ("kind", "activation"),
    [
        pytest.param("degrees", None, marks=pytest.mark.slow),
        pytest.param("scattered", "relu", marks=pytest.mark.slow),
        pytest.param("scattered", "silu", marks=pytest.mark.slow),
    ],
)
def test_compiled_function(backend: str, kind: str, activation: str | None) -> None:
    torch._dynamo.reset()
    mask = _mask(kind, 6, 5)

    def function(x: Tensor, weight: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        return masked_linear(x, weight, mask, bias, activation=activation, backend=backend)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for rows in (3, 7, 0):
        x, weight, bias = inputs = _inputs(rows)
        found, expected = compiled(x, weight, bias, mask), _dense(x, weight, mask, bias, activation)
        torch.testing.assert_close(found, expected)
        upstream = torch.randn_like(expected)
        found_grads, expected_grads = (torch.autograd.grad(y, inputs, upstream) for y in (found, expected))
        torch.testing.assert_close(found_grads, expected_grads)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x, weight, bias, ~mask), function(x, weight, bias, ~mask))


MASK_CHANGES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "index": lambda mask, new: mask.__setitem__(..., new),
    "data": lambda mask, new: mask.data.copy_(new),
    "numpy": lambda mask, new: mask.numpy().__setitem__(..., new.numpy()),
    "one": lambda mask, new: mask.numpy().__setitem__((0, 0) if mask.ndim == 2 else 0, new.flatten()[0].item()),
    "view": lambda mask, new: mask.flatten()[-1:].copy_(new.flatten()[-1:]),
}


@anywhere
@every_mask
@pytest.mark.parametrize("how", MASK_CHANGES)
@pytest.mark.parametrize("size", [6, 256])
def test_changed_masks_count_at_the_next_call(backend: str, kind: str, how: str, size: int) -> None:
    inputs, mask = _inputs(64, rows=size, columns=size, dtype=torch.float64), _mask(kind, size, size)
    for _ in range(4):
        new = ~mask if mask.dtype == torch.bool else mask.flip(0) + torch.arange(2 * size) % 5 - 1
        MASK_CHANGES[how](mask, new)
        y = masked_linear(inputs[0], inputs[1], mask, inputs[2], activation="tanh", backend=backend)
        expected = _dense(inputs[0], inputs[1], mask, inputs[2], "tanh")
        torch.testing.assert_close(y, expected)
        found_grads, expected_grads = (torch.autograd.grad(each.sum(), inputs) for each in (y, expected))
        torch.testing.assert_close(found_grads, expected_grads)


@pytest.mark.parametrize("compiled", [False, True])
def test_changed_masks_of_a_model(compiled: bool) -> None:
    torch._dynamo.reset()
    model, x = _model(), _binary(8, 9)
    function = torch.compile(model.log_prob, fullgraph=True, backend="aot_eager") if compiled else model.log_prob
    for change in MASK_CHANGES.values():
        function(x)
        first, layer = (_masked(each) for each in model.hidden)
        change(layer.mask, layer.mask & (torch.rand(layer.mask.shape) < 0.5))  # others are no masks of a MADE
        torch.testing.assert_close(function(x), copy.deepcopy(model).log_prob(x))
        hidden = F.relu(F.linear(x, first.weight * first.mask, first.bias))
        torch.testing.assert_close(layer(hidden), F.linear(hidden, layer.weight * layer.mask, layer.bias))


@pytest.mark.parametrize("backend", some(BACKENDS, {"cpp"}))
@pytest.mark.parametrize("kind", some(["degrees", "scattered"], {"scattered"}))
def test_operators_keep_the_rules_of_torch(backend: str, kind: str) -> None:
    mask, operators = _mask(kind, 6, 5), torch.ops.made_fast
    for leading in ((3,), (0,), (2, 1, 3)):
        x, weight, bias = _inputs(*leading)
        opcheck(operators.masked_linear.default, (x, weight, mask, bias, "relu", backend))
    opcheck(operators.masked_linear.default, (x[0, 0].detach(), weight, mask, None, "identity", backend))
    opcheck(operators.masked_linear.default, (x.detach(), weight.detach(), mask, bias.detach(), "gelu", backend))
    upstream = torch.randn(6, 7, requires_grad=True).T
    x, weight, _ = _inputs(7)
    opcheck(operators.masked_linear_grad_input.default, (upstream, weight, mask, backend))
    opcheck(operators.masked_linear_grad_weight.default, (upstream, x, mask, backend))
    turned = weight.detach().T.contiguous().T.requires_grad_()
    opcheck(operators.masked_linear.default, (x, turned, mask, None, "sigmoid", backend))


def test_exported_models() -> None:
    model, x = _model(order="random", direct=True), _binary(4, 9)
    for shapes in (None, ({0: torch.export.Dim.DYNAMIC},)):
        program = torch.export.export(model, (x,), dynamic_shapes=shapes)
        file = io.BytesIO()
        torch.export.save(program, file)
        file.seek(0)
        loaded = torch.export.load(file).module()
        for rows in (4,) if shapes is None else (4, 1, 50):
            other = _binary(rows, 9)
            torch.testing.assert_close(loaded(other), model(other))
        if shapes is None:
            with pytest.raises((AssertionError, RuntimeError), match=r"shape|Guard"):
                loaded(_binary(5, 9))
    weights = {name for name, _ in program.named_parameters()}  # torch 2.6 has them in another order
    assert weights == {name for name, _ in model.named_parameters()}


@anywhere
@every_mask
def test_shapes_without_memory(backend: str, kind: str) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        inputs, mask = _inputs(3, 2), torch.empty_like(_mask(kind, 6, 5))
        y = masked_linear(inputs[0], inputs[1], mask, inputs[2], activation="elu", backend=backend)
        grads = torch.autograd.grad(y.sum(), inputs)
    assert (y.shape, y.dtype, y.device.type) == ((3, 2, 6), torch.float32, "cpu")
    assert [each.shape for each in grads] == [each.shape for each in inputs]
    if backend in ("auto", "reference"):  # any device
        x, weight, bias = (each.detach().to("meta").requires_grad_() for each in _inputs(3, 2))
        y = masked_linear(x, weight, _mask(kind, 6, 5).to("meta"), bias, activation="elu", backend=backend)
        assert (y.shape, y.dtype, y.device.type) == ((3, 2, 6), torch.float32, "meta")
        assert torch.autograd.grad(y.sum(), weight)[0].shape == weight.shape


class _Watch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@anywhere
@every_mask
def test_modes_that_watch_or_redirect(backend: str, kind: str) -> None:
    inputs, mask = _inputs(3), _mask(kind, 6, 5)
    expected = _dense(inputs[0], inputs[1], mask, inputs[2], "tanh")
    wanted = torch.autograd.grad(expected.sum(), inputs)
    for mode in (_Watch(), FlopCounterMode(display=False), torch.device("meta")):
        with mode:
            y = masked_linear(inputs[0], inputs[1], mask.clone(), inputs[2], activation="tanh", backend=backend)
            found = torch.autograd.grad(y, inputs, expected.new_ones(expected.shape, device="cpu"))
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(found, wanted)
        assert not isinstance(mode, _Watch) or mode.seen


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_that_of_a_linear_layer(backend: str, dtype: torch.dtype) -> None:
    inputs, mask = _inputs(12, rows=20, columns=20), _mask("scattered", 20, 20)
    with torch.no_grad():
        inputs[1].masked_fill_(~mask, torch.nan)
    with torch.autocast("cpu", dtype=dtype):
        y = masked_linear(inputs[0], inputs[1], mask, inputs[2], activation="gelu", backend=backend)
        expected = _dense(inputs[0], inputs[1], mask, inputs[2], "gelu")
        if backend in ("auto", "reference"):
            again = masked_linear(y, inputs[1], mask, inputs[2], backend=backend)
            assert again.dtype == F.linear(expected, inputs[1].nan_to_num()).dtype
            assert again.isfinite().all()
        with torch.autocast("cpu", enabled=False):
            assert masked_linear(inputs[0], inputs[1], mask, backend=backend).dtype == torch.float32
    assert y.dtype == expected.dtype == dtype
    torch.testing.assert_close(y, expected)
    found, wanted = (torch.autograd.grad(each.float().square().sum(), inputs) for each in (y, expected))
    assert all(each.dtype == torch.float32 for each in found)
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.5)
    assert (found[1][~mask] == 0).all()


@pytest.mark.parametrize("backend", ["auto", "reference"])
@every_mask
def test_function_transforms(backend: str, kind: str) -> None:
    x, weight, bias = (each.detach() for each in _inputs(4, dtype=torch.float64))
    mask, xs, weights = _mask(kind, 6, 5), torch.randn(3, 4, 5).double(), torch.randn(3, 6, 5).double()

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        return masked_linear(x, weight, mask, bias, activation="softplus", backend=backend)

    def plain(x: Tensor, weight: Tensor) -> Tensor:
        return _dense(x, weight, mask, bias, "softplus")

    turned = xs.movedim(0, 1), weights.movedim(0, 2)
    cases: list[tuple[Any, tuple[Tensor, Tensor]]]
    cases = [((0, None), (xs, weight)), ((None, 0), (x, weights)), ((0, 0), (xs, weights)), ((1, 2), turned)]
    for axes, given in cases:
        torch.testing.assert_close(vmap(ours, axes)(*given), vmap(plain, axes)(*given))
    for place in (0, 1):
        torch.testing.assert_close(jacrev(ours, place)(x, weight), jacrev(plain, place)(x, weight))
        one, other = (grad(lambda *given, f=f: f(*given).square().sum(), place) for f in (ours, plain))
        torch.testing.assert_close(one(x, weight), other(x, weight))
        torch.testing.assert_close(jacrev(one, 1 - place)(x, weight), jacrev(other, 1 - place)(x, weight))
        torch.testing.assert_close(vmap(one, (0, None))(xs, weight), vmap(other, (0, None))(xs, weight))


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name not in ("auto", "reference")])
def test_a_named_backend_says_that_it_cannot_serve(backend: str) -> None:
    """Rather than to let another one serve in its place."""
    x, weight, _ = (each.detach() for each in _inputs(4))
    mask = _mask("nested", 6, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ValueError, match=rf"{backend}.* autocast is on"):
        masked_linear(x, weight, mask, backend=backend)
    with pytest.raises(ValueError, match=rf"backend '{backend}' cannot be used: .*torch\.func"):
        vmap(lambda row: masked_linear(row, weight, mask, backend=backend))(x)
    with forward_ad.dual_level(), pytest.raises(ValueError, match=rf"backend '{backend}' cannot be used: forward"):
        masked_linear(forward_ad.make_dual(x, x), weight, mask, backend=backend)


def test_ensembles_with_masks_of_their_own() -> None:
    models, x = [_model(order="random", seed=seed) for seed in range(3)], _binary(5, 9)
    weights, buffers = stack_module_state(models)  # type: ignore[arg-type]
    found = vmap(lambda *state: functional_call(models[0], state, (x,)))(weights, buffers)
    torch.testing.assert_close(found, torch.stack([model(x) for model in models]))


@pytest.mark.parametrize("method", ["forward", "log_prob"])
def test_gradients_of_each_sample(method: str) -> None:
    model, x = _model(), _binary(5, 9)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}

    class Scalar(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, row: Tensor) -> Tensor:
            return getattr(self.model, method)(row).sum()  # type: ignore[no-any-return]

    inside = {f"model.{name}": weight for name, weight in weights.items()}
    found = vmap(grad(lambda state, row: functional_call(Scalar(), state, (row,))), (None, 0))(inside, x)
    for index, row in enumerate(x):
        expected = torch.autograd.grad(Scalar()(row), tuple(model.parameters()))
        torch.testing.assert_close(tuple(each[index] for each in found.values()), expected)


def test_threads_that_call_together() -> None:
    def work(seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        results: list[Tensor] = []
        for size in (20, 150, 200):
            x, weight = (torch.randn(size, size, generator=generator).requires_grad_() for _ in range(2))
            for mask in (torch.rand(size, size, generator=generator) < 0.5, torch.arange(2 * size) % (3 + seed)):
                for backend in BACKENDS:
                    y = masked_linear(x, weight, mask, activation="tanh", backend=backend)
                    results.extend((y.detach(), *torch.autograd.grad(y.sum(), (x, weight))))
        return results

    expected = [work(seed) for seed in range(4)]
    with ThreadPoolExecutor(2) as threads:
        for found, alone in zip(threads.map(work, [0, 1, 2, 3] * 3), expected * 3, strict=True):
            torch.testing.assert_close(found, alone)


@pytest.mark.skipif(not HAS_CPP, reason="the compiled module is not installed")
@every_mask
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_number_of_threads_changes_no_bit(
    set_threads: Callable[[int], None], kind: str, dtype: torch.dtype
) -> None:
    for rows, columns, batch in ((300, 200, 257), (7, 500, 64), (500, 7, 1), (129, 65, 1000)):
        x, weight, bias = _inputs(batch, rows=rows, columns=columns, dtype=dtype)
        mask = _mask(kind, rows, columns)
        results: list[list[Tensor]] = []
        for threads in (1, 2, 3, 1):
            set_threads(threads)
            y = masked_linear(x, weight, mask, bias, activation="relu", backend="cpp")
            results.append([y, *torch.autograd.grad(y.square().sum(), (x, weight))])
        for result in results[1:]:
            assert all(map(torch.equal, result, results[0]))

"""What every test file may ask for: models with every option, and every way to draw from a program.

A test that takes ``options`` runs once for every row of ``OPTIONS``; a test that takes ``engine`` runs once for every
usable backend, device, instruction set and path, so that a new backend is tested without a new line here.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from drawing import draw_piece
from torch import Tensor

from made_fast import MADE, backends
from made_fast.programs.program import Affine, Op, Program, Term
from made_fast.programs.schedule import build_schedule

if backends._TRITON_INTERPRETED:
    # Triton's interpreter multiplies by BLAS, which on some processors rounds a row by its place in the tile; a GPU does not.
    from triton.runtime import interpreter

    def _dot(self: Any, a: Any, b: Any, d: Any, *_: Any) -> Any:
        product = np.einsum("...ij,...jk->...ik", a.data, b.data, dtype=d.data.dtype)
        return interpreter.TensorHandle(product + d.data, d.dtype.scalar)

    interpreter.InterpreterBuilder.create_dot = _dot

FEATURES = 9  # 2**9 states can be enumerated; a 3 x 3 image for the image orders
ACTIVATIONS = ("relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "tanh", "sigmoid")

OPTIONS: dict[str, dict[str, Any]] = {
    "natural": {"hidden_features": (24, 16)},
    "reversed": {"hidden_features": (20,), "order": "reversed"},
    "random": {"hidden_features": (20, 20), "order": "random", "seed": 3},
    "raster": {"hidden_features": (16,), "order": "raster"},
    "columns": {"hidden_features": (16,), "order": "columns"},
    "explicit": {"hidden_features": (17, 19), "order": (4, 0, 8, 2, 6, 1, 7, 3, 5)},
    "deep": {"hidden_features": (16, 24, 16)},
    "narrow": {"hidden_features": (3,), "order": "random"},
    "narrow_deep": {"hidden_features": (4, 2, 5)},
    "one_unit": {"hidden_features": (1,)},
    "biases": {"hidden_features": ()},
    "belief_network": {"hidden_features": (), "direct": True, "order": "random"},
    "direct": {"hidden_features": (12,), "direct": True},
    "direct_deep": {"hidden_features": (12, 12, 12), "direct": True, "order": "reversed"},
    "residual": {"hidden_features": (16, 16, 16), "residual": True},
    "residual_narrow": {"hidden_features": (4, 4), "residual": True, "order": "random"},
    "context": {"hidden_features": (20, 20), "context_features": 3},
    "context_narrow": {"hidden_features": (4,), "context_features": 2},
    "context_biases": {"hidden_features": (), "context_features": 2},
    "context_belief_network": {"hidden_features": (), "context_features": 2, "direct": True},
    "residual_direct_context": {"hidden_features": (16, 16), "residual": True, "direct": True, "context_features": 3},
    "random_degrees": {"hidden_features": (24, 24), "degrees": "random", "seed": 5},
    "random_degrees_context": {"hidden_features": (24, 24), "degrees": "random", "context_features": 2},
    "random_degrees_residual": {"hidden_features": (24, 24), "degrees": "random", "residual": True, "order": "random"},
    **{name: {"hidden_features": (16, 16), "activation": name, "direct": True} for name in ACTIVATIONS},
}


@dataclass(frozen=True)
class Engine:
    """One way to draw: a backend, a device, and what only that backend can be told."""

    backend: backends.Backend
    device: str = "cpu"
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def compiled(self) -> bool:
        """Whether rows must agree bit for bit, whatever the rows beside them."""
        return self.backend.name != "reference"

    def pack(self, program: Program) -> object:
        if self.backend.dtypes and program.dtype not in self.backend.dtypes:
            pytest.skip(f"{self.backend.name} has no {program.dtype}")
        program = _moved(program, self.device)
        return backends.load(self.backend).pack(program, build_schedule(program))

    def draw(
        self, program: Program, num_rows: int, *, seed: int, packed: object = None, **arguments: Any
    ) -> tuple[Tensor, Tensor]:
        """Draws into poisoned memory: rows and their log-probabilities, on the CPU."""
        packed = self.pack(program) if packed is None else packed
        out = torch.full((num_rows, program.features), torch.nan, dtype=program.dtype, device=self.device)
        log_prob = torch.full((num_rows,), torch.nan, dtype=program.dtype, device=self.device)
        arguments = {"first_row": 0, **self.extra, **arguments}
        for name in ("context", "rows"):
            if arguments.get(name) is not None:
                arguments[name] = arguments[name].to(self.device)
        draw_piece(backends.load(self.backend), packed, out, log_prob, seed=seed, **arguments)
        return out.cpu(), log_prob.cpu()


def _moved(program: Program, device: str) -> Program:
    def move(op: Op) -> Op:
        if not isinstance(op, Affine):
            return op
        terms = tuple(
            Term(term.source, term.weight.to(device), None if term.mask is None else term.mask.to(device))
            for term in op.terms
        )
        return Affine(terms, None if op.bias is None else op.bias.to(device))

    return replace(program, ops=tuple(map(move, program.ops)), order=program.order.to(device))


def _engines() -> dict[str, Engine]:
    """Every usable backend on every device it serves; each instruction set and path of the compiled one."""
    found = {}
    present = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    for backend in backends.BACKENDS:
        if backend.missing is not None:
            continue
        for device in backend.devices or present:
            if device not in present:
                continue
            if backend.name == "triton":
                for mode, rows in (("one", 64), ("many", 256)) if device == "cpu" else (("one", 32), ("many", 16)):
                    tile = backends.load(backend).Config.of(
                        4, 3, R=rows
                    )  # the interpreter takes as long for a small tile
                    found[f"triton-{device}-{mode}"] = Engine(
                        backend, device, {"mode": mode, "config": tile, "programs": 2}
                    )
                continue
            if backend.name != "cpp":
                found[f"{backend.name}-{device}"] = Engine(backend, device)
                continue
            for isa, rows in product(backends.load(backend).build_config()["instruction_sets"], (0, 1, 5)):
                path = {0: "chosen", 1: "rows", 5: "tiles"}[rows]
                found[f"cpp-{isa}-{path}"] = Engine(backend, device, {"isa": isa, "rows_at_once": rows})
    return found


ENGINES = _engines()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name, table in (("options", OPTIONS), ("engine", ENGINES)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, [_marked(value) for value in table.values()], ids=list(table))


def _marked(value: Any) -> Any:
    """What runs on a GPU is found by ``-m gpu`` as well."""
    on_gpu = isinstance(value, Engine) and value.device == "cuda"
    return pytest.param(value, marks=pytest.mark.gpu) if on_gpu else value


@pytest.fixture(scope="session")
def every_option() -> dict[str, dict[str, Any]]:
    """The table of options, for tests that need a few of them."""
    return OPTIONS


@pytest.fixture(scope="session")
def engines() -> dict[str, Engine]:
    """All engines by name, for tests that prepare much and draw little."""
    return ENGINES


@pytest.fixture(scope="session")
def build() -> Callable[..., MADE]:
    """``build(options, dtype, features=9)``: a model with these options and weights that make the variables depend."""

    def build(options: dict[str, Any], dtype: torch.dtype = torch.float64, *, features: int = FEATURES) -> MADE:
        model = MADE(features, **options)
        generator = torch.Generator().manual_seed(zlib.crc32(repr(sorted(options.items())).encode()))
        with torch.no_grad():
            for parameter in model.parameters():
                scale = 2.0 / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.5
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
        return model.to(dtype)

    return build


@pytest.fixture(scope="session")
def make_context() -> Callable[..., Tensor | None]:
    """``make_context(model, rows)``: (rows, C) contexts, or None for a model without."""

    def make(model: MADE, rows: int) -> Tensor | None:
        if not model.context_features:
            return None
        drawn = torch.randn(rows, model.context_features, generator=torch.Generator().manual_seed(rows))
        return drawn.to(next(model.parameters()))

    return make


@pytest.fixture(scope="session")
def all_states() -> Callable[..., Tensor]:
    """``all_states(D, dtype)``: all binary x, (2**D, D)."""

    def states(features: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return ((torch.arange(2**features)[:, None] >> torch.arange(features)) & 1).to(dtype)

    return states


@pytest.fixture(autouse=True)
def _reproducible(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same weights on every run, nothing chosen from outside, and one thread, enough for models this small."""
    for name in ("MADE_FAST_BACKEND", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def set_threads(_reproducible: None) -> Callable[[int], None]:
    """``torch.set_num_threads``, undone after the test."""
    return torch.set_num_threads

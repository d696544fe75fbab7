"""Every way to draw from a program: each usable backend on each device, every instruction set and path of the compiled one.

A test that takes ``engine`` runs once for each, so that a new backend is tested without a new line here.
"""

from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import pytest
import torch
from drawing import draw_piece
from torch import Tensor

from made_fast import backends, build_config
from made_fast.programs.program import Affine, Op, Program, Term
from made_fast.programs.schedule import build_schedule


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


def marks_of(backend: str, device: str = "cpu") -> list[Any]:
    """Markers of tests of a backend: kernels for GPUs run on one, or in Triton's interpreter in a process of its own."""
    if device == "cuda":
        return [pytest.mark.gpu]
    return [pytest.mark.triton, pytest.mark.interpreter] if backend == "triton" else []


def names_of(dtype: torch.dtype = torch.float32, *, all_of: bool = False, networks: bool = False) -> list[Any]:
    """Parameters: the backends that can be used on the CPU with this dtype, or whatever they are used on.

    With ``networks`` those that run whole networks.
    """
    needs = backends.Needs(torch.device("cpu"), dtype, networks=networks)
    return [
        pytest.param(row.name, marks=marks_of(row.name), id=row.name)
        for row in backends.BACKENDS
        if (row.missing is None if all_of else backends.why_not(row, needs) is None)
    ]


def network_engines() -> list[Any]:
    """Parameters: the backends that run whole networks, and cpp with each of its instruction sets."""
    isas = build_config().get("instruction_sets", [])
    return [*(f"cpp-{isa}" for isa in isas), *(each for each in names_of(networks=True) if each.id != "cpp")]

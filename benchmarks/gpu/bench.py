"""What the sections of the GPU benchmark share: the clock, the networks, and rows that may fail without stopping the rest."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from benchmarks.cases import Case
from benchmarks.contenders import Rotation
from benchmarks.gpu.clock import Clock
from benchmarks.report import Row
from made_fast import MADE
from made_fast.sampling import Sampler


class Fatal(Exception):
    """The device cannot be used any more."""


@dataclass
class Bench:
    """One run of the benchmark.

    Attributes:
        clock: with the device and the deadline.
        backend: name of the backend that is measured as ours.
        quick: tiny shapes, to see that the code runs.
        seconds: about how long the rounds of one row take.
        tables: rows by the name of their table.
        failures: what was wrong or could not be run, one line each; any makes the command fail.
        skipped: what was left out, and why.
        ceilings: what this machine reaches, by name.
        progress: is told the name of each row.
    """

    clock: Clock
    backend: str
    quick: bool
    seconds: float
    progress: Callable[[str], None] = lambda name: None
    tables: dict[str, list[Row]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    ceilings: dict[str, float] = field(default_factory=dict)
    networks: dict[tuple[int, int, int], tuple[MADE, Sampler]] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where everything runs."""
        return self.clock.device

    @property
    def cuda(self) -> bool:
        """Whether that is a GPU."""
        return self.device.type == "cuda"

    def network(self, case: Case) -> tuple[MADE, Sampler]:
        """The network of a case on the device, and its frozen sampler; made once for each shape."""
        if case.shape not in self.networks:
            model = case.model().to(self.device)
            self.networks[case.shape] = (model, model.sampler())
        return self.networks[case.shape]

    def seeds(self) -> Rotation:
        """Seeds of which no two calls in a row get the same."""
        return Rotation(list(range(100, 108)))

    def add(self, table: str, name: str, measure: Callable[[], Row], *, needs: float = 1.0) -> None:
        """Measures a row, unless less time is left than it needs; what fails is written down and the rest goes on.

        Raises:
            Fatal: after an error from which a device does not recover.
        """
        if self.clock.left < needs:
            self.skipped.append(f"{table}, {name}: the time was up")
            return
        self.progress(f"{table}: {name}")
        try:
            row = measure()
        except Exception as error:  # one row must not cost the others: nobody may be there to start again
            traceback.print_exc()
            said = (str(error).strip() or "no message").splitlines()[0][:200]
            self.failures.append(f"{table}, {name}: {type(error).__name__}: {said}")
            if "CUDA error" in str(error) or "illegal memory access" in str(error):
                raise Fatal(said) from error
            if self.cuda:
                torch.cuda.empty_cache()
        else:
            self.tables.setdefault(table, []).append({"case": name, **row})

"""What engines share: the question whether they know all that a program is made of, and the face of whole networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor

from made_fast.programs.program import Program
from made_fast.programs.wiring import HEADS_WITH_Z, Wiring

__all__ = ["ReadyNetwork", "ReadyNetworks", "check_function", "check_program", "new_results"]

_CHAINS_KEPT = 8


def check_function(backend: str, name: str, functions: Collection[str]) -> None:
    """Raises ValueError unless a function, by its name, is one of ``functions``."""
    if name not in functions:
        raise ValueError(f"the {backend} backend has no function {name!r}, only {', '.join(functions)}")


def check_program(backend: str, program: Program, functions: Collection[str], codes: Collection[int]) -> None:
    """Raises ValueError unless an engine has all that a program is made of.

    Args:
        backend: its name, for the message.
        program: what is to be packed.
        functions: names of those that the engine applies to units.
        codes: of the conditionals that it draws.
    """
    for name in sorted(program.functions):
        check_function(backend, name, functions)
    for conditional in program.conditionals:
        if conditional.code not in codes:
            known = ", ".join(type(conditional.code)(code).name.lower() for code in codes)
            raise ValueError(f"the {backend} backend has no output {conditional.name!r}, only {known}")


def new_results(head: str, wiring: Wiring, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """What ``ReadyNetworks.forward`` gives of a head, before it is written.

    Args:
        head: of ``HEADS``.
        wiring: of the last network.
        x: (B, D); the results are of its dtype.

    Returns:
        (B, P), or z (B, D), or None; the total (B,) or None.
    """
    batch = x.shape[0]
    if head == "parameters":
        return x.new_empty(batch, wiring.wires[-1].width), None
    return x.new_empty(batch, wiring.features) if head in HEADS_WITH_Z else None, x.new_empty(batch)


class ReadyNetwork(ABC):
    """A network made ready by an engine: its operations and masks, but no weights.

    Args:
        key: what tells it from others and does not hold it.

    Attributes:
        macs: multiply-adds of a forward pass of one row.
    """

    macs: int

    def __init__(self, key: object) -> None:
        self._key = key
        self._chains: dict[tuple[object, ...], Any] = {}

    def one_after_another(self, networks: Sequence[Any]) -> Any:
        """Several of them as one ``ReadyNetworks``, of which this is the first; a few are kept as long as it is."""
        keys = tuple([each._key for each in networks])  # not the networks: they would hold one another
        found = self._chains.get(keys)
        if found is None:
            if len(self._chains) >= _CHAINS_KEPT:
                self._chains.clear()
            found = self._chains[keys] = self._chained(networks)
        return found

    @abstractmethod
    def _chained(self, networks: Sequence[Any]) -> ReadyNetworks:
        """Networks one after another, each reading the z of the one before; of the same D and C, 64 at most."""


class ReadyNetworks(ABC):
    """Networks one after another."""

    @abstractmethod
    def forward(
        self,
        head: str,
        floor: float,
        reads: Sequence[Tensor | None],
        x: Tensor,
        context: Tensor | None,
        weights: Sequence[int],
        keep: bool,
        finite: bool = False,
    ) -> tuple[Tensor | None, Tensor | None, Tensor] | None:
        """Results of a head, and the values of all units.

        Args:
            head: of ``HEADS``; of several networks one that makes z, or ``"flow"``.
            floor: of scales.
            reads: for each network, int64 (D,) contiguous: which variable of the z before it is its i-th; None: the i-th.
            x, context: (B, D) and (B, C) or None; contiguous, fp32 or fp64, B of 1 or more.
            weights: addresses of those of all networks, contiguous, of the same dtype.
            keep: whether the values are wanted; else their memory is bounded whatever B.
            finite: whether it gives up where a number is not finite.

        Returns:
            (B, P), or z (B, D), or None; the total (B,) of a head or None; and the values. Or None: it has given up.
        """

    @abstractmethod
    def backward(
        self,
        head: str,
        floor: float,
        reads: Sequence[Tensor | None],
        batch: int,
        weights: Sequence[int],
        values: Tensor,
        grads: tuple[Tensor | None, Tensor | None],
        into: tuple[Tensor | None, Tensor | None],
        into_weights: Sequence[Tensor | None],
        finite: bool = False,
    ) -> bool:
        """Writes the gradients of x, context and the weights.

        Args:
            head, floor, reads, weights: as before.
            batch: B.
            values: from ``forward``, kept.
            grads: those of both results, contiguous, or None.
            into: (B, D) and (B, C), contiguous, or None where they are not wanted.
            into_weights: of the shapes of the weights, contiguous, or None.
            finite: whether it gives up where a gradient that is given, or made by it, is not finite.

        Returns:
            Whether it has not given up.
        """

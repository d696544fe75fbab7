"""Which variable depends on which, by the masks of a program."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from made_fast.programs.program import Affine, Op, Program

__all__ = ["closure_of", "dependencies", "masks_of", "reaches", "reads", "ring_message"]

BoolArray = NDArray[np.bool_]


def masks_of(program: Program) -> list[list[BoolArray]]:
    """For each operation the bool masks (n, m) of an affine one's terms; nothing for the others, which go unit by unit."""
    return [_masks_of(op) for op in program.ops]


def _masks_of(op: Op) -> list[BoolArray]:
    if not isinstance(op, Affine):
        return []
    return [
        np.ones(tuple(term.weight.shape), dtype=bool) if term.mask is None else term.mask.cpu().numpy()
        for term in op.terms
    ]


def reads(program: Program) -> BoolArray:
    """Which variables each parameter depends on, by the masks: bool (P, D)."""
    return reaches(program)[-1]


def reaches(program: Program) -> list[BoolArray]:
    """For each value of a program, which variables each of its units depends on, by the masks: bool (n, D)."""
    features = program.features
    variables = np.repeat(np.eye(features, dtype=np.float32), program.input_units, axis=0)  # (E, D)
    reach = [variables, np.zeros((program.context_features, features), dtype=np.float32)]
    for op, masks in zip(program.ops, masks_of(program), strict=True):
        sources = [reach[source] for source in op.sources]
        parts = [mask @ part for mask, part in zip(masks, sources, strict=True)] if masks else sources
        reach.append((sum(parts[1:], parts[0]) > 0).astype(np.float32))  # (n, D)
    return [each > 0 for each in reach]


def dependencies(program: Program) -> BoolArray:
    """Which variables the parameters of each variable depend on, by the masks: bool (D, D), row reads column."""
    features = program.features
    found = np.zeros((features, features), dtype=np.bool_)
    np.logical_or.at(found, np.repeat(np.arange(features), program.params_per_variable), reads(program))
    return found


def closure_of(seen: BoolArray) -> BoolArray:
    """Which variables depend on which, directly or by way of others, from what (D, D) they read."""
    closure = seen.astype(np.float32)
    for _ in range(len(seen).bit_length()):
        closure = (closure + closure @ closure > 0).astype(np.float32)
    return closure > 0


def ring_message(program: Program) -> str:
    """Names the variables that depend on themselves, and not those that merely wait for them."""
    ring = np.flatnonzero(closure_of(dependencies(program)).diagonal())
    shown = ", ".join(map(str, ring[:8])) + (", ..." if len(ring) > 8 else "")
    return (
        f"the network is not autoregressive: variables {shown} depend on themselves, alone or in a ring; "
        f"check the masks (parameters of a variable may only read variables drawn before it)"
    )

"""What the networks of every backend refuse: operations, masks and calls that do not fit, before memory is read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engines import names_of

from made_fast import backends
from made_fast.programs.schedule import Kind
from made_fast.programs.wiring import Wire, Wiring


@pytest.fixture(params=names_of(networks=True))
def networks(request: pytest.FixtureRequest) -> Any:
    """The module of a backend that runs whole networks."""
    return backends.load(next(row for row in backends.BACKENDS if row.name == request.param))


AFFINE = Wire(Kind.AFFINE, 3, terms=((0, 0),), bias=1)
WRONG: dict[str, tuple[Wire, ...]] = {
    "a network must have 1 to 126 operations": (),
    "must be one of the weights": (AFFINE._replace(bias=3),),
    "a weight must fit its operation": (AFFINE._replace(width=4),),
    "columns of a weight must be those of its source": (AFFINE._replace(terms=((1, 0),)),),
    "must have 1 to 8 terms": (AFFINE._replace(terms=()),),
    "left must fit": (AFFINE, Wire(Kind.UNARY, 3, 3)),
    "right must fit": (AFFINE, Wire(Kind.ADD, 3, 2, 7)),
    "an operation is unknown": (AFFINE, Wire(Kind.DRAW, 3, 2)),
    "widths must be positive": (AFFINE, Wire(Kind.UNARY, 0, 2)),
    "only affine operations have terms": (AFFINE, Wire(Kind.UNARY, 3, 2, terms=((0, 0),))),
    "a weight must be used once": (AFFINE._replace(bias=0),),
    "every value must be read": (AFFINE, AFFINE._replace(terms=((0, 2),), bias=-1)),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_network_that_does_not_fit_is_refused(message: str, networks: Any) -> None:
    masks = {0: torch.ones(3, 4, dtype=torch.bool)}
    assert networks.Network(Wiring(4, 0, 2, (AFFINE,)), masks).macs >= 12
    if not WRONG[message]:
        with pytest.raises(ValueError, match=message):
            networks.Network(Wiring(4, 0, 2, ()), {})
        return
    with pytest.raises(ValueError, match=message):
        networks.Network(Wiring(4, 0, 3, WRONG[message]), {**masks, 2: masks[0]})


def test_calls_of_networks_that_do_not_fit_are_refused(networks: Any) -> None:
    def network(features: int = 4, width: int = 3) -> Any:
        mask = torch.ones(width, features, dtype=torch.bool)
        return networks.Network(Wiring(features, 0, 2, (AFFINE._replace(width=width),)), {0: mask})

    ones = torch.ones(9, 9)

    def call(head: str, *several: Any, order: tuple[int, ...] = (0, 1, 2, 3)) -> None:
        weights = [ones.data_ptr()] * 2 * len(several)
        reads = [None, *[torch.tensor(order)] * (len(several) - 1)]
        networks.Networks(several).forward(head, 0.1, reads, torch.ones(1, 9), None, weights, keep=False)

    for message, head, several in (
        ("there must be 1 to 64 networks", "affine", [network(4, 8)] * 65),
        ("of the same widths", "affine", [network(4, 8), network(5, 10)]),
        ("must make affine transforms", "parameters", [network(4, 8)] * 2),
        ("must make what the head reads", "normal", [network(4, 7)]),
        ("must make what the head reads", "bernoulli", [network(4, 8)]),
        ("must make what the head reads", "categorical", [network(4, 3)]),
        ("a head of categories must know them", "categorical", [network(4, 4)]),
        ("must make what the head reads", "softclip_scale", [network(4, 7)]),
        ("must make what the head reads", "softplus_scale", [network(4, 10)]),
    ):
        with pytest.raises(ValueError, match=message):
            call(head, *several)
    for order in ((0, 1, 2, 2), (0, 1, 2, 4), (-1, 1, 2, 3)):
        with pytest.raises(ValueError, match="must be a permutation"):
            call("affine", network(4, 8), network(4, 8), order=order)
    with pytest.raises(ValueError, match="of the first none"):
        networks.Networks([network(4, 8)]).forward(
            "affine", 0.1, [torch.arange(4)], torch.ones(1, 4), None, [ones.data_ptr()] * 2, False
        )
    with pytest.raises(ValueError, match="weights must be as many"):
        networks.Networks([network()]).forward(
            "parameters", 0.0, [None], torch.ones(1, 4), None, [ones.data_ptr()], False
        )
    for message, categories in (("variables must have categories", (4, 0)), ("a unit for each category", (2, 3))):
        with pytest.raises(ValueError, match=message):
            networks.Network(Wiring(4, 0, 2, (AFFINE,), categories), {0: torch.ones(3, 4, dtype=torch.bool)})

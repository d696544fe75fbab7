"""What is said of flows that cannot be made quicker: why not, what is known, and which of their networks can be."""

from __future__ import annotations

import time
from typing import Any

from torch import nn

from made_fast.capture.captured import capture, first_width

__all__ = ["KNOWN", "looks_like_a_flow", "unknown", "why_nothing"]

KNOWN = "nflows, normflows, zuko, pyro, sbi, torchflows, denmarf, deeprob-kit and flowtorch"

_SECONDS = 3.0  # for the search of networks in a flow that is not known
_DENSITIES, _DRAWS, _INVERSES = ("log_prob", "log_probs"), ("sample", "rsample"), ("inverse", "inv")

# Why there is nothing to do, by what the name of a class has in it.
_REASONS = {
    "MADEEstimator": "it is a MADE of ours, which the engine draws already",
    "MixtureOfGaussiansMADE": (
        "its MADE is a distribution, which the library draws one variable at a time, and no transform with an inverse; "
        '"maf" and "zuko_maf" of sbi are served'
    ),
    "MixtureDensity": "a mixture density network draws in one pass, so that nothing is slow",
    "GaussianMDN": "a mixture density network draws in one pass, so that nothing is slow",
    "AllInOneBlock": "its couplings are quick in both directions, so that nothing is slow",
    "Coupling": "its couplings are quick in both directions, so that nothing is slow",
    "FreeFormJacobian": "it is the solution of a differential equation",
    "ODE": "it is the solution of a differential equation",
}


def why_nothing(modules: list[nn.Module]) -> str:
    """Why a flow made of these modules has nothing that could be made quicker, after a colon; empty if that is not known."""
    names = [type(each).__name__ for top in modules for each in top.modules()]
    return next((f": {reason}" for part, reason in _REASONS.items() if any(part in name for name in names)), "")


def looks_like_a_flow(module: nn.Module) -> bool:
    """Whether it has the methods of one; networks of our own and of others may have them too."""

    def has(names: tuple[str, ...]) -> bool:
        return any(callable(getattr(type(module), name, None)) for name in names)

    return has(_INVERSES) or (has(_DENSITIES) and has(_DRAWS))


def unknown(flow: nn.Module, reason: str) -> str:
    """What is said of a flow of a library that is not known.

    Args:
        flow: which could not be read as a network either.
        reason: why not.
    """
    kind = type(flow)
    library = kind.__module__.partition(".")[0]
    whose = "your own" if library == "__main__" else library
    networks = _networks_in(flow)
    if networks:
        some = "these networks in it can be accelerated, with output= for what their parameters mean: " + ", ".join(
            networks
        )
    else:
        some = (
            "no network in it is taken by itself: say by call= how one is called, or put it into a flow that is known"
        )
    return (
        f"flow must be of a library that is known, {KNOWN}, got {kind.__name__} of {whose}; {some}. Read as a network it "
        f"was refused: {reason}"
    )


def _networks_in(flow: nn.Module) -> list[str]:
    """Names and classes of the outermost modules that are autoregressive networks, as far as they are found in time."""
    end, found, inside = time.monotonic() + _SECONDS, [], set[int]()
    for name, module in flow.named_modules():
        if time.monotonic() > end:
            break
        if not name or id(module) in inside or not _may_be_network(module):
            continue
        if _is_read(module):
            found.append(f"{name} ({type(module).__name__})")
            inside |= {id(each) for each in module.modules()}
    return found


def _may_be_network(module: nn.Module) -> bool:
    return bool(module._modules) and "forward" in dir(type(module)) and first_width(module) > 1


def _is_read(module: Any) -> bool:
    try:
        capture(module, first_width(module), hurry=True)
    except ValueError:
        return False
    return True

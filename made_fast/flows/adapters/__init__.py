"""Flows of other libraries: inverted in levels instead of D passes, networks in one call. Nothing is imported from them."""

from __future__ import annotations

import copy
from types import ModuleType
from typing import Any

from torch import nn

from made_fast.flows.adapters import affine, nflows, pyro, zuko
from made_fast.flows.adapters.networks import kind_of
from made_fast.flows.adapters.refusals import KNOWN, why_nothing
from made_fast.flows.adapters.solving import Inverter
from made_fast.sampling.kept import check_stale

__all__ = ["accelerate_flow", "inverters", "is_flow"]

ADAPTERS: tuple[ModuleType, ...] = (nflows, zuko, pyro, affine)

# Where classes of flows are defined, and those that they derive from; the networks in them are defined elsewhere.
_FLOWS = (
    *("nflows.flows.", "nflows.transforms.base", "normflows.core", "normflows.flows."),
    *("zuko.flows.", "zuko.lazy", "pyro.distributions."),
    *("sbi.neural_nets.estimators.", "sbi.neural_nets.density_estimators."),
    *("FrEIA.framework.", "FrEIA.modules."),  # of which all are quick in both directions
)
# Of zuko, where variables do not depend on one another, as in flows of a single variable: nothing is slow.
_OF_EACH_ALONE = "zuko.flows.gaussianization.ElementWiseTransform"


def is_flow(thing: Any) -> bool:
    """Whether it is something for ``accelerate_flow``, by attributes and by the names of classes; nothing is imported."""
    if not isinstance(thing, nn.Module):
        return _parts_of(thing) is not None
    kinds = [kind.__module__ for kind in type(thing).__mro__]
    return any(kind.startswith(_FLOWS) for kind in kinds) or any(map(_adapter_of, thing.modules()))


def accelerate_flow(flow: Any, *, stale: str = "refresh", check: bool = True) -> Any:
    """Returns the same flow with the slow direction of its autoregressive transforms in levels, their networks in one call.

    It shares all parameters with the original, which is not changed, and has the same class, methods and signatures: base
    distributions, embedding networks, couplings and batch normalisation are the library's own.

    The slow direction of autoregressive transforms is replaced: affine ones by the compiled engine, others by the library's
    own elementwise inverse, called once for each level on the variables of that level. Gradients are those of the implicit
    function (first derivatives).

    In the quick direction, that of training, a masked network is one native call forward and one backward, with the
    parameters as they are at that moment; of zuko and nflows so are affine transforms one after another, with their
    log-determinants, and ``training.backward`` takes a step of such a flow in one call. Whatever the engine does not do as
    the library does runs as the library has it: other layers and functions, hooks, pruned and parametrized layers, dropout,
    batch normalisation, compilers, transforms, forward mode, autocast, other devices and dtypes, numbers that are not finite.
    Derivatives of any order.

    Args:
        flow: a flow, a transform, or any module that has such transforms in it, of nflows, normflows, zuko, pyro,
            torchflows, denmarf and other copies of pytorch-flows, deeprob-kit or flowtorch; or a distribution of pyro with
            such transforms.
        stale: what happens when parameters have changed: ``"refresh"`` reads the transform again, ``"exact"`` too
            and compares all numbers each time (see ``Kept``), ``"raise"`` raises
            RuntimeError, ``"keep"`` compares nothing and draws from the old ones.
        check: whether each transform is checked in fp64 against the library's own quick direction whenever it is read.

    Returns:
        the flow itself where its transforms act on each variable alone, as those of zuko for a single variable.

    Raises:
        ValueError: it has no autoregressive transform that is known here, or a network cannot be read; the message
            says which and why.
    """
    check_stale(stale)
    done: dict[int, nn.Module] = {}
    options = {"stale": stale, "check": check}
    parts = _parts_of(flow)
    if isinstance(flow, nn.Module):
        accelerated: Any = _replaced(flow, done, options)
    elif parts is not None:
        accelerated = object.__new__(type(flow))  # copy.copy of a posterior would have the attributes of the original
        vars(accelerated).update(vars(flow))
        for name, part in parts.items():
            fresh = [_replaced(each, done, options) if isinstance(each, nn.Module) else each for each in _listed(part)]
            setattr(accelerated, name, fresh if isinstance(part, list) else fresh[0])
    else:
        raise ValueError(
            "flow must be a torch module, a distribution with transforms or a posterior with a posterior_estimator, got "
            f"{type(flow).__name__}"
        )
    if not inverters(accelerated):
        inside = _modules_of(flow)
        if any(kind_of(each) == _OF_EACH_ALONE for top in inside for each in top.modules()):
            return flow
        raise ValueError(
            f"flow must have an autoregressive transform of a library that is known, {KNOWN}, found none in "
            f"{type(flow).__name__}{why_nothing(inside)}"
        )
    for inverter in inverters(accelerated):
        inverter.prepare()
    return accelerated


def inverters(flow: Any) -> list[Inverter]:
    """The inverters of an accelerated flow: how each transform is inverted, in how many levels, how exactly."""
    found = [module.__dict__.get("_inverter") for top in _modules_of(flow) for module in top.modules()]
    return list({id(each): each for each in found if each is not None}.values())


def _modules_of(flow: Any) -> list[nn.Module]:
    """The modules that a flow consists of, be it one itself or not."""
    parts = {"": flow} if isinstance(flow, nn.Module) else _parts_of(flow) or {}
    return [each for part in parts.values() for each in _listed(part) if isinstance(each, nn.Module)]


def _parts_of(thing: Any) -> dict[str, Any] | None:
    """The attributes with the modules of what is no module itself, a distribution or a posterior of sbi; None for others."""
    transforms, estimator = getattr(thing, "transforms", None), getattr(thing, "posterior_estimator", None)
    if isinstance(transforms, list):
        return {"transforms": transforms}
    return {"posterior_estimator": estimator} if isinstance(estimator, nn.Module) else None


def _listed(part: Any) -> list[Any]:
    return part if isinstance(part, list) else [part]


def _adapter_of(module: nn.Module) -> ModuleType | None:
    return next((each for each in ADAPTERS if each.recognises(module)), None)


def _replaced(module: nn.Module, done: dict[int, nn.Module], options: dict[str, Any]) -> nn.Module:
    """The module itself, or a copy in which transforms are replaced; parameters are shared."""
    if id(module) in done:
        return done[id(module)]
    adapter = _adapter_of(module)
    if adapter is not None:
        known = module.__dict__.get("_inverter")  # of a flow that is accelerated already, maybe in another way
        replacement: nn.Module = adapter.levelled(module if known is None else known.module, **options)
    else:
        children = {
            name: None if child is None else _replaced(child, done, options) for name, child in module._modules.items()
        }
        replacement = module
        if any(children[name] is not module._modules[name] for name in children):
            replacement = copy.copy(module)
            replacement.__dict__["_modules"] = children
            for name, fresh in (("parts", list(children.values())), ("_inv", None), ("_cached_x_y", (None, None))):
                if name in module.__dict__:  # what torch's own transforms keep beside their modules
                    replacement.__dict__[name] = fresh
            for each in ADAPTERS:
                replacement = each.composed(replacement)
    done[id(module)] = replacement
    return replacement

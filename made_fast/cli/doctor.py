"""The command ``made-fast doctor``: what it takes to draw from a module, told from the module alone."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from functools import reduce
from pathlib import Path
from typing import Any

from made_fast.cli.models import read_model
from made_fast.cli.options import count, output_of, positive, say

__all__ = ["EXAMPLE", "TEXT", "add_options", "run"]

TEXT = "Explain what drawing from a module or a flow takes, or what serves an output."
EXAMPLE = """made-fast doctor mnist.safetensors
  made-fast doctor package.module:model --context-features 3
  made-fast doctor --output categorical:4"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``doctor``."""
    parser.add_argument(
        "module",
        metavar="MODULE",
        nargs="?",
        help="package.module:attribute, which is a module, a flow or a function that makes one; or a .safetensors file",
    )
    parser.add_argument(
        "--features", type=positive, metavar="D", help="variables; the first weight matrix tells if left out"
    )
    parser.add_argument("--context-features", type=count, default=0, metavar="C", help="width of the context")
    parser.add_argument(
        "--output",
        metavar="NAME",
        help="what the parameters mean, if the module reads one-hot categories; without MODULE: what serves this output",
    )
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Prints what was found; see the help of the command.

    Raises:
        ValueError: the module cannot be found, made or read; the message says why.
    """
    from made_fast.flows.adapters import is_flow
    from made_fast.models.made import MADE
    from made_fast.tables.table import Table

    if args.module is None:
        if args.output is None:
            args.usage_error("one of the arguments MODULE --output is required")
        _say_output(args.output)
        return 0
    module = read_model(Path(args.module)) if args.module.endswith(".safetensors") else _named(args.module)
    if isinstance(module, Table):
        say(f"{args.module}: a table\n{module.schema}")
        module = module.model
    if not (is_flow(module) or isinstance(module, MADE)):
        _say_module(module, args)
        return 0
    for name, given in (("--features", args.features), ("--context-features", args.context_features)):
        if given:
            raise ValueError(f"{name} must be left out for a {type(module).__name__}, which knows it")
    if args.output is not None:
        raise ValueError(f"--output must be left out for a {type(module).__name__}, which knows it")
    if isinstance(module, MADE):
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the report says the same
            say(str(module.check()))
    else:
        _say_flow(module)
    return 0


def _say_output(text: str) -> None:
    """What an output takes and can do, and for each backend whether it draws such variables here, or why not."""
    import torch

    from made_fast.backends import BACKENDS, why_not
    from made_fast.sampling.capabilities import METHODS, REQUESTS, able, claims
    from made_fast.sampling.sampler import needs_of

    output = output_of(text)
    conditional = output.conditionals(1)[0]
    able_to = [what for what in METHODS if able(what, conditional)]
    numbers = f"{conditional.num_params} parameters for each variable, values {conditional.expected}"
    say(f"{output}: {numbers}; {', '.join(able_to)}")
    needs = needs_of([conditional], device=torch.device("cpu"), dtype=torch.float32)
    for backend in BACKENDS:
        reason = why_not(backend, needs)
        asked = [what for what in REQUESTS if able(what, conditional) and claims(backend, [conditional], what)]
        here = f"no, {reason}; elsewhere" if reason else "yes,"
        say(f"  {backend.name:<9}  {here} with {', '.join(asked)}")


def _say_flow(flow: Any) -> None:
    from made_fast.flows.adapters import accelerate_flow, inverters

    say(f"{type(flow).__name__}: a flow whose slow direction takes one pass of the network for each variable")
    for number, inverter in enumerate(inverters(accelerate_flow(flow))):
        reason = f", since {' '.join(inverter.why.split())}" if inverter.why else ""
        size = f"{inverter.adapter.features} variables in {inverter.num_levels} sequential steps"
        say(f"  transform {number}, {type(inverter.module).__name__}: {size}, {inverter.how}{reason}")
        say(f"    led back to the noise by its own forward pass, it differs by {inverter.difference:.2g} in fp64")


def _say_module(module: Any, args: argparse.Namespace) -> None:
    from dataclasses import replace

    from torch import nn

    from made_fast.capture.captured import capture, first_width
    from made_fast.outputs.kinds import make_output
    from made_fast.outputs.point import PointConditional
    from made_fast.programs.schedule import build_schedule
    from made_fast.programs.summary import summary_of

    if not isinstance(module, nn.Module):
        raise ValueError(f"{args.module} must be a torch.nn.Module or a flow, got {type(module).__name__}")
    features = args.features or first_width(module) - args.context_features
    if features < 1:
        raise ValueError("--features must be given: the module has no weight matrix from which to take it")
    conditionals = () if args.output is None else output_of(args.output).conditionals(features)
    captured = capture(module, features, args.context_features, conditionals=conditionals)
    one_each = set(captured.params_per_variable) == {1}
    captured.check_parameters(conditionals or (make_output("bernoulli").conditionals(features) if one_each else ()))
    read = conditionals or tuple(PointConditional(size) for size in captured.params_per_variable)
    program = captured.program(read)
    summary = replace(summary_of(program, build_schedule(program)), dense_macs=captured.dense_macs)
    sizes = sorted(set(captured.params_per_variable))
    say(f"{type(module).__name__}: {' or '.join(map(str, sizes))} parameters for each variable, {captured.layout}")
    say(f"  captured: it differs from the module's own forward by {captured.difference:.2g} in fp64")
    say(str(summary))


def _named(name: str) -> Any:
    """What a name means: the attribute of a Python module, called if it is a function that makes one."""
    from torch import nn

    path, colon, attribute = name.partition(":")
    if not (path and colon and attribute):
        raise ValueError(f"MODULE must be package.module:attribute or a .safetensors file, got {name!r}")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        thing: Any = reduce(getattr, attribute.split("."), importlib.import_module(path))
        makes = callable(thing) and not isinstance(thing, nn.Module) and not hasattr(thing, "transforms")
        return thing() if makes else thing
    except Exception as error:  # whatever the user's own code raises
        raise ValueError(f"{name} must be importable and give a module, but {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(here)

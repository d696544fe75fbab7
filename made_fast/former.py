"""Modules by the names that they had in earlier versions, so that documented imports and old pickles go on working."""

from __future__ import annotations

import importlib
import sys

__all__ = ["FORMER", "register"]

# Former name -> where its public names are now.
FORMER = {
    "adapters": "flows.adapters",
    "conditionals": "outputs",
    "conditioning": "requests",
    "drawing": "sampling",
    "ensemble": "masks",
    "ensemble_sampler": "sampling",
    "estimates": "sampling",
    "functional": "layers",
    "inspection": "programs",
    "nn": "models",
    "point": "outputs",
    "program": "programs",
    "sampler": "sampling",
    "schedule": "programs",
    "sharding": "sampling",
}


def register(package: str) -> None:
    """Makes ``import package.former_name`` find the module of today, for all of ``FORMER``."""
    for former, now in FORMER.items():
        module = importlib.import_module(f"{package}.{now}")
        sys.modules[f"{package}.{former}"] = module
        setattr(sys.modules[package], former, module)

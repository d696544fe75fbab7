"""What every engine asks of a program before it packs it: that it knows the functions and the conditionals in it."""

from __future__ import annotations

from collections.abc import Collection

from made_fast.programs.program import Program

__all__ = ["check_function", "check_program"]


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

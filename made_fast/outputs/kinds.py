"""The table of outputs by name, and columns of different kinds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from made_fast.arguments import whole_number
from made_fast.outputs.conditional import Conditional
from made_fast.outputs.output import Output

__all__ = ["OUTPUTS", "Mixed", "describe", "make_output"]


OUTPUTS: dict[str, type[Output]] = {}  # by name; the package's face fills it


class Mixed(Output):
    """Columns of different kinds, as in a table.

    Args:
        parts: an output for each variable, of one variable each, by name or as an object; or (output, n) for n variables
            one after another.
    """

    name = "mixed"

    def __init__(self, parts: Sequence[str | Output | tuple[str | Output, int]]) -> None:
        if isinstance(parts, str) or not isinstance(parts, Sequence) or not parts:
            raise ValueError(f"parts must be a sequence of outputs, got {parts!r}")
        pairs = [part if isinstance(part, (tuple, list)) else (part, 1) for part in parts]
        self.parts = [(make_output(part), whole_number("parts", count, 1)) for part, count in pairs]
        self._conditionals = tuple(each for part, count in self.parts for each in part.conditionals(count))

    def conditionals(self, features: int) -> tuple[Conditional, ...]:
        if len(self._conditionals) != features:
            raise ValueError(f"parts must describe {features} variables, got {len(self._conditionals)}")
        return self._conditionals

    @classmethod
    def example(cls) -> Mixed:
        """A column of each other kind."""
        return cls([kind.example() for name, kind in OUTPUTS.items() if name != cls.name])

    def arguments(self) -> dict[str, Any]:
        return {"parts": [[describe(part), count] for part, count in self.parts]}

    def __repr__(self) -> str:
        """Class and parts, also where one of them cannot be described."""
        return f"Mixed(parts={self.parts!r})"


def make_output(output: str | Output | dict[str, Any]) -> Output:
    """Returns the output distribution of that name or description, or the object itself.

    Raises:
        ValueError: there is none of that name, or it needs arguments.
    """
    if isinstance(output, Output):
        return output
    described = dict(output) if isinstance(output, dict) else {"name": output}
    name = described.pop("name", None)
    if not isinstance(name, str) or name not in OUTPUTS:
        raise ValueError(f"output must be one of {', '.join(OUTPUTS)}, got {output!r}")
    try:
        return OUTPUTS[name](**described)
    except TypeError as error:
        raise ValueError(f"output {name!r} needs arguments: give an object of made_fast.outputs ({error})") from error


def describe(output: Output) -> str | dict[str, Any]:
    """The description from which ``make_output`` makes it again, as JSON can hold it.

    Raises:
        ValueError: it is one's own, whose code no file can hold.
    """
    if output.name not in OUTPUTS:
        raise ValueError(f"output {output.name!r} cannot be saved: its code is in no file; save the state dict instead")
    arguments = output.arguments()
    return {"name": output.name, **arguments} if arguments else output.name

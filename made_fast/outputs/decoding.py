"""How conditionals are changed while drawing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

__all__ = ["PLAIN", "Decoding"]


@dataclass(frozen=True)
class Decoding:
    """How conditionals are changed while drawing; log-probabilities stay those of the model.

    Attributes:
        temperature: T > 0: each conditional is drawn from p(x)**(1 / T), of mixtures each part.
        greedy: takes the most probable value.
        top_k: keeps the k most probable categories, 0 for all.
        top_p: keeps the fewest most probable categories with at least this mass.
    """

    temperature: float = 1.0
    greedy: bool = False
    top_k: int = 0
    top_p: float = 1.0

    @cached_property  # asked for several times in a call that may take microseconds
    def features(self) -> tuple[str, ...]:
        """What of this a backend must be able to do; the names are those of ``Backend.features``."""
        used = {
            "temperature": self.temperature != 1,
            "greedy": self.greedy,
            "top_k": self.top_k > 0,
            "top_p": self.top_p < 1,
        }
        return tuple(name for name, wanted in used.items() if wanted)


PLAIN = Decoding()

"""Published test negative log-likelihoods in nats, lower is better, beside which ours are shown.

Sources: Germain et al., MADE, ICML 2015, tables 4 and 6, and the supplement's tables 1 and 2 for the half-widths of 95 %
intervals. Web: the split of training and validation rows is not the paper's where a file was split anew.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MADE_FIXED", "MADE_SAMPLED", "OTHERS", "Figure"]


class Figure(NamedTuple):
    """Nats, and the half-width of the 95 % interval where one was published."""

    nats: float
    half_width: float | None = None

    def __str__(self) -> str:
        return f"{self.nats:.2f}" + ("" if self.half_width is None else f" ± {self.half_width:.2f}")


# One mask in a random order, chosen on validation rows.
MADE_FIXED = {
    "adult": Figure(13.12, 0.05),
    "connect4": Figure(11.90, 0.01),
    "dna": Figure(83.63, 0.52),
    "mushrooms": Figure(9.68, 0.04),
    "nips-0-12": Figure(280.25, 1.05),
    "ocr-letters": Figure(28.34, 0.22),
    "rcv1": Figure(47.10, 0.11),
    "web": Figure(28.53, 0.20),
    "binarized_mnist": Figure(88.40, 0.45),  # one hidden layer; two: 89.59 ± 0.46
}
# Many masks. On nips-0-12 the paper's table says 277.28, its supplement 275.92 ± 1.01.
MADE_SAMPLED = {
    "adult": Figure(13.13, 0.05),
    "connect4": Figure(11.90, 0.01),
    "dna": Figure(79.66, 0.63),
    "mushrooms": Figure(9.69, 0.03),
    "nips-0-12": Figure(277.28, 1.01),
    "ocr-letters": Figure(30.04, 0.22),
    "rcv1": Figure(46.74, 0.11),
    "web": Figure(28.25, 0.20),
    "binarized_mnist": Figure(86.64, 0.44),  # two hidden layers of 8,000 units, 32 masks
}
OTHERS = {
    "adult": {"NADE": 13.19, "EoNADE": 13.19, "DARN": 13.19},
    "connect4": {"NADE": 11.99, "EoNADE": 12.58, "DARN": 11.91},
    "dna": {"NADE": 84.81, "EoNADE": 82.31, "DARN": 81.04},
    "mushrooms": {"NADE": 9.81, "EoNADE": 9.69, "DARN": 9.55},
    "nips-0-12": {"NADE": 273.08, "EoNADE": 272.39, "DARN": 274.68},
    "ocr-letters": {"NADE": 27.22, "EoNADE": 27.32, "DARN": 28.17},
    "rcv1": {"NADE": 46.66, "EoNADE": 46.12, "DARN": 46.10},
    "web": {"NADE": 28.39, "EoNADE": 27.87, "DARN": 28.83},
    "binarized_mnist": {"NADE": 88.33, "EoNADE": 85.10, "DARN": 84.13},
}

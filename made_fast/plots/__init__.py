"""Pictures by matplotlib: of training, of real rows against drawn ones, of images, of masks and levels, of weights.

Every function takes ``ax=``, one ``Axes`` of matplotlib or as many as it has panels, and returns what it drew on. Without
``ax`` it makes a figure of its own through pyplot, which notebooks show by themselves; ``ax.figure`` is that figure. No
function shows a figure, changes matplotlib's settings or chooses its backend. Needs ``pip install 'made_fast[plots]'``.
"""

from made_fast.plots.comparing import marginals, pairs
from made_fast.plots.curves import training_curve, weights
from made_fast.plots.images import images
from made_fast.plots.structure import levels, masks

__all__ = [
    "images",
    "levels",
    "marginals",
    "masks",
    "pairs",
    "training_curve",
    "weights",
]

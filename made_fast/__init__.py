"""made_fast: MADE whose sampler evaluates each hidden unit once."""
# ruff: noqa: E402 - before torch is imported, which takes seconds, Ctrl-C is made quiet

from importlib.metadata import PackageNotFoundError as _NotInstalled
from importlib.metadata import version as _version

from made_fast import interrupts as _interrupts

_interrupts.quiet_until_noticed()

from made_fast import backends, former, masks, outputs
from made_fast.acceleration import accelerate
from made_fast.layers.linear import MaskedLinear, masked_linear
from made_fast.models.made import MADE
from made_fast.requests.conditions import Between
from made_fast.requests.sums import SumTo
from made_fast.sampling.sampler import Sampler
from made_fast.sampling.sharding import sample_rows

__all__ = [
    "MADE",
    "Between",
    "MaskedLinear",
    "Sampler",
    "SumTo",
    "accelerate",
    "backends",
    "build_config",
    "masked_linear",
    "masks",
    "outputs",
    "sample_rows",
]

try:
    __version__ = _version("made_fast")
except _NotInstalled:  # run from a source tree, where nothing could be installed
    __version__ = "0.0.0"

former.register(__name__)


def build_config() -> dict[str, object]:
    """How the compiled module was built and which instruction set is in use; ``{"compiled": False}`` without one."""
    read = backends.config_reader()
    return {"compiled": False} if read is None else {"compiled": True, **read()}

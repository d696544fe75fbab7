"""Any torch module -> program: exported, run on symbols by a table of translators, arranged, simplified, compared."""

from made_fast.capture.captured import Captured, capture, first_width
from made_fast.capture.export import Call, CaptureError

__all__ = [
    "Call",
    "CaptureError",
    "Captured",
    "capture",
    "first_width",
]

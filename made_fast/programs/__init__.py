"""A network as a short list of operations over units: functions, dependencies, schedule, cost, proof."""

from made_fast.programs.check import Report
from made_fast.programs.functions import ACTIVATIONS, FUNCTIONS
from made_fast.programs.program import CONTEXT, Add, Affine, Elementwise, Multiply, Op, Program, Term, X
from made_fast.programs.schedule import AffinePlan, Kind, Schedule, build_schedule
from made_fast.programs.summary import Summary, summary_of

__all__ = [
    "ACTIVATIONS",
    "CONTEXT",
    "FUNCTIONS",
    "Add",
    "Affine",
    "AffinePlan",
    "Elementwise",
    "Kind",
    "Multiply",
    "Op",
    "Program",
    "Report",
    "Schedule",
    "Summary",
    "Term",
    "X",
    "build_schedule",
    "summary_of",
]

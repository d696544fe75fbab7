"""The rows of a peer run as one markdown table, with what a reader must know to compare them."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report import table

Row = Mapping[str, Any]
"""One call in one case: ``features, hidden, batch, peer, call, text, draws, widths, note`` and what was measured."""

CAVEATS = """\
Read this before the figures:

- **Not the same law.** Ours draws bits (Bernoulli). Rows whose draws are "real" are flows or Gaussians: they draw a
  real number by an affine transform, from a network with two outputs for each variable instead of one. The nearest
  comparison is a row that draws bits or two categories.
- **Not the same network.** Every row states the widths of the masked hidden layers that the library really has; where
  it cannot have H, or needs more layers, ours was timed beside it with those same widths.
- **Not the same algorithm**, which is the point: "D whole passes" evaluates the whole network once for each variable.
- Weights are random, float32, on the processor. Torch peers run under `torch.no_grad()` in `eval()` mode, JAX peers
  compiled by `jit`. Preparing and the first draw (compilation) are not timed. Threads are each library's default.
- A busy machine slows torch peers most, whose idle threads spin: trust the figures only if the load was near zero.
- "ours before / after" are medians of the same case, each in a process of its own, before and after the peer; where
  the two differ, the machine drifted. "peer / ours" is the peer's median over the mean of the two.
"""

_COLUMNS = (
    "D", "H", "B", "peer", "versions", "draws", "hidden layers", "median ms", "min ms", "draws timed", "threads",
    "ours before / after, ms", "peer / ours", "call", "also differs",
)  # fmt: skip


def number(value: float | None) -> str:
    """Three significant digits without an exponent; a dash for nothing."""
    if value is None:
        return "–"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def ratio(row: Row) -> float | None:
    """Peer's median over the mean of ours before and after; None where one of the three is missing."""
    peer, before, after = (row.get(key) for key in ("median_ms", "ours_before_ms", "ours_after_ms"))
    if peer is None or before is None or after is None:
        return None
    return 2 * float(peer) / (float(before) + float(after))


def widths(sizes: Sequence[int]) -> str:
    """``512`` or ``2 x 512`` or ``512, 256``."""
    if len(sizes) > 1 and len(set(sizes)) == 1:
        return f"{len(sizes)} x {sizes[0]}"
    return ", ".join(map(str, sizes)) or "none"


def _cells(row: Row) -> list[str]:
    failed = row.get("error")
    ours = " / ".join(number(row.get(key)) for key in ("ours_before_ms", "ours_after_ms"))
    factor = ratio(row)
    return [
        str(row["features"]),
        str(row["hidden"]),
        str(row["batch"]),
        f"{row['peer']} {row['call']}",
        ", ".join(row.get("versions", ())) or "–",
        row["draws"],
        widths(row["widths"]),
        f"cannot run: {failed}" if failed else number(row["median_ms"]),
        number(row.get("min_ms")),
        str(row.get("repeats", "–")),
        row.get("threads", "–"),
        "" if row["peer"] == "ours" else ours,
        "" if row["peer"] == "ours" else (f"{number(factor)}x" if factor else "–"),
        f"`{row['text']}`",
        row.get("note", ""),
    ]


def _order(row: Row) -> tuple[Any, ...]:
    median = row.get("median_ms")
    return (row["features"], row["hidden"], row["batch"], median is None, median or 0.0)


def render(rows: Sequence[Row], machine: Mapping[str, Any]) -> str:
    """The report in markdown: machine, caveats, one table sorted by case and then by time, failures last in each case.

    Args:
        rows: Peers and ours, see `Row`; a row with ``error`` says why in place of its time.
        machine: Facts about the machine and the run, printed as they are.
    """
    facts = [f"- {name}: {value}" for name, value in machine.items()]
    cells = [dict(zip(_COLUMNS, _cells(row), strict=True)) for row in sorted(rows, key=_order)]
    return "\n".join(["# Peers, side by side", "", *facts, "", CAVEATS, table(_COLUMNS, cells), ""])

"""Tables on the command line: trained from files that no memory holds, and drawn into such."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from made_fast.cli.models import frames_of
from made_fast.cli.options import STDOUT, note, say

if TYPE_CHECKING:
    from made_fast.datasets.frames import FrameFile
    from made_fast.tables.table import Table
    from made_fast.training.fitting import History

__all__ = ["sample_table", "train_table"]

_ROWS = 1 << 16  # that are drawn at once


def train_table(args: argparse.Namespace, fitted: Callable[..., int]) -> int:
    """Fits a table by the options: a first pass over its files decides what the columns are, a second encodes the rows.

    Args:
        args: of ``made-fast train``.
        fitted: see ``train.fitted``.
    """
    from made_fast.datasets.frames import FrameFile
    from made_fast.tables.likelihood import Likelihood
    from made_fast.tables.survey import Survey, encode_parts
    from made_fast.tables.table import Table

    paths = [Path(args.data), *(path for path in (args.valid, args.test) if path is not None)]
    files = [FrameFile(path, args.separator) for path in paths]
    wishes = _wishes(args, files[0])
    dropped = set(args.drop or ())
    kept = [name for name in files[0].names if name not in dropped]

    def chunks() -> Iterator[Any]:
        return (chunk.select(kept) for chunk in chain.from_iterable(file.chunks() for file in files))

    survey, ends = Survey(), []
    for number, path in enumerate(paths):
        files[number].check_names(kept, "DATA")
        if number:  # what is text in DATA may look like numbers elsewhere
            files[number] = FrameFile(path, args.separator, survey.texts)
        for chunk in files[number].chunks():
            survey.add(chunk.select(kept))
        ends.append(survey.rows)
    if not ends[0]:
        raise ValueError(f"{args.data} must have at least one row below the names of its columns, got none")
    schema = survey.schema(wishes)
    parts, how = _parts(args, ends)
    note(f"{schema}\n{how}" if how else str(schema))
    with tempfile.TemporaryDirectory(prefix="made_fast-") as folder:
        train, valid, test = encode_parts(schema, chunks(), parts, Path(folder))
        say(
            f"{Path(args.data).stem}: {len(train):,} rows of {len(schema.columns)} columns, {schema.starts[-1]} variables"
        )
        made: list[Table] = []

        def fit(**options: Any) -> History:
            shape = {"hidden_features": args.hidden, "activation": args.activation, "components": args.components or 5}
            made.append(Table.fit(train, valid, columns=schema, **shape, **options))
            assert made[0].history is not None
            return made[0].history

        return fitted(args, fit, lambda: made[0].save(args.out), lambda: Likelihood(made[0].model, schema), test)


def _wishes(args: argparse.Namespace, file: FrameFile) -> dict[str, str]:
    """What ``--column`` says, by names of columns."""
    from made_fast.tables.choosing import KINDS

    wishes = {}
    for text in args.column or ():
        name, _, kind = text.rpartition("=")
        if not name or kind not in KINDS:
            raise ValueError(f"--column must be NAME=KIND with a kind of {', '.join(KINDS)}, got {text!r}")
        wishes[name] = kind
    for option, names in (("--column", wishes), ("--drop", args.drop or ())):
        for name in names:
            if name not in file.names:
                raise ValueError(f"{option} must name columns of {file.path}, {', '.join(file.names)}; got {name!r}")
    for name in wishes:
        if name in (args.drop or ()):
            raise ValueError(f"--column must name columns that are not dropped, got {name!r}")
    return wishes


def _parts(args: argparse.Namespace, ends: list[int]) -> tuple[Any, str]:
    """For each row of all files 0 if it is trained on, 1 if it validates and 2 if it tests; and what is said of it."""
    import numpy as np

    from made_fast.datasets import SHARES, split_rows

    named = [number for number, path in ((1, args.valid), (2, args.test)) if path is not None]
    shares = args.split or SHARES
    wanted = [number for number in range(3) if number not in named]
    whole = [shares[number] for number in wanted]
    own = np.array(wanted, dtype=np.uint8)[split_rows(ends[0], [each / sum(whole) for each in whole], args.seed)]
    counts, how = np.bincount(own, minlength=3), ""
    if len(wanted) > 1:
        words = ("train", "validate", "test")
        listed = " and ".join(f"{counts[number]:,} to {words[number]}" for number in wanted)
        how = f"{args.data} comes in no parts: {ends[0]:,} rows split by seed {args.seed} into {listed}"
    lengths = [last - first for first, last in pairwise(ends)]
    others = [np.full(length, number, dtype=np.uint8) for number, length in zip(named, lengths, strict=True)]
    for number, each in zip(named, others, strict=True):
        if not len(each):
            raise ValueError(f"{(args.valid, args.test)[number - 1]} must have at least one row, got none")
    return np.concatenate([own, *others]), how


def sample_table(table: Table, args: argparse.Namespace, rows: range, out: Path) -> int:
    """Draws rows of a table into a file, or fills those of ``--given``; returns how many were written."""
    from made_fast.datasets import write_frames

    for name in ("context", "image_shape"):
        if getattr(args, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} must be left out: {args.model} is a table")
    if args.backend != "auto":
        raise ValueError(f"--backend must be left out: {args.model} is a table, which is drawn by the first that can")
    frames = _drawn(table, args, rows) if args.given is None else _filled(table, args)
    if out.suffix == ".npy":
        if args.given is not None:
            raise ValueError(f"--out must end in .csv or .parquet, or be -, where rows are given, got {out}")
        return _write_numbers(table, frames, out, len(rows))
    return write_frames(sys.stdout if out == STDOUT else out, map(_frame, frames))


def _drawn(table: Table, args: argparse.Namespace, rows: range) -> Iterator[Any]:
    """Frames of these rows, and one without any where there are none."""
    from tqdm import tqdm

    options = {"seed": args.seed, "where": args.where, "candidates": args.candidates}
    with tqdm(total=len(rows), unit="row", unit_scale=True, disable=not args.progress) as bar:
        for row in range(rows.start, max(rows.stop, rows.start + 1), _ROWS):
            number = min(_ROWS, rows.stop - row)
            yield table.sample(number, first_row=row, **options)
            bar.update(number)


def _filled(table: Table, args: argparse.Namespace) -> Iterator[Any]:
    """Frames of the rows of ``--given`` with their missing cells filled, each row as often as ``-n`` says."""
    from tqdm import tqdm

    number = 1 if args.num_samples is None else args.num_samples
    options = {"seed": args.seed, "where": args.where, "candidates": args.candidates}
    file, done = frames_of(table, args.given, args.separator), 0
    with tqdm(unit="row", unit_scale=True, disable=not args.progress) as bar:
        size = max(1, _ROWS // max(1, number))
        for part in (chunk.slice(at, size) for chunk in file.chunks() for at in range(0, len(chunk), size)):
            try:
                yield table.sample(number, first_row=args.first_row + done, given=part, **options)
            except ValueError as error:
                later = f" after the first {done // number:,}" if done else ""
                raise ValueError(f"{args.given}: {error}{later}") from None
            done += len(part) * number
            bar.update(len(part) * number)
    if not done:
        raise ValueError(f"{args.given} must have at least one row below the names of its columns, got none")


def _frame(frame: Any) -> Any:
    """A frame of any library; a table that was fitted to arrays gives a mapping."""
    if not isinstance(frame, dict):
        return frame
    import narwhals

    from made_fast.datasets.frames import library

    return narwhals.from_dict({name: values.tolist() for name, values in frame.items()}, backend=library()).to_native()


def _write_numbers(table: Table, frames: Iterator[Any], out: Path, num_rows: int) -> int:
    """Writes a matrix of fp64, nan where a cell is missing."""
    import numpy as np
    import torch

    from made_fast.datasets import write_rows
    from made_fast.tables.frames import read

    for column in table.schema.columns:
        if column.of not in ("number", "flag"):
            kind = {"text": "text", "moment": "dates or times"}[column.of]
            raise ValueError(f"--out must end in .csv or .parquet: column {column.name!r} has {kind}, got {out}")

    def matrices() -> Iterator[torch.Tensor]:
        for frame in frames:
            cells, _ = read(frame)
            columns = [np.where(each.present, each.values, np.nan) for each in cells.values()]
            yield torch.from_numpy(np.stack(columns, 1).astype(np.float64))

    write_rows(out, matrices(), num_rows, len(table.schema.columns), torch.float64)
    return num_rows

"""The command ``made-fast train``: fit a model by maximum likelihood, with checkpoints, and report its test figure."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from made_fast.cli.options import (
    add_separator,
    add_threads,
    check_output,
    count,
    note,
    output_of,
    positive,
    say,
    shares,
    shown,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from made_fast.datasets.npz import Dataset
    from made_fast.training.fitting import Epoch, History

__all__ = ["EXAMPLE", "TEXT", "add_options", "run"]

TEXT = "Fit a model by maximum likelihood and report its test NLL."
EXAMPLE = """made-fast train people.csv --out people.safetensors --column age=real --drop name
  made-fast train digits --out digits.safetensors --hidden 256 256 --direct
  made-fast train binarized_mnist.npz --out mnist.safetensors --direct --max-minutes 20
  made-fast train spins.npy --out spins.safetensors --output spin --split 0.9,0.05,0.05

a table, .csv or .parquet, of any size:
  the first line of a .csv has the names of the columns; empty cells, NA, N/A, nan, NULL and null are missing. What each
  column is decided by all of its cells, printed to stderr, and changed by --column; columns are drawn in their order.
arrays, rows of numbers, all of one kind (--output):
  .npz   members train, valid and test, or train_data, valid_data and test_data, or one alone; with a member n_features
         they are bits packed by np.packbits(axis=1)
  .npy   one matrix, read from the disk as it is needed
  .amat  text, a row a line, numbers separated by spaces, as binarized MNIST comes
  digits scikit-learn's 8x8 digits, 0 and 1
rows that come in no parts are split by --split and --seed, unless --valid and --test name files."""

# What is taken where an option is left out, of arrays and of tables.
_ARRAYS: dict[str, Any] = {"hidden": [500, 500], "activation": "relu", "epochs": 200, "batch_size": 100, "lr": 1e-3}
_ARRAYS |= {"weight_decay": 0.1, "patience": 15}
_TABLES: dict[str, Any] = {"hidden": [128, 128], "activation": "silu", "epochs": 60, "batch_size": None, "lr": 4e-3}
_TABLES |= {"weight_decay": 0.01, "patience": 6}
# What belongs to arrays or to tables alone.
_OF_ARRAYS = ("output", "order", "direct", "residual", "num_masks", "shuffle", "mask_conditioning", "input_dropout")
_OF_TABLES = ("column", "drop", "components")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``train``."""
    parser.add_argument(
        "data", metavar="DATA", help="a table, .csv or .parquet; arrays, .npz, .npy or .amat; or digits"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="MODEL", help="file to write, .safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace MODEL if it is there")
    rows = parser.add_argument_group("rows")
    rows.add_argument("--valid", type=Path, metavar="FILE", help="rows that decide when to stop, like DATA")
    rows.add_argument("--test", type=Path, metavar="FILE", help="rows of the figure that is reported, like DATA")
    text = "shares of rows to train, to validate and to test, where they come in no parts (default: 0.8,0.1,0.1)"
    rows.add_argument("--split", type=shares, metavar="A,B,C", help=text)
    add_separator(rows)
    table = parser.add_argument_group("columns of a table")
    text = "what a column is: category, ordered, bit, integer, real or datetime; repeat it for several columns"
    table.add_argument("--column", action="append", metavar="NAME=KIND", help=text)
    table.add_argument("--drop", action="append", metavar="NAME", help="leave a column out; repeat it for several")
    table.add_argument("--components", type=positive, help="of the mixtures of numbers (default: 5)")
    model = parser.add_argument_group("model")
    text = "bernoulli, spin, categorical:K, normal, mixture_of_normals:N, mixture_of_logistics:N,LEVELS (default: bernoulli)"
    model.add_argument("--output", metavar="NAME", help=f"what the numbers of arrays are: {text}")
    model.add_argument("--hidden", type=positive, nargs="*", metavar="H", help=f"hidden widths {_default('hidden')}")
    model.add_argument("--order", default="natural", help="natural, reversed, random, raster or columns")
    model.add_argument("--activation", help=f"relu, elu, silu, tanh, softplus and others {_default('activation')}")
    model.add_argument("--direct", action="store_true", help="connect inputs to outputs too, as tables always do")
    model.add_argument("--residual", action="store_true", help="hidden layers as residual blocks")
    model.add_argument("--num-masks", type=count, default=1, metavar="N", help="masks of an ensemble; 0: without end")
    kinds = ("order", "connectivity", "both")
    model.add_argument("--shuffle", choices=kinds, default="both", help="what the masks of an ensemble differ in")
    model.add_argument("--mask-conditioning", action="store_true", help="biases that depend on the mask")
    text = "of the weights, a random order, the masks, the split and the training"
    model.add_argument("--seed", type=int, default=0, help=text)
    fit = parser.add_argument_group("training")
    fit.add_argument("--epochs", type=positive, help=f"stop after so many {_default('epochs')}")
    text = "rows of a minibatch (default: 100; of tables a hundredth of all, but 50 to 512)"
    fit.add_argument("--batch-size", type=positive, help=text)
    fit.add_argument("--lr", type=float, help=f"learning rate of AdamW {_default('lr')}")
    fit.add_argument(
        "--weight-decay", type=float, help=f"of AdamW, on weights and not on biases {_default('weight_decay')}"
    )
    fit.add_argument("--input-dropout", type=float, default=0.0, help="probability of hiding an input while training")
    fit.add_argument(
        "--patience", type=positive, help=f"epochs without improvement before stopping {_default('patience')}"
    )
    fit.add_argument("--max-minutes", type=float, help="stop before an epoch that would end later")
    fit.add_argument("--resume", action="store_true", help="go on from the checkpoint MODEL.ckpt")
    add_threads(fit)
    parser.set_defaults(default_of=parser.get_default)


def _default(name: str) -> str:
    arrays, tables = (
        " ".join(map(str, each if isinstance(each, list) else [each])) for each in (_ARRAYS[name], _TABLES[name])
    )
    return f"(default: {arrays}; of tables {tables})"


def run(args: argparse.Namespace) -> int:
    """Trains, or goes on from a checkpoint, and writes the model."""
    from made_fast import datasets

    check_output(args.out)
    checkpoint = _checkpoint(args)
    if checkpoint.exists() and not args.resume:
        raise ValueError(f"{checkpoint} is from an unfinished run: add --resume to go on, or delete it to start anew")
    if args.out.exists() and not (args.resume or args.overwrite):
        raise ValueError(f"{args.out} is there already: add --overwrite to replace it, or give another --out")
    is_table = Path(args.data).suffix in datasets.FRAMES
    for name in _OF_ARRAYS if is_table else _OF_TABLES:
        if getattr(args, name) != args.default_of(name):
            what = "a table" if is_table else "arrays"
            raise ValueError(f"--{name.replace('_', '-')} must be left out for {what}, which {args.data} is")
    for name, value in (_TABLES if is_table else _ARRAYS).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.split is not None and args.valid is not None:
        raise ValueError("--split must be left out where --valid names a file")
    if is_table:
        from made_fast.cli.tables import train_table

        return train_table(args, fitted)
    return _train_arrays(args)


def _checkpoint(args: argparse.Namespace) -> Path:
    out: Path = args.out
    return out.with_name(out.name + ".ckpt")


def _train_arrays(args: argparse.Namespace) -> int:
    import torch

    from made_fast import training
    from made_fast.models.made import MADE

    output = output_of(args.output or "bernoulli")
    data, how = _dataset(args)
    for part in ("train", "valid", "test"):
        rows = data.split(part)
        try:
            output.conditionals(data.features)
            for each in rows.split(1 << 16):
                output.check(each)
        except ValueError as error:
            raise ValueError(f"{data.name}, {part}: {error}") from None
    if how:
        note(how)
    torch.manual_seed(args.seed)
    options = ("order", "activation", "direct", "residual", "num_masks", "shuffle", "mask_conditioning", "seed")
    model = MADE(data.features, args.hidden, output=output, **{name: getattr(args, name) for name in options})
    size = sum(parameter.numel() for parameter in model.parameters())
    say(f"{data.name}: {len(data.train):,} rows of {data.features} variables; {size:,} parameters")

    def fit(**more: Any) -> History:
        return training.fit(model, data.train, data.valid, input_dropout=args.input_dropout, **more)

    return fitted(args, fit, lambda: model.save(args.out), model, data.test)


def _dataset(args: argparse.Namespace) -> tuple[Dataset, str]:
    """The rows of the options in three parts, and what is said of how they were split."""
    import torch

    from made_fast import datasets
    from made_fast.datasets.npz import Dataset

    parts, chosen, how = datasets.read_parts(args.data), args.split or datasets.SHARES, ""
    for name in ("valid", "test"):
        path = getattr(args, name)
        if path is not None:
            found = datasets.read_parts(path)
            if "rows" not in found and name not in found:
                raise ValueError(f"--{name} must have rows, got {path} with {', '.join(found)}")
            parts[name] = found["rows"] if "rows" in found else found[name]
    if "rows" in parts:
        wanted = [name for name in ("train", "valid", "test") if name not in parts]
        whole = [chosen[place] for place, name in enumerate(("train", "valid", "test")) if name in wanted]
        rows = parts.pop("rows")
        numbers = torch.from_numpy(datasets.split_rows(len(rows), [each / sum(whole) for each in whole], args.seed))
        parts |= {name: rows[numbers == number] for number, name in enumerate(wanted)}
        counts = " and ".join(f"{len(parts[name]):,} to {_VERBS[name]}" for name in wanted)
        if len(wanted) > 1:
            how = f"{args.data} comes in no parts: split by seed {args.seed} into {counts}"
    elif args.split is not None:
        raise ValueError(f"--split must be left out: {args.data} comes in parts")
    widths = {name: part.shape[1] for name, part in parts.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(f"DATA, --valid and --test must have as many columns as each other, got {widths}")
    name = Path(args.data).stem
    shape = datasets.image_shape(widths["train"])
    return Dataset(name, parts["train"], parts["valid"], parts["test"], shape), how


_VERBS = {"train": "train", "valid": "validate", "test": "test"}


def _say_epoch(epoch: Epoch) -> None:
    mark = " *" if epoch.improved else ""
    losses = f"train {epoch.train_nll:8.3f}  valid {epoch.valid_nll:8.3f} nats"
    say(f"epoch {epoch.number:3d}  {losses}  lr {epoch.learning_rate:.2g}  {epoch.seconds:.1f} s{mark}")


def fitted(
    args: argparse.Namespace,
    fit: Callable[..., History],
    save: Callable[[], None],
    model: nn.Module | Callable[[], nn.Module],
    test: Tensor,
) -> int:
    """Fits by the options, saves, and says how it went.

    Args:
        args: of the command.
        fit: takes the options of ``training.fit``.
        save: writes the model.
        model: has ``log_prob`` of rows like those of ``test``; or a function that gives it after the training.
        test: rows of the figure.
    """
    from torch import nn

    from made_fast import training

    checkpoint = _checkpoint(args)
    words = [word for word in args.argv if word != "--resume"]
    go_on = f"go on with: {shlex.join(['made-fast', *words, '--resume'])}"
    try:
        history = fit(
            epochs=args.epochs,
            batch_size=args.batch_size,
            learning_rate=args.lr,
            weight_decay=args.weight_decay,
            patience=args.patience,
            seed=args.seed,
            max_minutes=args.max_minutes,
            checkpoint=checkpoint,
            resume=args.resume,
            progress=True,
            on_epoch=_say_epoch,
        )
    except KeyboardInterrupt:
        if checkpoint.exists():
            print(f"made-fast: {go_on}", file=sys.stderr)
        raise
    save()
    why = {"epochs": "all epochs done", "patience": "no more improvement", "time": "time is up"}[history.stopped]
    best = history.best
    say(f"stopped: {why}; best epoch {best.number} of {len(history.epochs)}, valid {best.valid_nll:.3f} nats")
    judged = model if isinstance(model, nn.Module) else model()
    say(f"test NLL {shown(training.evaluate(judged, test))} nats (95% interval, {len(test):,} rows)")
    say(f"model: {args.out}")
    if history.stopped == "time":
        say(f"checkpoint: {checkpoint}; with more --max-minutes {go_on}")
    else:
        checkpoint.unlink(missing_ok=True)
    return 0

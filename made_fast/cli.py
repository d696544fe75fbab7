"""The command ``made-fast``: demo, train, evaluate, sample, backends.

Each command is a function of the parsed arguments that imports what it needs itself, so that ``--help`` waits for nothing.
A mistake of the user ends in one line on stderr; a traceback means a bug.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from torch import Tensor

    from made_fast.ensemble_sampler import EnsembleSampler
    from made_fast.nn import MADE
    from made_fast.sampler import Sampler
    from made_fast.training import Epoch

_CHUNK_VALUES = 1 << 23  # values of samples held at a time when they are written to a file
_DEMO_ROWS = 1000

_EXAMPLES = {
    "demo": "made-fast demo --out samples.png",
    "train": "made-fast train digits --out digits.safetensors --hidden 256 256 --direct\n"
    "  made-fast train binarized_mnist.npz --out mnist.safetensors --direct --max-minutes 20",
    "evaluate": "made-fast evaluate mnist.safetensors binarized_mnist.npz --split test",
    "sample": "made-fast sample mnist.safetensors -n 100 --out samples.png\n"
    "  made-fast sample mnist.safetensors -n 5000000 --out samples.npy --seed 1 --progress",
    "backends": "made-fast backends",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        argv: the words after ``made-fast``; those of the process by default.

    Returns:
        The exit status: 0, or 1 after an error, or 130 after Ctrl-C. A usage error exits with 2 by itself.
    """
    args = _parser().parse_args(argv)
    args.argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if getattr(args, "threads", None) is not None:
            import torch

            torch.set_num_threads(args.threads)
        return int(args.run(args))
    except KeyboardInterrupt:
        print("made-fast: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, MemoryError) as error:
        print(f"made-fast: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"made-fast: error: {message} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(2)


class _Version(argparse.Action):
    def __call__(self, *_: object) -> NoReturn:
        from made_fast import __version__

        print(f"made-fast {__version__}")
        sys.exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="made-fast", description="Train a MADE on binary data and draw from it quickly.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        example = f"example:\n  {_EXAMPLES[name]}"
        made: argparse.ArgumentParser = commands.add_parser(
            name, help=text, description=text, epilog=example, formatter_class=_Formatter
        )
        made.set_defaults(run=run)
        return made

    demo = command("demo", _demo, "Train on small digits, then time the cached sampler against the naive one.")
    demo.add_argument("--out", type=Path, default=Path("samples.png"), help="picture to write")
    demo.add_argument("--seed", type=int, default=0, help="of the weights, the training and the samples")
    _add_threads(demo)
    _add_train_options(command("train", _train, "Fit a model by maximum likelihood and report its test NLL."))
    evaluate = command("evaluate", _evaluate, "Report a model's negative log-likelihood in nats a row.")
    evaluate.add_argument("model", type=Path, metavar="MODEL", help="file that train wrote")
    evaluate.add_argument("data", metavar="DATA", help="digits, or a .npz file")
    evaluate.add_argument("--split", choices=("train", "valid", "test"), default="test", help="which rows")
    evaluate.add_argument("--batch-size", type=_positive, default=1000, help="rows at a time")
    _add_threads(evaluate)
    _add_sample_options(command("sample", _sample, "Draw samples into a .npz, .npy or .png file."))
    command("backends", _backends, "Show which backends can be used here, and how the compiled one was built.")
    return parser


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Shows examples as they are, and the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or action.default is False or action.default is argparse.SUPPRESS
        return action.help if silent else f"{action.help} (default: %(default)s)"


def _add_train_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="digits, or a .npz file")
    parser.add_argument("--out", type=Path, required=True, metavar="MODEL", help="file to write, .safetensors")
    model = parser.add_argument_group("model")
    model.add_argument("--hidden", type=_positive, nargs="*", default=[500, 500], metavar="H", help="hidden widths")
    model.add_argument("--order", default="natural", help="natural, reversed, random, raster or columns")
    model.add_argument("--activation", default="relu", help="relu, elu, silu, tanh, softplus and others")
    model.add_argument("--direct", action="store_true", help="connect inputs to outputs too")
    model.add_argument("--residual", action="store_true", help="hidden layers as residual blocks")
    model.add_argument("--num-masks", type=_count, default=1, metavar="N", help="masks of an ensemble; 0: without end")
    kinds = ("order", "connectivity", "both")
    model.add_argument("--shuffle", choices=kinds, default="both", help="what the masks of an ensemble differ in")
    model.add_argument("--mask-conditioning", action="store_true", help="biases that depend on the mask")
    model.add_argument("--seed", type=int, default=0, help="of the weights, a random order, the masks and the training")
    run = parser.add_argument_group("training")
    run.add_argument("--epochs", type=_positive, default=200, help="stop after so many")
    run.add_argument("--batch-size", type=_positive, default=100, help="rows of a minibatch")
    run.add_argument("--lr", type=float, default=1e-3, help="learning rate of AdamW")
    run.add_argument("--weight-decay", type=float, default=0.1, help="of AdamW, on weights and not on biases")
    run.add_argument("--input-dropout", type=float, default=0.0, help="probability of hiding an input while training")
    run.add_argument("--patience", type=_positive, default=15, help="epochs without improvement before stopping")
    run.add_argument("--max-minutes", type=float, help="stop before an epoch that would end later")
    run.add_argument("--resume", action="store_true", help="go on from the checkpoint MODEL.ckpt")
    _add_threads(run)


def _add_sample_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="file that train wrote")
    parser.add_argument("-n", "--num-samples", type=_count, default=100, metavar="N", help="number of rows")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help=".npy: (N, D) uint8; .npz: member samples, packed by np.packbits(axis=1), and n_features; .png: a grid",
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same rows")
    parser.add_argument("--first-row", type=_count, default=0, help="number of the first row, to split a job by rows")
    parser.add_argument("--backend", default="auto", help="see made-fast backends")
    parser.add_argument("--progress", action="store_true", help="show a bar")
    parser.add_argument("--columns", type=_positive, default=10, help="images per line of a .png")
    text = "pixels of an image in a .png; a square if left out"
    parser.add_argument("--image-shape", type=_positive, nargs=2, metavar=("H", "W"), help=text)
    _add_threads(parser)


def _add_threads(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--threads", type=_positive, help="CPU threads; torch decides if left out")


def _positive(text: str) -> int:
    return _integer(text, 1)


def _count(text: str) -> int:
    return _integer(text, 0)


def _integer(text: str, least: int) -> int:
    if not text.strip().isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of {least} or more, got {text!r}")
    return int(text)


def _check_output(path: Path, *suffixes: str) -> None:
    """Refuse a file that cannot be written now rather than after the work."""
    if suffixes and path.suffix not in suffixes:
        raise ValueError(f"--out must end in {' or '.join(suffixes)}, got {path}")
    folder = path.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {folder} does not exist, create it first")
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder, give the name of a file")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise PermissionError(f"cannot write {path}: no permission, choose another place")


def _say(text: str) -> None:
    print(text, flush=True)


def _say_epoch(epoch: Epoch) -> None:
    mark = " *" if epoch.improved else ""
    losses = f"train {epoch.train_nll:8.3f}  valid {epoch.valid_nll:8.3f} nats"
    _say(f"epoch {epoch.number:3d}  {losses}  lr {epoch.learning_rate:.2g}  {epoch.seconds:.1f} s{mark}")


def _train(args: argparse.Namespace) -> int:
    import torch

    from made_fast import datasets, training
    from made_fast.nn import MADE

    _check_output(args.out)
    checkpoint = args.out.with_name(args.out.name + ".ckpt")
    if checkpoint.exists() and not args.resume:
        raise ValueError(f"{checkpoint} is from an unfinished run: add --resume to go on, or delete it to start anew")
    data = datasets.load(args.data)
    torch.manual_seed(args.seed)
    options = ("order", "activation", "direct", "residual", "num_masks", "shuffle", "mask_conditioning", "seed")
    model = MADE(data.features, args.hidden, **{name: getattr(args, name) for name in options})
    size = sum(parameter.numel() for parameter in model.parameters())
    _say(f"{data.name}: {len(data.train):,} rows of {data.features} variables; {size:,} parameters")

    words = [word for word in args.argv if word != "--resume"]
    go_on = f"go on with: {shlex.join(['made-fast', *words, '--resume'])}"
    try:
        history = training.fit(
            model,
            data.train,
            data.valid,
            epochs=args.epochs,
            batch_size=args.batch_size,
            learning_rate=args.lr,
            weight_decay=args.weight_decay,
            input_dropout=args.input_dropout,
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
    model.save(args.out)
    why = {"epochs": "all epochs done", "patience": "no more improvement", "time": "time is up"}[history.stopped]
    best = history.best
    _say(f"stopped: {why}; best epoch {best.number} of {len(history.epochs)}, valid {best.valid_nll:.3f} nats")
    _say(f"test NLL {_figure(training.evaluate(model, data.test))} nats (95% interval, {len(data.test):,} rows)")
    _say(f"model: {args.out}")
    if history.stopped == "time":
        _say(f"checkpoint: {checkpoint}; with more --max-minutes {go_on}")
    else:
        checkpoint.unlink(missing_ok=True)
    return 0


def _figure(value: tuple[float, float]) -> str:
    return f"{value[0]:.3f} ± {value[1]:.3f}"


def _evaluate(args: argparse.Namespace) -> int:
    from made_fast import datasets, training
    from made_fast.nn import MADE

    model = MADE.load(args.model)
    data = datasets.load(args.data)
    if data.features != model.features:
        raise ValueError(f"{args.model} has {model.features} variables, but {data.name} has {data.features}")
    rows = data.split(args.split)
    figure = _figure(training.evaluate(model, rows, args.batch_size))
    _say(f"{args.split} NLL {figure} nats (95% interval, {len(rows):,} rows of {data.name})")
    return 0


def _sample(args: argparse.Namespace) -> int:
    from made_fast import datasets
    from made_fast.nn import MADE

    _check_output(args.out, ".npz", ".npy", ".png")
    model = MADE.load(args.model)
    if args.out.suffix == ".png":
        _sample_picture(model, args)
    else:
        datasets.write_rows(args.out, _chunks(model.sampler(), args), args.num_samples, model.features)
    _say(f"{args.num_samples:,} samples of {model.features} variables: {args.out}")
    return 0


def _sample_picture(model: MADE, args: argparse.Namespace) -> None:
    import torch

    from made_fast import datasets

    datasets.load_pillow()  # before the work, if it is missing
    if not 1 <= args.num_samples <= datasets.IMAGE_LIMIT:
        raise ValueError(f"a .png holds 1 to {datasets.IMAGE_LIMIT:,} images, got -n {args.num_samples}: use .npy")
    shape = tuple(args.image_shape or datasets.image_shape(model.features) or (0, 0))
    if shape[0] * shape[1] != model.features:
        raise ValueError(f"--image-shape must be given so that H x W is {model.features}, or use .npy")
    rows = torch.cat(list(_chunks(model.sampler(), args)))
    scale = max(1, 56 // max(shape))  # images of about 56 screen pixels
    grid = datasets.image_grid(rows, (shape[0], shape[1]), columns=args.columns, scale=scale)
    datasets.write_png(args.out, {"": grid})


def _chunks(sampler: Sampler | EnsembleSampler, args: argparse.Namespace) -> Iterator[Tensor]:
    """The rows asked for, a bounded number at a time; the row numbers make them the same for any chunk size."""
    import torch
    from tqdm import tqdm

    size = max(1, _CHUNK_VALUES // sampler.features)
    with tqdm(total=args.num_samples, unit="row", unit_scale=True, disable=not args.progress) as bar:
        for start in range(0, args.num_samples, size):
            count, row = min(size, args.num_samples - start), args.first_row + start
            yield sampler.sample(count, seed=args.seed, first_row=row, dtype=torch.uint8, backend=args.backend)
            bar.update(count)


def _demo(args: argparse.Namespace) -> int:
    import torch

    from made_fast import datasets, training
    from made_fast.nn import MADE

    _check_output(args.out, ".png")
    datasets.load_pillow()
    data = datasets.load("digits")
    torch.manual_seed(args.seed)
    model = MADE(data.features, (256, 256), direct=True)
    _say(f"training a MADE on {len(data.train):,} handwritten digits of 8x8 pixels")
    start = time.monotonic()
    settings: dict[str, Any] = {"batch_size": 50, "input_dropout": 0.1, "max_minutes": 0.75}
    history = training.fit(model, data.train, data.valid, **settings, seed=args.seed, progress=True)
    _say(f"{len(history.epochs)} epochs in {time.monotonic() - start:.1f} s")
    _say(f"validation NLL {history.best.valid_nll:.3f} nats per image")
    agree = _compare_samplers(model, args.seed)
    real = datasets.image_grid(data.test[:100], (8, 8), columns=10, scale=5)
    drawn = model.sample(100, seed=args.seed, dtype=torch.uint8)
    picture = datasets.image_grid(drawn, (8, 8), columns=10, scale=5)
    datasets.write_png(args.out, {"real digits": real, "samples of the model": picture})
    _say(f"picture: {args.out.resolve()}")
    return 0 if agree else 1


def _compare_samplers(model: MADE, seed: int) -> bool:
    """Draw the same rows naively and cached, count the equal ones and print both speeds; False if they contradict."""
    import torch

    from made_fast.testing import naive_sample, unexplained_differences

    sampler, rows = model.sampler(), _DEMO_ROWS
    draws: dict[str, Callable[[], Tensor]] = {
        "naive": lambda: naive_sample(model, rows, seed=seed),
        "cached": lambda: sampler.sample(rows, seed=seed),
    }
    seconds = dict.fromkeys(draws, float("inf"))
    results: dict[str, Tensor] = {}
    for _ in range(5):  # in turns, so that a busy moment of the machine does not hit one of them alone
        for name, draw in draws.items():
            start = time.perf_counter()
            results[name] = draw()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    equal = int((results["naive"] == results["cached"]).all(1).sum())
    wrong = [unexplained_differences(model, drawn, seed=seed).any(1) for drawn in results.values()]
    contradict = int(torch.stack(wrong).any(0).sum())
    _say(f"{equal:,} of {rows:,} rows are equal, drawn with the naive and the cached sampler from seed {seed}")
    if equal < rows:
        _say(f"{contradict:,} rows contradict the model; in the others a uniform lies within 1e-5 of its threshold")
    for name, best in seconds.items():
        _say(f"{name:>7} sampler: {rows / best:12,.0f} rows per second ({best * 1e3:.2f} ms for {rows:,})")
    threads = torch.get_num_threads()
    _say(f"the cached sampler is {seconds['naive'] / seconds['cached']:.0f} times as fast (threads: {threads})")
    return contradict == 0


def _backends(_: argparse.Namespace) -> int:
    from made_fast import backends, build_config

    rows = backends.table()
    width = max(len(row.name) for row in rows)
    print(f"{'name':<{width}}  usable  why not")
    for row in rows:
        print(f"{row.name:<{width}}  {'yes' if row.usable else 'no':<6}  {row.reason or '-'}")
    print()
    for key, value in build_config().items():
        print(f"{key}: {value}")
    return 0

"""The command ``made-fast``: demo, train, evaluate, sample, doctor, backends.

Each command is a function of the parsed arguments that imports what it needs itself, so that ``--help`` waits for nothing.
A mistake of the user ends in one line on stderr; a traceback means a bug.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from made_fast import cli_doctor, cli_sample
from made_fast.cli_options import add_threads, check_output, count, positive, say

if TYPE_CHECKING:
    from torch import Tensor

    from made_fast.nn import MADE
    from made_fast.training import Epoch

_DEMO_ROWS = 1000

_EXAMPLES = {
    "demo": "made-fast demo --out samples.png",
    "train": "made-fast train digits --out digits.safetensors --hidden 256 256 --direct\n"
    "  made-fast train binarized_mnist.npz --out mnist.safetensors --direct --max-minutes 20",
    "evaluate": "made-fast evaluate mnist.safetensors binarized_mnist.npz --split test",
    "sample": "made-fast sample mnist.safetensors -n 100 --out samples.png\n"
    "  made-fast sample mnist.safetensors -n 5000000 --out samples.npy --seed 1 --progress\n"
    "  torchrun --nproc-per-node 4 -m made_fast sample mnist.safetensors -n 5000000 --out samples.npy",
    "doctor": "made-fast doctor mnist.safetensors\n  made-fast doctor package.module:model --context-features 3",
    "backends": "made-fast backends",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        argv: the words after ``made-fast``; those of the process by default.

    Returns:
        The exit status: 0, or 1 after an error (2 of ``doctor``), or 130 after Ctrl-C. A usage error exits with 2 by itself.
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
        return int(getattr(args, "error_status", 1))


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
    add_threads(demo)
    _add_train_options(command("train", _train, "Fit a model by maximum likelihood and report its test NLL."))
    evaluate = command("evaluate", _evaluate, "Report a model's negative log-likelihood in nats a row.")
    evaluate.add_argument("model", type=Path, metavar="MODEL", help="file that train wrote")
    evaluate.add_argument("data", metavar="DATA", help="digits, or a .npz file")
    evaluate.add_argument("--split", choices=("train", "valid", "test"), default="test", help="which rows")
    evaluate.add_argument("--batch-size", type=positive, default=1000, help="rows at a time")
    add_threads(evaluate)
    cli_sample.add_options(command("sample", cli_sample.sample, "Draw samples into a .npz, .npy or .png file."))
    cli_doctor.add_options(command("doctor", cli_doctor.doctor, "Explain what drawing from a module or a flow takes."))
    shown = command("backends", _backends, "Show which backends can be used here, and how the compiled one was built.")
    shown.add_argument("--outputs", action="store_true", help="show what each output can do, and on which backends")
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
    model.add_argument("--hidden", type=positive, nargs="*", default=[500, 500], metavar="H", help="hidden widths")
    model.add_argument("--order", default="natural", help="natural, reversed, random, raster or columns")
    model.add_argument("--activation", default="relu", help="relu, elu, silu, tanh, softplus and others")
    model.add_argument("--direct", action="store_true", help="connect inputs to outputs too")
    model.add_argument("--residual", action="store_true", help="hidden layers as residual blocks")
    model.add_argument("--num-masks", type=count, default=1, metavar="N", help="masks of an ensemble; 0: without end")
    kinds = ("order", "connectivity", "both")
    model.add_argument("--shuffle", choices=kinds, default="both", help="what the masks of an ensemble differ in")
    model.add_argument("--mask-conditioning", action="store_true", help="biases that depend on the mask")
    model.add_argument("--seed", type=int, default=0, help="of the weights, a random order, the masks and the training")
    run = parser.add_argument_group("training")
    run.add_argument("--epochs", type=positive, default=200, help="stop after so many")
    run.add_argument("--batch-size", type=positive, default=100, help="rows of a minibatch")
    run.add_argument("--lr", type=float, default=1e-3, help="learning rate of AdamW")
    run.add_argument("--weight-decay", type=float, default=0.1, help="of AdamW, on weights and not on biases")
    run.add_argument("--input-dropout", type=float, default=0.0, help="probability of hiding an input while training")
    run.add_argument("--patience", type=positive, default=15, help="epochs without improvement before stopping")
    run.add_argument("--max-minutes", type=float, help="stop before an epoch that would end later")
    run.add_argument("--resume", action="store_true", help="go on from the checkpoint MODEL.ckpt")
    add_threads(run)


def _say_epoch(epoch: Epoch) -> None:
    mark = " *" if epoch.improved else ""
    losses = f"train {epoch.train_nll:8.3f}  valid {epoch.valid_nll:8.3f} nats"
    say(f"epoch {epoch.number:3d}  {losses}  lr {epoch.learning_rate:.2g}  {epoch.seconds:.1f} s{mark}")


def _train(args: argparse.Namespace) -> int:
    import torch

    from made_fast import datasets, training
    from made_fast.nn import MADE

    check_output(args.out)
    checkpoint = args.out.with_name(args.out.name + ".ckpt")
    if checkpoint.exists() and not args.resume:
        raise ValueError(f"{checkpoint} is from an unfinished run: add --resume to go on, or delete it to start anew")
    data = datasets.load(args.data)
    torch.manual_seed(args.seed)
    options = ("order", "activation", "direct", "residual", "num_masks", "shuffle", "mask_conditioning", "seed")
    model = MADE(data.features, args.hidden, **{name: getattr(args, name) for name in options})
    size = sum(parameter.numel() for parameter in model.parameters())
    say(f"{data.name}: {len(data.train):,} rows of {data.features} variables; {size:,} parameters")

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
    say(f"stopped: {why}; best epoch {best.number} of {len(history.epochs)}, valid {best.valid_nll:.3f} nats")
    say(f"test NLL {_figure(training.evaluate(model, data.test))} nats (95% interval, {len(data.test):,} rows)")
    say(f"model: {args.out}")
    if history.stopped == "time":
        say(f"checkpoint: {checkpoint}; with more --max-minutes {go_on}")
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
    say(f"{args.split} NLL {figure} nats (95% interval, {len(rows):,} rows of {data.name})")
    return 0


def _demo(args: argparse.Namespace) -> int:
    import torch

    from made_fast import datasets, training
    from made_fast.nn import MADE

    check_output(args.out, ".png")
    datasets.load_pillow()
    data = datasets.load("digits")
    torch.manual_seed(args.seed)
    model = MADE(data.features, (256, 256), direct=True)
    say(f"training a MADE on {len(data.train):,} handwritten digits of 8x8 pixels")
    start = time.monotonic()
    settings: dict[str, Any] = {"batch_size": 50, "input_dropout": 0.1, "max_minutes": 0.75}
    history = training.fit(model, data.train, data.valid, **settings, seed=args.seed, progress=True)
    say(f"{len(history.epochs)} epochs in {time.monotonic() - start:.1f} s")
    say(f"validation NLL {history.best.valid_nll:.3f} nats per image")
    agree = _compare_samplers(model, args.seed)
    real = datasets.image_grid(data.test[:100], (8, 8), columns=10, scale=5)
    drawn = model.sample(100, seed=args.seed, dtype=torch.uint8)
    picture = datasets.image_grid(drawn, (8, 8), columns=10, scale=5)
    datasets.write_png(args.out, {"real digits": real, "samples of the model": picture})
    say(f"picture: {args.out.resolve()}")
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
    say(f"{equal:,} of {rows:,} rows are equal, drawn with the naive and the cached sampler from seed {seed}")
    if equal < rows:
        say(f"{contradict:,} rows contradict the model; in the others a uniform lies within 1e-5 of its threshold")
    for name, best in seconds.items():
        say(f"{name:>7} sampler: {rows / best:12,.0f} rows per second ({best * 1e3:.2f} ms for {rows:,})")
    threads = torch.get_num_threads()
    say(f"the cached sampler is {seconds['naive'] / seconds['cached']:.0f} times as fast (threads: {threads})")
    return contradict == 0


def _backends(args: argparse.Namespace) -> int:
    from made_fast import backends, build_config

    if args.outputs:
        from made_fast.capabilities import markdown

        print(markdown())
        return 0
    rows = backends.table()
    width = max(len(row.name) for row in rows)
    print(f"{'name':<{width}}  usable  why not")
    for row in rows:
        print(f"{row.name:<{width}}  {'yes' if row.usable else 'no':<6}  {row.reason or '-'}")
    print()
    for key, value in build_config().items():
        print(f"{key}: {value}")
    return 0

"""Run studies: many small trainings on the same data, with the same seed and number of steps.

binsr study table --configs "bbcu_sr:row=*,scale=2" --budget 300 -o studies/bbcu
binsr study k --config bbcu_sr:row=bbcu_l --features 16,32 --budget 200 -o studies/k
binsr study activations --configs "bbcu_sr:row=v?,scale=2" --budget 0 -o studies/v1_v4
binsr study curves runs/one runs/two -o curves.png

"table" compares recipes with one another and with their papers, "k" finds the best amplification,
"activations" shows the activations inside the units, and "curves" is binsr plot. Each writes its
numbers as JSON lines beside the figure or table. The same command continues a stopped study:
finished rows are not trained again. "binsr runs" lists its work dirs.
"""

import argparse
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from binsr_jax import launcher
from binsr_jax.commands import plot
from binsr_jax.compress.importance import METHODS
from binsr_jax.compress.prune import prune
from binsr_jax.config import Config, copy_of
from binsr_jax.deploy.unpack import read_network
from binsr_jax.errors import UserError
from binsr_jax.files import expanded, printable, printable_lines, replace_text
from binsr_jax.json_lines import json_line
from binsr_jax.recipes import open_recipe
from binsr_jax.studies import activations, amplification, figures, pruning, report, table
from binsr_jax.studies.rows import Budget, Row, assign, choose, reduced, row_of
from binsr_jax.studies.runs import Result, StudyStoppedError, check, train_rows
from binsr_jax.training.trained import load_model
from binsr_jax.training.workdir import writing_to


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``binsr study``."""
    studies = parser.add_subparsers(dest="study", metavar="STUDY", required=True)

    compare = studies.add_parser("table", help="train recipes, and compare them in a table")
    _add_configs(compare, required=True)
    compare.add_argument(
        "--features",
        type=_positive,
        metavar="N",
        help="channels where the recipe has 64; others in proportion",
    )
    compare.add_argument("--budget", type=_positive, required=True, metavar="STEPS", help="steps")
    _add_training(compare)

    vary = studies.add_parser("k", help="PSNR against the amplification k")
    vary.add_argument("--config", required=True, metavar="RECIPE[:VARIANT]", help="a recipe")
    vary.add_argument(
        "--k",
        type=_numbers,
        default=(1.0, 8.0, 32.0, 65.0, 130.0, 260.0, 1040.0),
        metavar="K,K,...",
        help="values of k (default: 1 to 1040)",
    )
    vary.add_argument(
        "--features",
        type=_whole_numbers,
        default=(16, 32, 64),
        metavar="N,N,...",
        help="channels (default: 16,32,64)",
    )
    vary.add_argument("--budget", type=_positive, required=True, metavar="STEPS", help="steps")
    _add_training(vary)

    show = studies.add_parser(
        "activations", help="the sizes of activations on both branches of the units"
    )
    show.add_argument(
        "workdirs", type=Path, nargs="*", metavar="DIR", help="work dirs, instead of --configs"
    )
    _add_configs(show, required=False)
    show.add_argument(
        "--features",
        type=_positive,
        metavar="N",
        help="channels where the recipe has 64; others in proportion",
    )
    show.add_argument(
        "--budget", type=_not_negative, default=0, metavar="STEPS", help="steps; 0: as initialised"
    )
    _add_training(show)

    shrink = studies.add_parser("prune", help="pruned networks beside those trained at their size")
    shrink.add_argument(
        "network", metavar="FILE", help="a work dir, a trainable file or a model file to prune"
    )
    shrink.add_argument(
        "--features", type=_whole_numbers, required=True, metavar="N,N,...", help="channels to keep"
    )
    shrink.add_argument("--by", choices=METHODS, default="taylor", help="how parts are scored")
    shrink.add_argument("--budget", type=_positive, required=True, metavar="STEPS", help="steps")
    shrink.add_argument(
        "--side",
        type=_positive,
        default=400,
        help="side of the picture that is timed (default: 400)",
    )
    _add_training(shrink)

    plot.add_arguments(studies.add_parser("curves", help="loss and PSNR of work dirs: binsr plot"))


def _add_configs(parser: argparse.ArgumentParser, required: bool) -> None:
    parser.add_argument(
        "--configs",
        nargs="+",
        default=[],
        required=required,
        metavar="RECIPE[:VARIANT]",
        help="recipes; a variant with * stands for all rows of the file's table that fit",
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=_positive, default=8, metavar="N", help="patches in a step")
    parser.add_argument("--rate", type=float, default=1e-3, help="the highest learning rate")
    parser.add_argument(
        "--blocks", type=_positive, metavar="N", help="blocks (default: the recipe's)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="config.FIELD=VALUE",
        help="a field of all rows, as in binsr train; may be given again",
    )
    parser.add_argument(
        "--sets", type=_texts, default=(), metavar="SET,...", help="benchmark sets to score"
    )
    parser.add_argument(
        "--workdir",
        type=Path,
        metavar="DIR",
        help="folder of the rows' work dirs (default: OUTPUT/rows)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the results"
    )


def run(args: argparse.Namespace) -> int | None:
    """Runs ``binsr study``; the exit status is 128 + n if signal n stopped it."""
    if args.study == "curves":
        return plot.run(args)
    launcher.keep_compiled_programs()
    args.output = expanded(args.output)
    args.workdir = expanded(args.workdir or args.output / "rows")
    studies = {"table": _table, "k": _amplification, "activations": _activations}
    study = {**studies, "prune": _pruning}[args.study]
    try:
        with _terminated_like_interrupted(), writing_to(args.output):
            args.output.mkdir(parents=True, exist_ok=True)
            return study(args)
    except StudyStoppedError as stopped:
        status = stopped.status
    except _TerminatedError:
        status = 128 + signal.SIGTERM
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    print("Stopped; the same command continues from there.", file=sys.stderr)
    return status


def _table(args: argparse.Namespace) -> int:
    """Trains the rows and writes the table after each of them."""
    rows = _rows(args)
    images = check(rows)
    done: list[Result] = []
    lines = report.inputs(rows)
    for result in train_rows(rows, args.workdir, images):
        done.append(result)
        lines.append(report.json_row(result))
        about = report.about(rows, len(done))
        found = table.agreement(lines)
        _write(args.output / "table.md", table.markdown(about, lines))
        _write(args.output / "table.tex", table.latex(about, lines))
        _write(args.output / "table.csv", table.comma_separated(lines))
        _write_rows(
            args.output / "table.jsonl",
            [{"about": about}, *lines, *({"agreement": one} for one in found)],
        )
    print(printable_lines((args.output / "table.md").read_text(encoding="utf-8")), end="")
    return _status(done)


def _amplification(args: argparse.Namespace) -> int:
    recipe = open_recipe(args.config)
    config = _reduced(recipe.config, args, features=None)
    rows = amplification.rows(row_of(recipe, config), args.features, args.k)
    images = check(rows)
    points: list[dict[str, Any]] = []
    done: list[Result] = []
    for result in train_rows(rows, args.workdir, images):
        done.append(result)
        model = result.row.config.model
        points.append(
            {
                "features": model.features,
                "k": model.amplification,
                "scores": result.scores,
                "images": result.images,
                "error": result.error,
            }
        )
        _write_rows(args.output / "k.jsonl", [{"about": report.about(rows, len(done))}, *points])
    figures.save(amplification.figure(points), args.output / "k.png")
    print(printable(f"Wrote {args.output / 'k.png'} and k.jsonl."))
    return _status(done)


def _activations(args: argparse.Namespace) -> int:
    if bool(args.workdirs) == bool(args.configs):
        raise UserError("Name work dirs, or recipes with --configs.")
    rows: list[dict[str, Any]] = []
    for workdir, title in figures.shortest_names(args.workdirs).items():
        config, _, variables, _ = load_model(workdir, "latest")
        config = copy_of(config)
        for setting in args.set:  # such as the new folder of the images
            assign(config, setting)
        rows += activations.describe(title, config, variables)
    done: list[Result] = []
    if args.configs:
        trained = _rows(args)
        images = check(trained)
        if args.budget:
            done = list(train_rows(trained, args.workdir, images))
        for row in trained:
            variables = activations.initial_variables(row.config)
            if args.budget:
                variables = load_model(args.workdir / row.name, "latest")[2]
            rows += activations.describe(row.title, row.config, variables)
    edges = [float(edge) for edge in activations.EDGES]
    _write_rows(args.output / "activations.jsonl", [{"edges": edges}, *rows])
    figures.save(activations.figure(rows), args.output / "activations.png")
    print(printable(f"Wrote {args.output / 'activations.png'} and activations.jsonl."))
    return _status(done)


def _pruning(args: argparse.Namespace) -> int:
    whole = read_network(args.network)
    args.output.mkdir(parents=True, exist_ok=True)
    blocks, args.blocks = args.blocks, None
    config = _reduced(whole.config, args, features=None)
    smaller = [prune(whole, blocks, features, args.by) for features in args.features]
    rows = pruning.rows(Path(args.network), whole, smaller, config, args.output)
    images = check(rows)
    results = list(train_rows(rows, args.workdir, images))
    points: list[dict[str, Any]] = []
    for result in results:
        model, name = result.row.config.model, result.row.name
        point = {"title": result.row.title, "kind": result.row.recipe, "blocks": model.blocks}
        point |= {"features": model.features, "steps": args.budget, "scores": result.scores}
        if not result.error:
            file = args.output / f"{name}.binsr"
            points.append(point | pruning.measured(args.workdir / name, file, args.side))
    before = [pruning.untrained(pruned.network, config) for pruned in smaller]
    about = {"by": args.by, "budget": args.budget, "batch": args.batch, "network": args.network}
    _write_rows(args.output / "prune.jsonl", [about, *points, *before])
    figures.save(pruning.figure(points), args.output / "prune.png")
    for row in (*points, *before):
        scores = ", ".join(f"{name} {value:.3f}" for name, value in row["scores"].items())
        size = f"{row['file_bytes']:,} bytes, " if "file_bytes" in row else ""
        print(printable(f"{row['title']}: {size}{scores}"))
    print(printable(f"Wrote {args.output / 'prune.png'} and prune.jsonl."))
    return _status(results)


def _rows(args: argparse.Namespace) -> list[Row]:
    """The rows that ``--configs`` names."""
    return [
        row_of(recipe, _reduced(recipe.config, args, args.features))
        for recipe in choose(args.configs)
    ]


def _reduced(config: Config, args: argparse.Namespace, features: int | None) -> Config:
    budget = Budget(max(args.budget, 1), args.batch, args.rate)
    return reduced(
        config,
        budget,
        features=features,
        blocks=args.blocks,
        sets=args.sets,
        settings=args.set,
    )


def _write(path: Path, text: str) -> None:
    with writing_to(path.parent):
        replace_text(path, text)


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    _write(path, "".join(map(json_line, rows)))


def _status(results: Sequence[Result]) -> int:
    """0, or 1 with a sentence if a row failed."""
    for result in results:
        if result.error:
            print(printable(f"error: {result.row.title} failed: {result.error}"), file=sys.stderr)
    return int(any(result.error for result in results))


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM outside of a training, which handles it itself."""


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Makes SIGTERM end the work between trainings like Ctrl-C; a training handles both itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise _TerminatedError

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _positive(text: str) -> int:
    return _at_least(text, 1)


def _not_negative(text: str) -> int:
    return _at_least(text, 0)


def _at_least(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least}")
    return int(text)


def _texts(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, (part.strip() for part in text.split(",")))))


def _whole_numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(_positive(part) for part in _texts(text))
    if not numbers:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers, such as 16,32")
    return numbers


def _numbers(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in _texts(text))
    except ValueError:
        numbers = ()
    if not numbers or not all(0 < number < float("inf") for number in numbers):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of numbers above 0, such as 1,65,130"
        )
    return numbers

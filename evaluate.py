"""Scores a trained network, a packed one, or the degraded input itself, on benchmark sets.

    python evaluate.py --workdir DIR --sets Set5,Set14 --data_dir FOLDER
    python evaluate.py --model model.binsr --engine packed --sets Set5 --data_dir FOLDER
    python evaluate.py --bicubic --scale 2 --sets samples
    python evaluate.py --degraded --task denoise --levels 15,50 --sets CBSD68,Kodak24@500

Prints a Markdown table, in which the input's own score stands above each network's, and appends one
JSON line an image and one a set to results.jsonl, in the work dir or in --output. A benchmark set
is a folder FOLDER/Set5/*.png of HR images, or FOLDER/Set5/HR/*.png with
FOLDER/Set5/LR_bicubic/X2/*x2.png; "samples" are the held-out images that come with the package, and
Kodak24@500 are the 500x500 pixels in the middle of each image of Kodak24.
"""

import datetime
from collections.abc import Sequence
from pathlib import Path

from absl import flags, logging

from binsr_jax import launcher
from binsr_jax.errors import UserError
from binsr_jax.evaluation import benchmark, report, subject
from binsr_jax.evaluation.sets import load_sets
from binsr_jax.tasks import TASKS, task_of

WORKDIR = flags.DEFINE_string("workdir", None, "Score the network trained in this work dir.")
MODEL = flags.DEFINE_string("model", None, "Score the network in this file of binsr pack.")
ENGINE = flags.DEFINE_enum("engine", None, ["packed", "float"], "How --model is worked.")
DEGRADED = flags.DEFINE_bool("degraded", False, "Score the degraded input of --task itself.")
TASK = flags.DEFINE_enum("task", None, list(TASKS), "Task of --degraded; default sr.")
BICUBIC = flags.DEFINE_bool("bicubic", False, "Score bicubic enlargement: --degraded --task sr.")
WHICH = flags.DEFINE_enum("which", "best", ["best", "latest"], "Which checkpoint of the work dir.")
SETS = flags.DEFINE_list("sets", None, "Benchmark sets; default: eval.sets of the config.")
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of the sets; default: eval.data_dir of the config, else $BINSR_DATA."
)
SCALE = flags.DEFINE_integer(
    "scale", None, "Scale of super-resolution; default 2.", lower_bound=2, upper_bound=4
)
LEVELS = flags.DEFINE_list(
    "levels", None, "Sigmas of the noise, or JPEG qualities; default: eval.levels of the config."
)
SAVE_IMAGES = flags.DEFINE_string(
    "save_images", None, "Write restored images and side-by-side pictures under this folder."
)
OUTPUT = flags.DEFINE_string(
    "output", None, "Folder of results.jsonl; default: the work dir, or here without one."
)


def main(argv: Sequence[str]) -> None:
    del argv
    if [bool(WORKDIR.value), bool(MODEL.value), BICUBIC.value, DEGRADED.value].count(True) != 1:
        raise UserError("Give one of --workdir=DIR, --model=FILE, --degraded and --bicubic.")
    if TASK.value and not DEGRADED.value:
        raise UserError("--task goes with --degraded: a network has its own task.")
    if ENGINE.value and not MODEL.value:
        raise UserError("--engine goes with --model=FILE, which binsr pack makes of a work dir.")
    if WORKDIR.value:
        which = "best" if WHICH.value == "best" else "latest"
        scored = subject.trained(WORKDIR.value, which, SCALE.value)
    elif MODEL.value:
        engine = "float" if ENGINE.value == "float" else "packed"
        scored = subject.packed(MODEL.value, engine, SCALE.value)
    else:
        scored = subject.degraded(TASK.value or "sr", SCALE.value)
    config = scored.config
    if LEVELS.value:
        config.eval.levels = tuple(int(n) if n.isdecimal() else n for n in LEVELS.value)
    names = [name.strip() for name in SETS.value or () if name.strip()] or config.eval.sets
    sets = load_sets(names, DATA_DIR.value or config.eval.data_dir, task_of(config))
    results = Path(OUTPUT.value or WORKDIR.value or ".").expanduser() / "results.jsonl"
    images_dir = Path(SAVE_IMAGES.value).expanduser() if SAVE_IMAGES.value else None
    time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

    set_rows = []
    for images in sets:
        rows = [
            scored.about | {"time": time} | row
            for row in benchmark.score_set(images, scored.restore, images_dir)
        ]
        before = report.input_row(rows[-1])
        report.append_rows(results, [{"time": time} | before, *rows] if before else rows)
        set_rows.append(rows[-1])
    print(report.table(set_rows), flush=True)
    for note in report.notes(set_rows):
        print(f"\n{note}", flush=True)
    logging.info("One line an image and one a set are in %s", results)
    if images_dir is not None:
        folders = ", ".join(str(images_dir / images.name) for images in sets)
        logging.info("Restored images, and comparisons beside them, are in %s", folders)


if __name__ == "__main__":
    launcher.run(main)

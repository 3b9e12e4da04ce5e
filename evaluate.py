"""Scores a trained network, or bicubic enlargement, on benchmark sets.

    python evaluate.py --workdir DIR --sets Set5,Set14 --data_dir FOLDER
    python evaluate.py --bicubic --scale 2 --sets samples

Prints a Markdown table and appends one JSON line an image and one a set to results.jsonl, in the
work dir or in --output. A benchmark set is a folder FOLDER/Set5/*.png of HR images, or
FOLDER/Set5/HR/*.png with FOLDER/Set5/LR_bicubic/X2/*x2.png; "samples" are the held-out images that
come with the package.
"""

import datetime
from collections.abc import Sequence
from pathlib import Path

from absl import flags, logging

from binsr_jax import cli
from binsr_jax import config as config_lib
from binsr_jax.errors import UserError
from binsr_jax.evaluation import benchmark, report
from binsr_jax.tasks import task_of
from binsr_jax.training.checkpoint import load_model

WORKDIR = flags.DEFINE_string("workdir", None, "Score the network trained in this work dir.")
BICUBIC = flags.DEFINE_bool("bicubic", False, "Score bicubic enlargement.")
WHICH = flags.DEFINE_enum("which", "best", ["best", "latest"], "Which checkpoint of the work dir.")
SETS = flags.DEFINE_list("sets", None, "Benchmark sets; default: eval.sets of the config.")
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of the sets; default: eval.data_dir of the config, else $BINSR_DATA."
)
SCALE = flags.DEFINE_integer(
    "scale", None, "Scale of --bicubic; default 2.", lower_bound=2, upper_bound=4
)
SAVE_IMAGES = flags.DEFINE_string(
    "save_images", None, "Write restored images and side-by-side pictures under this folder."
)
OUTPUT = flags.DEFINE_string(
    "output", None, "Folder of results.jsonl; default: the work dir, or here for --bicubic."
)


def main(argv: Sequence[str]) -> None:
    del argv
    if BICUBIC.value == bool(WORKDIR.value):
        raise UserError("Give one of --workdir=DIR (score its network) and --bicubic.")
    if WORKDIR.value:
        which = "best" if WHICH.value == "best" else "latest"
        config, model, variables, step = load_model(WORKDIR.value, which)
        restore = benchmark.restorer(model, variables)
        if SCALE.value not in (None, config.scale):
            raise UserError(
                f"--scale is {SCALE.value}, but the network in {WORKDIR.value} was trained for "
                f"scale {config.scale}; leave --scale out."
            )
        about = {"method": config.model.name, "step": step}
    else:
        config, restore, about = config_lib.default(), None, {"method": "bicubic"}
        config.scale = SCALE.value or 2

    names = [name.strip() for name in SETS.value or () if name.strip()] or config.eval.sets
    task, data_dir = task_of(config), DATA_DIR.value or config.eval.data_dir
    sets = [benchmark.load_set(name, data_dir, task) for name in dict.fromkeys(names)]
    results = Path(OUTPUT.value or WORKDIR.value or ".").expanduser() / "results.jsonl"
    images_dir = Path(SAVE_IMAGES.value).expanduser() if SAVE_IMAGES.value else None
    about["time"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

    set_rows = []
    for images in sets:
        rows = [about | row for row in benchmark.score_set(images, restore, images_dir)]
        report.append_rows(results, rows)
        set_rows.append(rows[-1])
    print(report.table(set_rows), flush=True)
    logging.info("One line an image and one a set are in %s", results)


if __name__ == "__main__":
    cli.run(main)

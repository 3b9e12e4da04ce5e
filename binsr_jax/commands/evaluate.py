"""Score a network, or the degraded input itself, on benchmark sets.

    binsr evaluate --workdir DIR --sets Set5,Set14 --data-dir FOLDER
    binsr evaluate --model model.binsr --engine packed --sets Set5 --data-dir FOLDER
    binsr evaluate --bicubic --scale 2 --sets samples
    binsr evaluate --degraded --task denoise --levels 15,50 --sets CBSD68,Kodak24@500
    binsr evaluate --model model.binsr --task photo --sets B100
    binsr evaluate --workdir DIR --teacher runs/float --sets B100
    binsr evaluate --model model.binsr --sets B100 --lpips lpips.pth

It prints a Markdown table, with the input's own score above each network's. It appends one JSON
line per image and one per set to results.jsonl, in the work dir or in --output.

A benchmark set is a folder of HR images, FOLDER/Set5/*.png, or FOLDER/Set5/HR/*.png with
FOLDER/Set5/LR_bicubic/X2/*x2.png. The set "samples" is the held-out images of the package.
Kodak24@500 takes the 500x500 pixels in the middle of each image of Kodak24.

With --teacher, the output of another network takes the place of the images: the scores say how near
a network comes to the one that it imitates.

With --lpips, it also scores LPIPS. Its weights do not come with binsr-jax. Python saves them with

    import lpips, torch; torch.save(lpips.LPIPS(net="alex").state_dict(), "lpips.pth")

where the packages lpips and torchvision are installed.

With --task, a network is scored by the protocol of another task of the same scale: for example a
network for clean images on photographs, or a colour network on luma.
"""

import datetime
from collections.abc import Sequence
from functools import partial
from typing import Any

from absl import flags, logging

from binsr_jax.deploy.unpack import read_network
from binsr_jax.errors import UserError
from binsr_jax.evaluation import benchmark, report, subject
from binsr_jax.evaluation.lpips import load_lpips
from binsr_jax.evaluation.sets import load_sets
from binsr_jax.files import expanded, printable_lines
from binsr_jax.pretrained import file_of
from binsr_jax.tasks import TASKS, task_of
from binsr_jax.training.transfer import picture_teacher


def define_flags(argv: Sequence[str]) -> flags.FlagValues:
    """The flags of ``binsr evaluate``, which do not depend on its arguments."""
    del argv
    values = flags.FlagValues()
    text = partial(flags.DEFINE_string, default=None, flag_values=values)
    texts = partial(flags.DEFINE_list, default=None, flag_values=values)
    choice = partial(flags.DEFINE_enum, flag_values=values)
    switch = partial(flags.DEFINE_bool, default=False, flag_values=values)
    text("workdir", help="Score the network trained in this work dir.")
    text("model", help="Score the network of this model file, or of this name of binsr models.")
    choice("engine", None, ["packed", "float"], "How --model computes.")
    switch("degraded", help="Score the degraded input of --task itself.")
    choice("task", None, list(TASKS), "Task to score; default: the network's, or sr of --degraded.")
    switch("bicubic", help="Score bicubic enlargement: --degraded --task sr.")
    choice("which", "best", ["best", "latest"], "Which checkpoint of the work dir.")
    texts("sets", help="Benchmark sets; default: eval.sets of the config.")
    text("teacher", help="Score against the output of this network, not against the images.")
    text("lpips", help="Score LPIPS too, with the weights in this file.")
    text("data_dir", help="Folder of the sets; default: eval.data_dir, else $BINSR_DATA.")
    flags.DEFINE_integer(
        "scale",
        None,
        "Scale of super-resolution; default 2.",
        lower_bound=2,
        upper_bound=4,
        flag_values=values,
    )
    texts("levels", help="Sigmas of the noise, or JPEG qualities; default: eval.levels.")
    text("save_images", help="Write restored images and side-by-side pictures to this folder.")
    text("output", help="Folder of results.jsonl; default: the work dir, or here without one.")
    return values


def run(values: flags.FlagValues) -> None:
    """Runs ``binsr evaluate``."""
    if [bool(values.workdir), bool(values.model), values.bicubic, values.degraded].count(True) != 1:
        raise UserError("Give one of --workdir=DIR, --model=FILE, --degraded and --bicubic.")
    if values.task and values.bicubic:
        raise UserError("--task does not go with --bicubic, which is --degraded --task sr.")
    if values.engine and not values.model:
        raise UserError("--engine goes with --model=FILE, which binsr pack makes of a work dir.")
    if values.workdir:
        which = "best" if values.which == "best" else "latest"
        scored = subject.trained(values.workdir, which, values.scale)
    elif values.model:
        engine = "float" if values.engine == "float" else "packed"
        scored = subject.packed(str(file_of(values.model)), engine, values.scale)
    else:
        scored = subject.degraded(values.task or "sr", values.scale)
    if values.task and scored.restore is not None:
        scored = subject.scored_as(scored, values.task)
    config = scored.config
    if values.levels:  # the task refuses levels that are no numbers
        levels: Any = tuple(int(n) if n.isdecimal() else n for n in values.levels)
        config.eval.levels = levels
    names = [name.strip() for name in values.sets or () if name.strip()] or config.eval.sets
    sets = load_sets(names, values.data_dir or config.eval.data_dir, task_of(config))
    if values.teacher:
        config.train.teacher = values.teacher
        teacher = picture_teacher(config, read_network)
        sets = [images.against(teacher) for images in sets]
    lpips = load_lpips(expanded(values.lpips)) if values.lpips else None
    results = expanded(values.output or values.workdir or ".") / "results.jsonl"
    images_dir = expanded(values.save_images) if values.save_images else None
    time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

    set_rows = []
    for images in sets:
        rows = [
            scored.about | {"time": time} | row
            for row in benchmark.score_set(images, scored.restore, images_dir, lpips)
        ]
        before = report.input_row(rows[-1])
        report.append_rows(results, [{"time": time} | before, *rows] if before else rows)
        set_rows.append(rows[-1])
    print(printable_lines(report.table(set_rows)), flush=True)
    for note in report.notes(set_rows):
        print(printable_lines(f"\n{note}"), flush=True)
    logging.info("Wrote a line for each image and each set to %s", results)
    if images_dir is not None:
        folders = ", ".join(str(images_dir / images.name) for images in sets)
        logging.info("Wrote restored images and comparisons to %s", folders)

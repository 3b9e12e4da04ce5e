"""The page's controls: what a visitor chooses on the left, what comes back on the right."""

from dataclasses import dataclass

import gradio as gr

from binsr_jax.image_files import IMAGE_SUFFIXES
from binsr_jax.pretrained import Packaged
from binsr_jax.service.markup import welcome
from binsr_jax.service.networks import TASKS

AUTOMATIC = "automatic"
FORMATS = {"as the picture": None, "PNG": "png", "JPEG": "jpg", "WebP": "webp", "TIFF": "tif"}
LABELS = {True: "Bicubic | restored", False: "Before | restored"}  # by whether it enlarges
WHOLE, PART = "Whole picture", "Part at full size"


@dataclass(frozen=True)
class Choices:
    """The controls of an order."""

    files: gr.File
    task: gr.Radio
    scale: gr.Radio
    model: gr.Dropdown
    strength: gr.Slider
    form: gr.Dropdown
    start: gr.Button
    stop: gr.Button


@dataclass(frozen=True)
class Results:
    """The controls that show the results of an order."""

    status: gr.HTML
    slider: gr.ImageSlider
    position: gr.Slider
    pick: gr.Dropdown
    view: gr.Radio
    across: gr.Slider
    down: gr.Slider
    download: gr.DownloadButton
    table: gr.HTML

    @property
    def places(self) -> list[gr.Dropdown | gr.Radio | gr.Slider]:
        """The controls that choose the picture to show, and the part of it."""
        return [self.pick, self.view, self.across, self.down]


def lay_out(
    networks: dict[str, Packaged], most_pictures: int, most_pixels: int
) -> tuple[Choices, Results]:
    """The page's controls, placed in the current ``gr.Blocks``.

    Args:
        networks: The networks that are offered.
        most_pictures: The largest number of pictures in one order.
        most_pixels: The largest number of pixels of a picture.
    """
    gr.HTML(
        "<h1>binsr</h1><p>Enlarge and clean pictures with 1-bit networks. "
        "They stay on the machine that runs this page.</p>",
        elem_id="head",
    )
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=300, elem_id="choices"):
            choices = _choices(networks)
        with gr.Column(scale=2, min_width=320, elem_id="results"):
            results = _results(welcome(most_pictures, most_pixels))
    return choices, results


def models_of(networks: dict[str, Packaged], task: str, scale: int) -> list[tuple[str, str]]:
    """The models for a task and a scale: the text that is shown, and the value."""
    fitting = [
        network
        for network in networks.values()
        if network.task == task and network.scale == (scale if task == "upscale" else 1)
    ]
    shown = [(f"{network.name}: for {network.about}", network.name) for network in fitting]
    return [("Automatic", AUTOMATIC), *shown]


def _choices(networks: dict[str, Packaged]) -> Choices:
    tasks = [(TASKS[t], t) for t in TASKS if any(n.task == t for n in networks.values())]
    scales = sorted({n.scale for n in networks.values() if n.scale > 1})
    first_task, first_scale = tasks[0][1], scales[0] if scales else None
    files = gr.File(
        label="Pictures",
        file_count="multiple",
        file_types=list(IMAGE_SUFFIXES),
        height=170,
        elem_id="pictures",
    )
    task = gr.Radio(tasks, value=first_task, label="Task", elem_id="task")
    scale = gr.Radio(
        [(f"{s} times", s) for s in scales],
        value=first_scale,
        label="Scale",
        elem_id="scale",
        visible=first_task == "upscale",
    )
    model = gr.Dropdown(
        models_of(networks, first_task, first_scale or 1),
        value=AUTOMATIC,
        label="Model",
        elem_id="model",
    )
    strength = gr.Slider(0, 1, 1, step=0.05, label="Strength", visible=False, elem_id="strength")
    form = gr.Dropdown(list(FORMATS), value="as the picture", label="Format", elem_id="form")
    with gr.Row():
        start = gr.Button("Restore", variant="primary", min_width=80, elem_id="start")
        stop = gr.Button("Stop", interactive=False, min_width=80, elem_id="stop")
    return Choices(files, task, scale, model, strength, form, start, stop)


def _results(welcome: str) -> Results:
    status = gr.HTML(welcome)
    slider = gr.ImageSlider(
        label=LABELS[True],
        type="filepath",
        interactive=False,
        visible=False,
        max_height=560,
        buttons=["fullscreen"],
        elem_id="compare",
    )
    position = gr.Slider(
        0, 100, 50, step=1, label="Move the line", visible=False, elem_id="position"
    )
    with gr.Row():
        pick = gr.Dropdown(label="Picture", visible=False, elem_id="pick")
        view = gr.Radio([WHOLE, PART], value=WHOLE, label="Show", visible=False, elem_id="view")
    with gr.Row():
        across = gr.Slider(0, 1, 0.5, step=0.01, label="Across", visible=False)
        down = gr.Slider(0, 1, 0.5, step=0.01, label="Down", visible=False)
    download = gr.DownloadButton("Download", visible=False, variant="primary", elem_id="download")
    table = gr.HTML(elem_id="table")
    return Results(status, slider, position, pick, view, across, down, download, table)

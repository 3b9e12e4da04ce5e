"""What a study reports: its settings in words, and the rows of its table."""

from collections.abc import Sequence
from functools import partial

from binsr_jax import cost
from binsr_jax.data.degradations import DEGRADATIONS, as_image
from binsr_jax.data.sources import source_names
from binsr_jax.evaluation.benchmark import validator
from binsr_jax.studies import table
from binsr_jax.studies.rows import Row
from binsr_jax.studies.runs import Result
from binsr_jax.tasks import task_of


def inputs(rows: Sequence[Row]) -> list[table.Row]:
    """The scores of the degraded input itself, the baseline, for each task among the rows."""
    found: dict[str, table.Row] = {}
    for row in rows:
        task = task_of(row.config)
        title = f"{DEGRADATIONS[task.degradation].title} ({task.name})"
        if title not in found:
            scores, _, images = validator(row.config)(partial(as_image, scale=task.scale), 0)
            found[title] = {"title": title, "scores": scores, "images": images}
    return list(found.values())


def json_row(result: Result) -> table.Row:
    """A row of the table, for ``binsr_jax.studies.table``."""
    row, config, published = result.row, result.row.config, result.row.published
    convention = cost.CONVENTIONS[published.convention]
    counted = cost.count(config, convention.size)
    operations = convention.true_operations or convention.operations
    return {
        "title": row.title,
        "recipe": row.recipe,
        "operations": operations(counted) / 1e9,
        "parameters": convention.parameters(counted) / 1e3 if convention.parameters else None,
        "convention": published.convention,
        "file_bytes": counted.file_bytes,
        "scores": result.scores,
        "images": result.images,
        "steps": config.train.steps,
        "seconds": result.seconds,
        "error": result.error,
        "published": {
            "operations": published.operations,
            "parameters": published.parameters,
            "scores": dict(published.scores),
        },
    }


def about(rows: Sequence[Row], finished: int) -> str:
    """The common settings of the rows, in a sentence or two."""
    configs = [row.config for row in rows]
    train = configs[0].train

    def of(part: str, field: str) -> str:
        values = sorted({config[part][field] for config in configs}, key=str)
        return " or ".join(f"{value:g}" for value in values)

    conventions = {
        row.published.convention: cost.CONVENTIONS[row.published.convention] for row in rows
    }
    costs = [
        f"{name} ({'x'.join(map(str, convention.size))} pixels, {convention.summary}"
        + ("; here without counting them again)" if convention.true_operations else ")")
        for name, convention in conventions.items()
    ]
    protocols = dict.fromkeys(task_of(config).protocol for config in configs)
    seeds = sorted({config.seed for config in configs})
    sources = dict.fromkeys(name for config in configs for name in source_names(config))
    text = (
        f"Reduced-budget study: {train.steps:,} steps of batch {train.batch}, HQ patches of "
        f"{of('data', 'patch')} pixels from {' and '.join(sources)}, networks of "
        f"{of('model', 'features')} features and {of('model', 'blocks')} blocks; "
        f"Adam ({train.beta1:g}, {train.beta2:g}) on L1, {train.warmup} steps of "
        f"warm-up to {train.learning_rate:g} and a cosine to {train.final_rate:g}; "
        f"seed {' or '.join(map(str, seeds))}. PSNR in dB "
        f"({'; '.join(protocols)}) after the last step. In brackets: published, of the full "
        f"network and training. Costs as in {' and '.join(costs)}."
    )
    if finished < len(rows):
        text += f" So far {finished} of {len(rows)} rows."
    return text

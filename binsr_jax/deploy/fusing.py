"""Makes native calls of float steps in a row: a convolution's, and those of an image skip."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from binsr_jax.deploy.program import FLOAT_LAYER, IMAGE_SKIP, Half, Step

_LEAKY_RELU = ["ge", "mul", "select_n"]
# What ``models.edsr`` does at the end of a network with a bilinear image skip. z is what it made
# of the image x, and c1 to c4 are constants:
#
#     a = sub(x, c1), b = mul(c2, a), c = reduce_precision(b), d = upsample_bilinear(c)
#     e = add(z, d), f = mul(c3, e), g = reduce_precision(f), add(g, c4)
_SKIP = ["sub", "mul", "reduce_precision", "upsample_bilinear"]
_SKIP += ["add", "mul", "reduce_precision", "add"]
_NO_BIAS = np.full(1, -0.0, np.float32)  # the sum with it leaves every float as it is, also -0


def fused(half: Half) -> Half:
    """The same half with fewer steps; the result is the same to the last bit.

    Each ``float_conv`` and what follows it is a ``float_layer``: a bias must follow, and a leaky
    ReLU and a pixel shuffle may. A bilinear image skip at the end is an ``image_skip``.
    """
    return _with_skip(_with_layers(half))


def _with_layers(half: Half) -> Half:
    uses = Counter(number for step in half.steps for number in step.inputs)
    uses[half.output] += 1
    steps, constants = [], dict(half.constants)
    rest = list(half.steps)
    unused = itertools.count(1 + max([*constants, *(step.output for step in rest)], default=0))
    while rest:
        count, slope = _layer(rest, half.constants, uses)
        if not count:
            steps.append(rest.pop(0))
            continue
        (x, kernel), last = rest[0].inputs, rest[count - 1]
        (bias,) = (n for n in rest[1].inputs if n in half.constants)
        number = next(unused)
        constants[number] = np.full(1, slope, np.float32)
        constants[bias] = half.constants[bias].reshape(-1)
        shuffle = last.size // rest[0].size
        inputs = (x, kernel, bias, number)
        steps.append(
            replace(last, name=FLOAT_LAYER, inputs=inputs, attributes={"shuffle": shuffle})
        )
        del rest[:count]
    return _half(half, steps, constants)


def _with_skip(half: Half) -> Half:
    """The half in which the steps of ``_SKIP``, and a bias before them, are one."""
    before, last = list(half.steps[: -len(_SKIP)]), half.steps[-len(_SKIP) :]
    uses = Counter(number for step in half.steps for number in step.inputs)
    if [step.name for step in last] != _SKIP or last[-1].output != half.output:
        return half
    others = []  # what each step takes beside the output of the one before it
    for step, following in itertools.pairwise(last):
        if following.inputs.count(step.output) != 1 or uses[step.output] != 1:
            return half
        others.append([number for number in following.inputs if number != step.output])
    (gain,), _, _, (z,), (scale,), _, (offset,) = others
    image, shift = last[0].inputs
    bias, channels = None, last[-1].channels
    if before and before[-1].name == "add" and before[-1].output == z and uses[z] == 1:
        constant = [number for number in before[-1].inputs if number in half.constants]
        if len(constant) == 1:
            (bias,) = constant
            (z,) = (number for number in before.pop().inputs if number != bias)
    rows = [_row(half.constants.get(n), channels) for n in (shift, gain, scale, offset)]
    rows.insert(0, _NO_BIAS if bias is None else _row(half.constants[bias], channels))
    if image not in half.inputs or last[0].size != 1 or any(row is None for row in rows):
        return half
    number = 1 + max([*half.constants, *half.inputs, *(step.output for step in half.steps)])
    table = np.stack([np.broadcast_to(row, channels) for row in rows if row is not None])
    inputs, attributes = (z, image, number), {"factor": last[-1].size}
    step = replace(last[-1], name=IMAGE_SKIP, inputs=inputs, attributes=attributes)
    return _half(half, [*before, step], {**half.constants, number: table})


def _row(number: np.ndarray | None, channels: int) -> np.ndarray | None:
    """A constant as one number for all channels or for each; None if it is something else."""
    if number is None or np.size(number) not in (1, channels):
        return None
    return np.ravel(number).astype(np.float32)


def _half(half: Half, steps: Sequence[Step], constants: dict[int, np.ndarray]) -> Half:
    """A half of other steps, with the constants that they use."""
    used = {number for step in steps for number in step.inputs}
    kept = {n: constant for n, constant in constants.items() if n in used}
    return Half(tuple(steps), kept, half.inputs, half.output)


def _layer(
    steps: Sequence[Step], constants: dict[int, np.ndarray], uses: Counter[int]
) -> tuple[int, float]:
    """How many of the first steps are one layer, 0 if they are none, and its slope below 0."""
    if [step.name for step in steps[:2]] != ["float_conv", "add"]:
        return 0, 1.0
    convolution, biased = steps[:2]
    (bias,) = set(biased.inputs) - {convolution.output} or {convolution.output}
    shared = uses[convolution.output] != 1 or uses[bias] != 1
    if bias not in constants or constants[bias].size != convolution.channels or shared:
        return 0, 1.0
    count, slope = 2, 1.0
    if [step.name for step in steps[2:5]] == _LEAKY_RELU and uses[biased.output] == 3:
        sign, scaled, chosen = steps[2:5]
        zero, factor = (
            constants.get(next((n for n in step.inputs if n != biased.output), -1))
            for step in (sign, scaled)
        )
        if (
            sign.inputs[0] == biased.output
            and zero is not None
            and not np.any(zero)
            and factor is not None
            and factor.size == 1
            and chosen.inputs == (sign.output, scaled.output, biased.output)
            and uses[sign.output] == uses[scaled.output] == 1
        ):
            count, slope = 5, float(factor.reshape(()))
    follows = steps[count : count + 1]
    made = steps[count - 1].output
    if follows and follows[0].name == "pixel_shuffle" and uses[made] == 1:
        count += follows[0].inputs == (made,)
    return count, slope

"""Makes one native call of a float convolution and the steps that follow it in a program."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from binsr_jax.deploy.program import Half, Step

_LEAKY_RELU = ["ge", "mul", "select_n"]


def fused(half: Half) -> Half:
    """The same half, in which each ``float_conv`` and what follows it is a ``float_layer``.

    A bias must follow, and a leaky ReLU and a pixel shuffle may. The result is the same to the last
    bit.
    """
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
            replace(last, name="float_layer", inputs=inputs, attributes={"shuffle": shuffle})
        )
        del rest[:count]
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

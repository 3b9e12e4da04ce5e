"""The two layouts of binary weights: a string of bits in a model file, words in the engine.

The conversion never unpacks all bits at once, which would take 8 times their memory, or 32 times as
floats.
"""

import numpy as np

from binsr_jax.ops.packed import word_count

Kernel = tuple[int, int, int, int]  # [kh, kw, I, O]


def words_of(data: np.ndarray, kernel: Kernel) -> np.ndarray:
    """The words of ``ops.packed.pack_weights``: uint32 ``[kh, kw, ceil(I / 32), O]``.

    Args:
        data: uint8, a string of ``kh * kw * I * O`` bits over ``[kh, kw, I, O]``, the last axis
            fastest, the least significant bit of a byte first.
        kernel: The shape of the kernel.
    """
    kh, kw, inputs, outputs = kernel
    count = inputs * outputs
    words = np.empty((kh * kw, word_count(inputs), outputs), np.uint32)
    for i in range(kh * kw):
        first = i * count // 8
        bits = np.unpackbits(data[first : -(-(i + 1) * count // 8)], bitorder="little")
        bits = bits[i * count - 8 * first :][:count].reshape(inputs, outputs)
        # In a column of n bytes, bit k of byte j is channel k n + j.
        bits = np.concatenate([bits, np.zeros((32 * words.shape[1] - inputs, outputs), np.uint8)])
        octets = np.packbits(bits.reshape(8, -1, outputs), axis=0, bitorder="little")
        octets = octets.reshape(-1, 4, outputs).swapaxes(1, 2)
        words[i] = np.ascontiguousarray(octets).view("<u4")[..., 0]
    return words.reshape(kh, kw, -1, outputs)


def bits_of(words: np.ndarray, kernel: Kernel) -> np.ndarray:
    """The string of bits that ``words_of`` takes; unused bits at the end are 0."""
    kh, kw, inputs, outputs = kernel
    count = inputs * outputs
    data = np.zeros(-(-kh * kw * count // 8), np.uint8)
    for i, part in enumerate(np.asarray(words, "<u4").reshape(kh * kw, -1, outputs)):
        octets = np.ascontiguousarray(part)[..., None].view(np.uint8).swapaxes(1, 2)
        bits = np.unpackbits(octets.reshape(1, -1, outputs), axis=0, bitorder="little")
        bits = bits.reshape(-1, outputs)[:inputs].ravel()
        first, shift = divmod(i * count, 8)
        packed = np.packbits(np.concatenate([np.zeros(shift, np.uint8), bits]), bitorder="little")
        data[first : first + len(packed)] |= packed
    return data

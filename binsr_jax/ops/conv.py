"""Convolution of stride 1 with a gradient that is fast on every backend."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from binsr_jax.ops.native import call, choose

# Bytes of the im2col windows of one strip in the gradient. This is large enough for an efficient
# matrix product and small enough for the second-level cache.
_STRIP_BYTES = 5 << 20

# With few channels, XLA may sum the last pixels of a convolution in another order. Among 3 to 64
# input and 1 to 64 output channels this happened with up to 16 of both, on at most 46 pixels.
_LAST_PIXELS = 64
_FEW_INPUTS, _FEW_OUTPUTS = 24, 64

# With at most this many input or output channels the gradient has a form of its own on CPU. With 64
# channels on the other side that form is faster than the general one for 8, and as fast for 16.
_FEW_CHANNELS = 8


def conv2d(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Cross-correlation of images with a kernel: stride 1, zero padding, same size.

        y[b, h, w, o] = sum_{i, j, c} x[b, h + i - kh // 2, w + j - kw // 2, c] kernel[i, j, c, o]

    Outside the image x is 0. On CPU the convolution and its gradient are native code
    (``ops.native``) where it applies. Elsewhere on CPU the gradient is written out below, because
    XLA's own weight gradient is slow there, above all in a function that is not inlined. All forms
    agree up to float rounding.

    Inside ``jax.default_matmul_precision("bfloat16")`` the factors of all products are rounded to
    bfloat16, forward and backward, on every backend. Sums and results are float32, so a sum of
    products of signs stays exact.

    Args:
        x: f32 ``[B, H, W, I]``.
        kernel: f32 ``[kh, kw, I, O]``, kh and kw odd.

    Returns:
        f32 ``[B, H, W, O]``.

    Raises:
        TypeError: x or kernel is not float32.
        ValueError: The shapes do not fit each other, or a side of the kernel is even.
    """
    if x.dtype != jnp.float32 or kernel.dtype != jnp.float32:
        raise TypeError(f"conv2d needs float32, got x {x.dtype} and kernel {kernel.dtype}")
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[3] != kernel.shape[2]:
        raise ValueError(
            "conv2d needs x [B, H, W, I] and kernel [kh, kw, I, O], "
            f"got x {x.shape} and kernel {kernel.shape}"
        )
    if kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
        raise ValueError(
            f"conv2d needs odd kernel sides, got kernel {kernel.shape} for x {x.shape}"
        )
    return _conv2d(x, kernel)


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    x, kernel = _factors(x, kernel)
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=jnp.float32,
    )


def _factors(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """The arrays in the dtype in which their products are computed.

    The dtype follows JAX's own setting: JAX traces a function again when that setting changes.
    """
    if jax.config.values["jax_default_matmul_precision"] == "bfloat16":
        return tuple(array.astype(jnp.bfloat16) for array in arrays)
    return arrays


def _convolve_alike(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """``_convolve`` with one order of summation for all pixels of an image.

    With few channels, XLA sums the last few pixels in another order on some CPUs. Here those pixels
    lie in rows of zeros that are added below the image and dropped from the result. So a tile
    equals its part of the whole image to the last bit.
    """
    (kh, kw, inputs, outputs), (_, height, width, _) = kernel.shape, x.shape
    free = not isinstance(width, int)  # of an exported program, which takes no tiles
    if inputs >= _FEW_INPUTS or outputs >= _FEW_OUTPUTS or free:
        return _convolve(x, kernel)
    x, kernel = _factors(x, kernel)
    spare = -(-_LAST_PIXELS // max(width, 1))
    y = lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        ((kh // 2, kh // 2 + spare), (kw // 2, kw // 2)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=jnp.float32,
    )
    return y[:, :height]


@jax.custom_vjp
def _conv2d(x: jax.Array, kernel: jax.Array) -> jax.Array:
    cpu = _convolve_alike
    factors = _factors(x, kernel)
    form = choose.form_for_conv(*factors)
    if form != "xla":
        cpu = partial(call.conv, form=form, factors=factors[0].dtype.name)
    return lax.platform_dependent(x, kernel, cpu=cpu, default=_convolve)


def _conv2d_forward(x: jax.Array, kernel: jax.Array):
    return _conv2d(x, kernel), (x, kernel)


def _conv2d_backward(saved: tuple[jax.Array, jax.Array], dy: jax.Array):
    cpu = _gradient_by_hand
    factors = _factors(*saved)
    form = choose.form_for_gradient(*factors)
    if form != "xla":
        cpu = partial(call.conv_gradient, form=form, factors=factors[0].dtype.name)
    return lax.platform_dependent(*saved, dy, cpu=cpu, default=_gradient)


_conv2d.defvjp(_conv2d_forward, _conv2d_backward)


def _gradient(x: jax.Array, kernel: jax.Array, dy: jax.Array):
    """``dx`` and ``dkernel`` as convolutions; the one for ``dkernel`` sums over the batch."""
    kh, kw, _, _ = kernel.shape
    dx = _convolve(dy, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
    x, dy = _factors(x, dy)
    dkernel = lax.conv_general_dilated(
        x,
        dy,
        (1, 1),
        ((kh // 2, kh // 2), (kw // 2, kw // 2)),
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
        preferred_element_type=jnp.float32,
    )
    return dx, dkernel


def _gradient_by_hand(x: jax.Array, kernel: jax.Array, dy: jax.Array):
    few = min(kernel.shape[2:]) <= _FEW_CHANNELS
    return (_gradient_of_few if few else _gradient_of_many)(x, kernel, dy)


def _gradient_of_few(x: jax.Array, kernel: jax.Array, dy: jax.Array):
    """``dx`` as a convolution, ``dkernel`` as a product with windows of the fewer channels.

        dx = conv2d(dy, flipped kernel),    dkernel[t] = sum_p x[p + t]^T dy[p]

    p are pixels, and t are taps counted from the middle of the kernel. If dy has fewer channels
    than x, the two exchange roles, and the sum is flipped and transposed.
    """
    dx = _convolve(dy, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
    x, dy = _factors(x, dy)
    sides = kernel.shape[:2]
    if x.shape[3] <= dy.shape[3]:
        return dx, _correlate(x, dy, *sides)
    return dx, jnp.flip(_correlate(dy, x, *sides), (0, 1)).swapaxes(2, 3)


def _correlate(a: jax.Array, b: jax.Array, kh: int, kw: int) -> jax.Array:
    """``sum_p a[p + t]^T b[p]`` for every tap t: ``[B, H, W, I], [B, H, W, O] -> [kh, kw, I, O]``.

    The windows (im2col) of a have the channels before the pixels, so that whole rows are copied.
    As in ``_gradient_of_many``, they exist for one strip of rows at a time.
    """
    batch, height, width, inputs = a.shape
    taps = kh * kw * inputs
    # Strips of about equal height.
    rows = -(-height // -(-4 * batch * height * width * taps // _STRIP_BYTES))
    strips = -(-height // rows)
    # Rows of zeros below the image fill the last strip.
    below = strips * rows - height
    margins = ((kh // 2, kh // 2 + below), (kw // 2, kw // 2))
    a = jnp.pad(a.transpose(3, 0, 1, 2), ((0, 0), (0, 0), *margins))
    b = jnp.pad(b, ((0, 0), (0, below), (0, 0), (0, 0)))

    def add_strip(total: jax.Array, top: jax.Array):
        a_strip = lax.dynamic_slice_in_dim(a, top, rows + kh - 1, axis=2)
        b_strip = lax.dynamic_slice_in_dim(b, top, rows, axis=1)
        windows = jnp.concatenate(
            [a_strip[:, :, i : i + rows, j : j + width] for i in range(kh) for j in range(kw)]
        )
        axes = ((1, 2, 3), (0, 1, 2))
        product = jnp.tensordot(windows, b_strip, axes, preferred_element_type=jnp.float32)
        return total + product, None

    start = jnp.zeros((taps, b.shape[3]), jnp.float32)
    total, _ = lax.scan(add_strip, start, jnp.arange(strips) * rows)
    return total.reshape(kh, kw, inputs, -1)


def _gradient_of_many(x: jax.Array, kernel: jax.Array, dy: jax.Array):
    """``dx`` and ``dkernel`` as matrix products with the same windows of dy.

        dx[p] = sum_t dy[p - t] kernel[t]^T,    dkernel[t] = sum_p x[p]^T dy[p - t]

    p are pixels and t are taps. The windows (im2col) exist for one strip of rows at a time, which
    bounds the memory. Strips divide the height and not the batch, so a batch that is sharded over
    devices stays where it is.
    """
    x, kernel, dy = _factors(x, kernel, dy)
    kh, kw, inputs, outputs = kernel.shape
    batch, height, width, _ = x.shape
    taps = kh * kw * outputs
    rows = max(1, min(height, _STRIP_BYTES // (4 * batch * width * taps)))
    strips = -(-height // rows)
    # Rows of zeros below the image fill the last strip.
    below = strips * rows - height
    x = jnp.pad(x, ((0, 0), (0, below), (0, 0), (0, 0)))
    dy = jnp.pad(dy, ((0, 0), (kh // 2, kh // 2 + below), (kw // 2, kw // 2), (0, 0)))
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3).reshape(taps, inputs)

    def add_strip(gradients: tuple[jax.Array, jax.Array], top: jax.Array):
        dx, dflipped = gradients
        dy_strip = lax.dynamic_slice_in_dim(dy, top, rows + kh - 1, axis=1)
        windows = jnp.concatenate(
            [dy_strip[:, i : i + rows, j : j + width] for i in range(kh) for j in range(kw)],
            axis=-1,
        ).reshape(-1, taps)
        x_strip = lax.dynamic_slice_in_dim(x, top, rows, axis=1)
        dx_strip = product(windows, flipped).reshape(x_strip.shape)
        dx = lax.dynamic_update_slice_in_dim(dx, dx_strip, top, axis=1)
        return (dx, dflipped + product(x_strip.reshape(-1, inputs).T, windows)), None

    product = partial(jnp.matmul, preferred_element_type=jnp.float32)
    start = jnp.zeros(x.shape, jnp.float32), jnp.zeros((inputs, taps), jnp.float32)
    (dx, dflipped), _ = lax.scan(add_strip, start, jnp.arange(strips) * rows)
    dkernel = jnp.flip(dflipped.T.reshape(kh, kw, outputs, inputs), (0, 1)).swapaxes(2, 3)
    return dx[:, :height], dkernel

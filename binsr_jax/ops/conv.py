"""Convolution of stride 1 whose gradient is fast on every backend."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from binsr_jax.ops.native import call, choose

# Bytes of the windows of one strip in the gradient: large enough for an efficient matrix product,
# small enough to stay in the second-level cache.
_STRIP_BYTES = 5 << 20

# How many pixels at the end of a convolution between few channels may be added up differently. Of
# 3 to 64 channels in and 1 to 64 out it was seen with up to 16 on both sides, on 46 pixels at most.
_LAST_PIXELS = 64
_FEW_INPUTS, _FEW_OUTPUTS = 24, 64

# Up to so many channels on either side the gradient has a form of its own on CPU. At 64 channels on
# the other side it takes a sixth of the time for 3, a third for 8, and the same for 16.
_FEW_CHANNELS = 8


def conv2d(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Cross-correlates images with a kernel: stride 1, zero padding, same size.

        y[b, h, w, o] = sum_{i, j, c} x[b, h + i - kh // 2, w + j - kw // 2, c] kernel[i, j, c, o]

    where x is 0 outside the image. XLA's own weight gradient is slow on CPU, and 30 times slower
    still inside a function that is not inlined, so there it is native code (``ops.native``), as
    the convolution itself is, or, where that does not apply, written by hand; it equals XLA's up to
    float rounding.

    Inside ``jax.default_matmul_precision("bfloat16")`` the factors of all products, forward and
    backward, are rounded to bfloat16 on every backend; sums and results are float32. The sum of
    products of signs stays exact.

    Args:
        x: f32 ``[B, H, W, I]``.
        kernel: f32 ``[kh, kw, I, O]``, kh and kw odd.

    Returns:
        f32 ``[B, H, W, O]``.

    Raises:
        TypeError: x or kernel is not float32.
        ValueError: the shapes do not fit, or a side of the kernel is even.
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
    """The arrays in the type that their products are computed in.

    It is JAX's own setting, since functions that were traced under another one are traced again.
    """
    if jax.config.values["jax_default_matmul_precision"] == "bfloat16":
        return tuple(array.astype(jnp.bfloat16) for array in arrays)
    return arrays


def _convolve_alike(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """``_convolve`` with rows of zeros below the last image, whose results are dropped.

    On some CPUs XLA adds up a few of the last pixels in another order than all before them, where
    there are few channels. With these rows every pixel of the image has one order, so that a tile's
    are those of the whole.
    """
    (kh, kw, inputs, outputs), (_, height, width, _) = kernel.shape, x.shape
    if inputs >= _FEW_INPUTS or outputs >= _FEW_OUTPUTS:
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
    form = choose.form_for_conv(*_factors(x, kernel))
    if form != "xla":
        cpu = partial(call.conv, form=form)
    return lax.platform_dependent(x, kernel, cpu=cpu, default=_convolve)


def _conv2d_forward(x: jax.Array, kernel: jax.Array):
    return _conv2d(x, kernel), (x, kernel)


def _conv2d_backward(saved: tuple[jax.Array, jax.Array], dy: jax.Array):
    cpu = _gradient_by_hand
    form = choose.form_for_gradient(*_factors(*saved))
    if form != "xla":
        cpu = partial(call.conv_gradient, form=form)
    return lax.platform_dependent(*saved, dy, cpu=cpu, default=_gradient)


_conv2d.defvjp(_conv2d_forward, _conv2d_backward)


def _gradient(x: jax.Array, kernel: jax.Array, dy: jax.Array):
    """Both gradients as convolutions, the second with the batch as its sum's channels."""
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
    """The input's gradient as a convolution, the kernel's from windows of the few channels.

        dx = conv2d(dy, kernel, flipped),    dkernel[t] = sum_p x[p + t]^T dy[p]

    for pixels p and taps t, counted from the middle of the kernel. The sum is the same, flipped and
    transposed, with the roles of x and dy exchanged.
    """
    dx = _convolve(dy, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
    x, dy = _factors(x, dy)
    sides = kernel.shape[:2]
    if x.shape[3] <= dy.shape[3]:
        return dx, _correlate(x, dy, *sides)
    return dx, jnp.flip(_correlate(dy, x, *sides), (0, 1)).swapaxes(2, 3)


def _correlate(a: jax.Array, b: jax.Array, kh: int, kw: int) -> jax.Array:
    """``sum_p a[p + t]^T b[p]`` for every tap t: ``[B, H, W, I], [B, H, W, O] -> [kh, kw, I, O]``.

    The windows (im2col) of a have channels before pixels, so that whole rows are copied. They are
    made for a strip of rows at a time, as in ``_gradient_of_many``.
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
    """Both gradients as matrix products with the same windows of dy.

        dx[p] = sum_t dy[p - t] kernel[t]^T,    dkernel[t] = sum_p x[p]^T dy[p - t]

    for pixels p and taps t. The windows (im2col) of a strip of rows are made at a time, which
    bounds the memory; strips run along the height so that a batch sharded over devices stays
    where it is.
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

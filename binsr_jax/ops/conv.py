"""Convolution of stride 1 whose gradient is fast on every backend."""

import jax
import jax.numpy as jnp
from jax import lax

# Bytes of the windows of one strip in the gradient: large enough for an efficient matrix product,
# small enough to stay in the second-level cache.
_STRIP_BYTES = 5 << 20


def conv2d(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Cross-correlates images with a kernel: stride 1, zero padding, same size.

        y[b, h, w, o] = sum_{i, j, c} x[b, h + i - kh // 2, w + j - kw // 2, c] kernel[i, j, c, o]

    where x is 0 outside the image. XLA's own weight gradient is slow on CPU, and 30 times slower
    still inside a function that is not inlined, so there it is written by hand; it equals XLA's up
    to float rounding.

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
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@jax.custom_vjp
def _conv2d(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _convolve(x, kernel)


def _conv2d_forward(x: jax.Array, kernel: jax.Array):
    return _convolve(x, kernel), (x, kernel)


def _conv2d_backward(saved: tuple[jax.Array, jax.Array], dy: jax.Array):
    return lax.platform_dependent(
        *saved, dy, cpu=_gradient_by_hand, default=lambda x, k, dy: jax.vjp(_convolve, x, k)[1](dy)
    )


_conv2d.defvjp(_conv2d_forward, _conv2d_backward)


def _gradient_by_hand(x: jax.Array, kernel: jax.Array, dy: jax.Array):
    """Both gradients as XLA's CPU backend computes them well.

        dx[p] = sum_t dy[p - t] kernel[t]^T,    dkernel[t] = sum_p x[p + t]^T dy[p]

    for pixels p and taps t, counted from the middle of the kernel. The first is a convolution with
    the flipped kernel, the second a matrix product with the windows of x; or, where they are
    smaller, of dy, which gives the flipped and transposed gradient.
    """
    dx = _convolve(dy, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
    sides = kernel.shape[:2]
    if x.shape[3] <= dy.shape[3]:
        return dx, _correlate(x, dy, *sides)
    return dx, jnp.flip(_correlate(dy, x, *sides), (0, 1)).swapaxes(2, 3)


def _correlate(a: jax.Array, b: jax.Array, kh: int, kw: int) -> jax.Array:
    """``sum_p a[p + t]^T b[p]`` for every tap t: ``[B, H, W, I], [B, H, W, O] -> [kh, kw, I, O]``.

    The windows (im2col) of a, channels before pixels so that whole rows are copied, are made for a
    strip of rows at a time, which bounds the memory; strips run along the height so that a batch
    sharded over devices stays where it is.
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
        return total + jnp.tensordot(windows, b_strip, ((1, 2, 3), (0, 1, 2))), None

    start = jnp.zeros((taps, b.shape[3]), b.dtype)
    total, _ = lax.scan(add_strip, start, jnp.arange(strips) * rows)
    return total.reshape(kh, kw, inputs, -1)

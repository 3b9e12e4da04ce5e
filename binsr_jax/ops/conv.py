"""Convolution of stride 1 whose gradient is fast on every backend."""

import jax
import jax.numpy as jnp
from jax import lax

# Bytes of one im2col strip in the weight gradient: large enough for an efficient matrix product,
# small enough to stay in the second-level cache.
_STRIP_BYTES = 4 << 20


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
    dx = _convolve(dy, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
    return dx, _kernel_gradient(x, dy, kernel.shape)


def _kernel_gradient(x: jax.Array, dy: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """``dL/dkernel = im2col(x)^T dy``, summed over strips of rows to bound the memory.

    Strips run along the height so that a batch sharded over devices stays where it is.
    """
    kh, kw, inputs, outputs = shape
    batch, height, width, _ = x.shape
    rows = max(1, min(height, _STRIP_BYTES // (4 * batch * width * kh * kw * inputs)))
    strips = -(-height // rows)
    # Rows of zeros below the image fill the last strip; they add nothing.
    below = strips * rows - height
    x = jnp.pad(x, ((0, 0), (kh // 2, kh // 2 + below), (kw // 2, kw // 2), (0, 0)))
    dy = jnp.pad(dy, ((0, 0), (0, below), (0, 0), (0, 0)))

    def add_strip(total: jax.Array, top: jax.Array):
        window = lax.dynamic_slice_in_dim(x, top, rows + kh - 1, axis=1)
        taps = [window[:, i : i + rows, j : j + width] for i in range(kh) for j in range(kw)]
        dy_strip = lax.dynamic_slice_in_dim(dy, top, rows, axis=1)
        columns = jnp.concatenate(taps, axis=-1)
        return total + jnp.einsum("bhwo,bhwk->ok", dy_strip, columns), None

    total = jnp.zeros((outputs, kh * kw * inputs), x.dtype)
    total, _ = lax.scan(add_strip, total, jnp.arange(strips) * rows)
    return total.T.reshape(shape)

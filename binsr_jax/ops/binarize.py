"""Binarisation of activations and weights, as pure functions with gradients of their own.

The sign is ``+1`` where ``x > threshold`` and ``-1`` elsewhere. It is never 0, because one bit
cannot hold three values. The derivative of the sign is 0 almost everywhere, so training replaces it
with the derivative of a surrogate function.

Equation numbers refer to the attention paper, "Efficient Image Super Resolution Using Attention In
Binary Neural Networks". BBCU is Xia et al., "Basic Binary Convolution Unit for Binarized Image
Restoration Network".
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from binsr_jax.ops.conv import conv2d
from binsr_jax.ops.packed import pack_activations, pack_weights, packed_conv

Progress = jax.Array | float  # the finished fraction of training, in 0..1


def _parabola(u: jax.Array, progress: jax.Array) -> jax.Array:
    """``max(0, 2 - 2|u|)``: the slope of ``2u + u^2`` in -1..0 and ``2u - u^2`` in 0..1."""
    return jnp.maximum(0.0, 2.0 - 2.0 * jnp.abs(u))


def _clip(u: jax.Array, progress: jax.Array | None = None) -> jax.Array:
    """1 where ``|u| <= 1``, else 0: the slope of ``clip(u, -1, 1)``."""
    return (jnp.abs(u) <= 1.0).astype(u.dtype)


def _tanh(u: jax.Array, progress: jax.Array) -> jax.Array:
    """``k t (1 - tanh^2(t u))``: the slope of ``k tanh(t u)``, t and k by ``tanh_schedule``."""
    t, k = tanh_schedule(progress)
    return k * t * (1.0 - jnp.square(jnp.tanh(t * u)))


SURROGATES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "parabola": _parabola,
    "clip": _clip,
    "tanh": _tanh,
}


def tanh_schedule(progress: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The schedule of IR-Net's surrogate ``k tanh(t u)``.

        t = 10^(-3 + 4 progress),    k = max(1 / t, 1)

    The surrogate starts as the identity and ends as the sign. Qin et al., "Forward and Backward
    Information Retention for Accurate Binary Neural Networks", section 3.3.

    Args:
        progress: The finished fraction of training, floating point, in 0..1.

    Returns:
        t in 0.001..10 and k in 1..1000, each with the shape of ``progress``.
    """
    t = jnp.power(jnp.asarray(10.0, progress.dtype), 4.0 * progress - 3.0)
    return t, jnp.maximum(1.0 / t, 1.0)


def rsign(
    x: jax.Array, threshold: jax.Array, surrogate: str = "parabola", progress: Progress = 0.0
) -> jax.Array:
    """Sign with a learnable threshold per channel.

        rsign(x) = +1 where x > threshold, else -1                              (equation 5)
        d/dx     = s(x - threshold),    d/dthreshold = -s(x - threshold)

    The surrogate gives the slope s:

        "parabola"   s(u) = max(0, 2 - 2|u|)                                    (equation 6)
        "clip"       s(u) = 1 where |u| <= 1, else 0                            (straight-through)
        "tanh"       s(u) = k t (1 - tanh^2(t u)),  see ``tanh_schedule``       (IR-Net)

    ReActNet and BBCU have the same function, in their code with sign(0) = 0.

    Args:
        x: ``[..., C]``, floating point.
        threshold: ``[C]``, of the dtype and in the units of ``x``.
        surrogate: A key of ``SURROGATES``.
        progress: The finished fraction of training, for ``"tanh"``.

    Returns:
        ``[..., C]``, each element ``+1`` or ``-1``, of the dtype of ``x``.

    Raises:
        TypeError: ``x`` is not a floating-point array, or ``threshold`` has another dtype.
        ValueError: ``threshold`` does not have shape ``[C]``, or the surrogate is unknown.
    """
    _require_float("x", x)
    if threshold.dtype != x.dtype:
        raise TypeError(f"threshold has dtype {threshold.dtype}, but x has dtype {x.dtype}")
    if threshold.shape != x.shape[-1:]:
        raise ValueError(
            f"threshold has shape {threshold.shape}, but x of shape {x.shape} wants {x.shape[-1:]}"
        )
    if surrogate not in SURROGATES:
        raise ValueError(f"no surrogate {surrogate!r}: choose from {', '.join(SURROGATES)}")
    return _rsign(x, threshold, jnp.asarray(progress, x.dtype), surrogate)


def sign(x: jax.Array, surrogate: str = "parabola", progress: Progress = 0.0) -> jax.Array:
    """``+1`` where ``x > 0``, else ``-1``, ``[..., C] -> [..., C]``: ``rsign`` of threshold 0."""
    return rsign(x, jnp.zeros(x.shape[-1:], x.dtype), surrogate, progress)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _rsign(x: jax.Array, threshold: jax.Array, progress: jax.Array, surrogate: str) -> jax.Array:
    del progress, surrogate  # only the gradient depends on them
    return _plus_minus_one(x > threshold, x.dtype)


def _rsign_forward(x, threshold, progress, surrogate):
    return _rsign(x, threshold, progress, surrogate), (x, threshold, progress)


def _rsign_backward(surrogate, saved, gradient):
    x, threshold, progress = saved
    dx = gradient * SURROGATES[surrogate](x - threshold, progress)
    return dx, -dx.sum(range(dx.ndim - 1)), jnp.zeros_like(progress)


_rsign.defvjp(_rsign_forward, _rsign_backward)


def mean_weight_scale(w: jax.Array) -> jax.Array:
    """The scale of the binary weights of each output channel: ``mean |w|``.

    Equation 7; BBCU and XNOR-Net have the same scale.

    Args:
        w: Latent weights ``[..., O]``.

    Returns:
        ``[O]``, never negative.
    """
    return jnp.abs(w).mean(range(w.ndim - 1))


@jax.custom_vjp
def binarize_mean(w: jax.Array) -> jax.Array:
    """Binary weights with the detached scale ``alpha = mean |w|`` per output channel.

        binarize_mean(w) = alpha sign(w),    d/dw = 1 where |w| <= 1, else 0    (equation 7)

    As in BBCU's code, the gradient has no factor alpha, and none flows through alpha.

    Args:
        w: Latent weights ``[..., O]``, floating point.

    Returns:
        ``[..., O]``: ``+alpha`` where ``w > 0``, else ``-alpha``.

    Raises:
        TypeError: ``w`` is not a floating-point array.
    """
    _require_float("w", w)
    return mean_weight_scale(w) * _plus_minus_one(w > 0, w.dtype)


def _binarize_mean_forward(w):
    return binarize_mean(w), w


def _binarize_mean_backward(w, gradient):
    return (gradient * _clip(w),)


binarize_mean.defvjp(_binarize_mean_forward, _binarize_mean_backward)


@jax.custom_vjp
def binarize_learnable(w: jax.Array, weight_scale: jax.Array) -> jax.Array:
    """Binary weights with a learnable scale per output channel.

        binarize_learnable(w, alpha) = alpha sign(w)
        d/dw = alpha where |w| <= 1, else 0
        d/dalpha = sign(w), summed over the weights of a channel

    The attention paper proposes a learnable scale; its public code has the one of
    ``binarize_mean``.

    Args:
        w: Latent weights ``[..., O]``, floating point.
        weight_scale: Alpha, ``[O]``, of the dtype of ``w``. Training starts it at ``mean |w|``.

    Returns:
        ``[..., O]``: ``+alpha`` where ``w > 0``, else ``-alpha``.

    Raises:
        TypeError: ``w`` is not a floating-point array, or ``weight_scale`` has another dtype.
        ValueError: ``weight_scale`` does not have shape ``[O]``.
    """
    _require_float("w", w)
    if weight_scale.dtype != w.dtype:
        raise TypeError(f"weight_scale has dtype {weight_scale.dtype}, but w has dtype {w.dtype}")
    if weight_scale.shape != w.shape[-1:]:
        raise ValueError(
            f"weight_scale has shape {weight_scale.shape}, but w of shape {w.shape} wants "
            f"{w.shape[-1:]}"
        )
    return weight_scale * _plus_minus_one(w > 0, w.dtype)


def _binarize_learnable_forward(w, weight_scale):
    return binarize_learnable(w, weight_scale), (w, weight_scale)


def _binarize_learnable_backward(saved, gradient):
    w, weight_scale = saved
    d_weight_scale = (gradient * _plus_minus_one(w > 0, w.dtype)).sum(range(w.ndim - 1))
    return gradient * weight_scale * _clip(w), d_weight_scale


binarize_learnable.defvjp(_binarize_learnable_forward, _binarize_learnable_backward)


def binarize_libra(w: jax.Array, progress: Progress = 0.0) -> jax.Array:
    """Balanced binary weights whose scale is a power of two (IR-Net's Libra parameters).

        w'                = (w - mean w) / std w    per output channel, std with n - 1
        binarize_libra(w) = s sign(w'),             s = 2^round(log2 mean |w'|), detached
        d/dw'             = s k t (1 - tanh^2(t w'))    with t and k of ``tanh_schedule``

    The gradient continues through the mean and the standard deviation. Qin et al., equations 5 to 8
    and section 3.3 of their paper.

    Args:
        w: Latent weights ``[..., O]``, floating point. Where all weights of a channel are equal,
            the result is ``-s`` for the smallest s, and the gradient is finite.
        progress: The finished fraction of training, in 0..1.

    Returns:
        ``[..., O]``: ``+s`` where ``w' > 0``, else ``-s``.

    Raises:
        TypeError: ``w`` is not a floating-point array.
    """
    _require_float("w", w)
    axes = tuple(range(w.ndim - 1))
    centred = w - w.mean(axes)
    count = max(1, w.size // w.shape[-1] - 1)
    # The square root has no finite gradient at 0, so the variance is kept above it.
    variance = jnp.maximum(jnp.square(centred).sum(axes) / count, 1e-24)
    standardised = centred / jnp.sqrt(variance)
    exponent = jnp.round(jnp.log2(mean_weight_scale(lax.stop_gradient(standardised))))
    exponent = jnp.clip(exponent, -126, 126).astype(jnp.int32)
    # ``ldexp`` is exact; ``exp2`` need not be.
    weight_scale = jnp.ldexp(jnp.ones(exponent.shape, w.dtype), exponent)
    return weight_scale * sign(standardised, "tanh", progress)


@jax.custom_vjp
def binary_conv(x: jax.Array, weights: jax.Array) -> jax.Array:
    """Convolution of signs with binary weights, equal to ``conv2d(x, weights)``.

        binary_conv(x, weights) = alpha conv2d(x, sign(weights)),    alpha = |weights|

    The gradient is exactly that of ``conv2d(x, weights)``. The forward sum has only the terms +1, 0
    and -1. It is an integer, exact in float32 in any order of summation and with bfloat16 factors,
    and equal to the result of XNOR and popcount.

    Args:
        x: Signs ``[B, H, W, I]``. Zero padding is added here, after the sign.
        weights: ``[kh, kw, I, O]``, odd kernel sides. Each weight is ``+alpha`` or ``-alpha``, with
            one alpha per output channel, as ``binarize_mean`` and its siblings return them.

    Returns:
        ``[B, H, W, O]``, in ``-alpha kh kw I .. alpha kh kw I``.

    Raises:
        TypeError: See ``conv2d``.
        ValueError: See ``conv2d``.
    """
    alpha = jnp.abs(weights[0, 0, 0])
    return lax.platform_dependent(x, weights, cpu=_sign_conv_of_bits, default=_sign_conv) * alpha


def _sign_conv(x: jax.Array, weights: jax.Array) -> jax.Array:
    return conv2d(x, _plus_minus_one(weights > 0, weights.dtype))


def _sign_conv_of_bits(x: jax.Array, weights: jax.Array) -> jax.Array:
    """The integers of ``_sign_conv`` by XNOR and popcount, which is faster on CPU."""
    return packed_conv(pack_activations(x), pack_weights(weights), x.shape[-1]).astype(x.dtype)


def _binary_conv_forward(x, weights):
    return binary_conv(x, weights), (x, weights)


def _binary_conv_backward(saved, gradient):
    return jax.vjp(conv2d, *saved)[1](gradient)


binary_conv.defvjp(_binary_conv_forward, _binary_conv_backward)


def _plus_minus_one(positive: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """``+1`` where ``positive``, else ``-1``."""
    return jnp.where(positive, 1, -1).astype(dtype)


def _require_float(name: str, array: jax.Array) -> None:
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} has dtype {array.dtype}, but a floating-point array is wanted")

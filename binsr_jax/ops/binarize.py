"""Binarisation of activations and weights, each a pure function with its own gradient.

The sign is never 0, since one bit cannot hold it: ``x > threshold -> +1``, all else ``-> -1``. Its
true derivative is 0 almost everywhere; training replaces it by that of a surrogate with the same
shape near zero.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from binsr_jax.ops.conv import conv2d
from binsr_jax.ops.packed import pack_activations, pack_weights, packed_conv

Progress = jax.Array | float  # how much of the training is done, in 0..1


def _parabola(u: jax.Array, progress: jax.Array) -> jax.Array:
    """Slope of ``2u + u^2`` (-1 <= u < 0), ``2u - u^2`` (0 <= u < 1): ``max(0, 2 - 2|u|)``."""
    return jnp.maximum(0.0, 2.0 - 2.0 * jnp.abs(u))


def _clip(u: jax.Array, progress: jax.Array | None = None) -> jax.Array:
    """Slope of ``clip(u, -1, 1)``: the straight-through estimator, ``1`` where ``|u| <= 1``."""
    return (jnp.abs(u) <= 1.0).astype(u.dtype)


def _tanh(u: jax.Array, progress: jax.Array) -> jax.Array:
    """Slope of ``k tanh(t u)``, with t and k of ``tanh_schedule``: ``k t (1 - tanh^2(t u))``."""
    t, k = tanh_schedule(progress)
    return k * t * (1.0 - jnp.square(jnp.tanh(t * u)))


SURROGATES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "parabola": _parabola,
    "clip": _clip,
    "tanh": _tanh,
}


def tanh_schedule(progress: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The error decay estimator of IR-Net: ``t = 10^(-3 + 4 progress)``, ``k = max(1 / t, 1)``.

    ``k tanh(t u)`` starts as the identity and ends as the sign. Qin et al., "Forward and Backward
    Information Retention for Accurate Binary Neural Networks", section 3.3.

    Args:
        progress: floating point, in 0..1.

    Returns:
        t and k, each of the shape of ``progress``.
    """
    t = jnp.power(jnp.asarray(10.0, progress.dtype), 4.0 * progress - 3.0)
    return t, jnp.maximum(1.0 / t, 1.0)


def rsign(
    x: jax.Array, threshold: jax.Array, surrogate: str = "parabola", progress: Progress = 0.0
) -> jax.Array:
    """Sign with a learnable threshold per channel (BBCU, equations 5 and 6; ReActNet's RSign).

        rsign(x) = +1 where x > threshold, else -1
        d/dx     = s(x - threshold),  d/dthreshold = -s(x - threshold)

    with ``s(u) = max(0, 2 - 2|u|)`` for the surrogate ``"parabola"`` (equation 6), ``s(u) = [|u|
    <= 1]`` for ``"clip"``, and ``s(u) = k t (1 - tanh^2(t u))`` for ``"tanh"`` (IR-Net).

    Args:
        x: ``[..., C]``, floating point.
        threshold: ``[C]``, of the dtype of ``x``.
        surrogate: a key of ``SURROGATES``.
        progress: for ``"tanh"``, whose t and k are ``tanh_schedule(progress)``.

    Returns:
        ``[..., C]``, each element ``+1`` or ``-1``, of the dtype of ``x``.

    Raises:
        TypeError: ``x`` is no floating-point array, or ``threshold`` has another dtype.
        ValueError: ``threshold`` is not ``[C]``, or the surrogate has no such name.
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
    del progress, surrogate  # of the gradient alone
    return _plus_minus_one(x > threshold, x.dtype)


def _rsign_forward(x, threshold, progress, surrogate):
    return _rsign(x, threshold, progress, surrogate), (x, threshold, progress)


def _rsign_backward(surrogate, saved, gradient):
    x, threshold, progress = saved
    dx = gradient * SURROGATES[surrogate](x - threshold, progress)
    return dx, -dx.sum(range(dx.ndim - 1)), jnp.zeros_like(progress)


_rsign.defvjp(_rsign_forward, _rsign_backward)


def mean_scale(w: jax.Array) -> jax.Array:
    """The scale of each output channel's binary weights, ``mean |w|`` (BBCU, equation 7; XNOR-Net).

    Args:
        w: latent weights ``[..., O]``.

    Returns:
        ``[O]``.
    """
    return jnp.abs(w).mean(range(w.ndim - 1))


@jax.custom_vjp
def binarize_mean(w: jax.Array) -> jax.Array:
    """Binary weights with the detached scale ``alpha = mean |w|`` per output channel.

        binarize_mean(w) = alpha sign(w),    d/dw = 1 where |w| <= 1, else 0

    The gradient passes unscaled and none flows through alpha, as the authors' code has it (BBCU,
    equation 7).

    Args:
        w: latent weights ``[..., O]``, floating point.

    Returns:
        ``[..., O]``: ``+alpha`` where ``w > 0``, else ``-alpha``.

    Raises:
        TypeError: ``w`` is no floating-point array.
    """
    _require_float("w", w)
    return mean_scale(w) * _plus_minus_one(w > 0, w.dtype)


def _binarize_mean_forward(w):
    return binarize_mean(w), w


def _binarize_mean_backward(w, gradient):
    return (gradient * _clip(w),)


binarize_mean.defvjp(_binarize_mean_forward, _binarize_mean_backward)


@jax.custom_vjp
def binarize_learnable(w: jax.Array, weight_scale: jax.Array) -> jax.Array:
    """Binary weights with a learnable scale per output channel.

        binarize_learnable(w, alpha) = alpha sign(w)
        d/dw = alpha where |w| <= 1, else 0,    d/dalpha = sign(w), summed over the channel

    Args:
        w: latent weights ``[..., O]``, floating point.
        weight_scale: alpha, ``[O]``, of the dtype of ``w``; training starts it at ``mean |w|``.

    Returns:
        ``[..., O]``.

    Raises:
        TypeError: ``w`` is no floating-point array, or ``weight_scale`` has another dtype.
        ValueError: ``weight_scale`` is not ``[O]``.
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
    dscale = (gradient * _plus_minus_one(w > 0, w.dtype)).sum(range(w.ndim - 1))
    return gradient * weight_scale * _clip(w), dscale


binarize_learnable.defvjp(_binarize_learnable_forward, _binarize_learnable_backward)


def binarize_libra(w: jax.Array, progress: Progress = 0.0) -> jax.Array:
    """Balanced binary weights with a power of two as scale (IR-Net's Libra parameters).

        w'                = (w - mean w) / std w,  of each output channel, std with n - 1
        binarize_libra(w) = s sign(w'),            s = 2^round(log2 mean |w'|), without a gradient
        d/dw'             = s k t (1 - tanh^2(t w')),    t and k of ``tanh_schedule(progress)``

    The gradient flows on through the mean and the standard deviation. Qin et al., equations 5 to 8
    and section 3.3.

    Args:
        w: latent weights ``[..., O]``, floating point. A channel of equal weights has no ``w'``;
            its weights are ``-s`` for the least s, and their gradient is finite.
        progress: in 0..1.

    Returns:
        ``[..., O]``: ``+s`` where ``w' > 0``, else ``-s``.

    Raises:
        TypeError: ``w`` is no floating-point array.
    """
    _require_float("w", w)
    axes = tuple(range(w.ndim - 1))
    centred = w - w.mean(axes)
    count = max(1, w.size // w.shape[-1] - 1)
    # Bounded away from 0, where the square root has no gradient.
    variance = jnp.maximum(jnp.square(centred).sum(axes) / count, 1e-24)
    standardised = centred / jnp.sqrt(variance)
    exponent = jnp.round(jnp.log2(mean_scale(lax.stop_gradient(standardised))))
    exponent = jnp.clip(exponent, -126, 126).astype(jnp.int32)
    # Exact, as an exponential need not be.
    weight_scale = jnp.ldexp(jnp.ones(exponent.shape, w.dtype), exponent)
    return weight_scale * sign(standardised, "tanh", progress)


@jax.custom_vjp
def binary_conv(x: jax.Array, weights: jax.Array) -> jax.Array:
    """Convolution of signs with binary weights (BBCU, equations 5 to 7).

        binary_conv(x, weights) = alpha conv2d(x, sign(weights)),    alpha = |weights|

    The value is that of ``conv2d(x, weights)`` and the gradient is defined to be exactly its
    gradient. But the convolution itself adds up numbers that are +1, 0 or -1: integers, exact in
    float32 (and, as factors, in bfloat16), whatever the order of summation, and equal to what XNOR
    and popcount give.

    Args:
        x: signs ``[B, H, W, I]``; zero padding is added here, after the sign.
        weights: ``[kh, kw, I, O]``, odd kernel sides, each ``+alpha`` or ``-alpha`` with one alpha
            for each output channel, as ``binarize_mean`` and the like give them.

    Returns:
        ``[B, H, W, O]``.

    Raises:
        TypeError, ValueError: as ``conv2d``.
    """
    alpha = jnp.abs(weights[0, 0, 0])
    return lax.platform_dependent(x, weights, cpu=_sign_conv_of_bits, default=_sign_conv) * alpha


def _sign_conv(x: jax.Array, weights: jax.Array) -> jax.Array:
    return conv2d(x, _plus_minus_one(weights > 0, weights.dtype))


def _sign_conv_of_bits(x: jax.Array, weights: jax.Array) -> jax.Array:
    """The same integers from XNOR and popcount: on CPU, four times as fast."""
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

"""PReLU and RPReLU, the activations of binary units."""

import jax
import jax.numpy as jnp


@jax.jit  # so that a trace names it: see ``deploy.export.onnx_graph``
def prelu(x: jax.Array, slope: jax.Array) -> jax.Array:
    """Leaky rectifier with a learnable slope per channel.

        prelu(x) = x           where x > 0
                 = slope x     elsewhere

    At ``x == 0`` the derivative is ``slope``. He et al., "Delving Deep into Rectifiers".

    Args:
        x: ``[..., C]``.
        slope: ``[C]``.

    Returns:
        ``[..., C]``, in the range and units of ``x``.

    Raises:
        ValueError: ``slope`` does not have shape ``[C]``.
    """
    _check_shapes(x, slope=slope)
    return jnp.where(x > 0, x, slope * x)


def rprelu(x: jax.Array, shift_in: jax.Array, slope: jax.Array, shift_out: jax.Array) -> jax.Array:
    """PReLU with learnable shifts of its input and its output.

        rprelu(x) = x - shift_in + shift_out              where x > shift_in
                  = slope (x - shift_in) + shift_out      elsewhere

    At ``x == shift_in`` the derivative is ``slope``. Equation 9 of the attention paper (see
    ``binsr_jax.ops.binarize``); BBCU and ReActNet have the same function.

    Args:
        x: ``[..., C]``.
        shift_in: Gamma in the paper, ``[C]``.
        slope: Beta in the paper, ``[C]``.
        shift_out: Zeta in the paper, ``[C]``.

    Returns:
        ``[..., C]``, in the units of ``x``.

    Raises:
        ValueError: A parameter does not have shape ``[C]``.
    """
    _check_shapes(x, shift_in=shift_in, slope=slope, shift_out=shift_out)
    return prelu(x - shift_in, slope) + shift_out


def _check_shapes(x: jax.Array, **parameters: jax.Array) -> None:
    for name, parameter in parameters.items():
        if parameter.shape != x.shape[-1:]:
            raise ValueError(
                f"{name} has shape {parameter.shape}, but x of shape {x.shape} wants {x.shape[-1:]}"
            )

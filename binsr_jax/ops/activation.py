"""PReLU and RPReLU, the activations of binary units."""

import jax
import jax.numpy as jnp


def prelu(x: jax.Array, slope: jax.Array) -> jax.Array:
    """``x`` where ``x > 0``, elsewhere ``slope x`` (He et al., "Delving Deep into Rectifiers").

    At 0 the derivative is that of the lower branch.

    Args:
        x: ``[..., C]``.
        slope: ``[C]``.

    Returns:
        ``[..., C]``.

    Raises:
        ValueError: the slope's shape is not ``[C]``.
    """
    _check_shapes(x, slope=slope)
    return jnp.where(x > 0, x, slope * x)


def rprelu(x: jax.Array, shift_in: jax.Array, slope: jax.Array, shift_out: jax.Array) -> jax.Array:
    """PReLU with learnable shifts before and after it (BBCU, equation 9; ReActNet).

        rprelu(x) = x - shift_in + shift_out              where x > shift_in
                  = slope (x - shift_in) + shift_out      elsewhere

    At ``x == shift_in`` the derivative is that of the lower branch.

    Args:
        x: ``[..., C]``.
        shift_in: ``[C]``, gamma of the paper.
        slope: ``[C]``, beta of the paper.
        shift_out: ``[C]``, zeta of the paper.

    Returns:
        ``[..., C]``.

    Raises:
        ValueError: a parameter's shape is not ``[C]``.
    """
    _check_shapes(x, shift_in=shift_in, slope=slope, shift_out=shift_out)
    return prelu(x - shift_in, slope) + shift_out


def _check_shapes(x: jax.Array, **parameters: jax.Array) -> None:
    for name, parameter in parameters.items():
        if parameter.shape != x.shape[-1:]:
            raise ValueError(
                f"{name} has shape {parameter.shape}, but x of shape {x.shape} wants {x.shape[-1:]}"
            )

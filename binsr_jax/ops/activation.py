"""RPReLU, the activation of binary units."""

import jax
import jax.numpy as jnp


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
    for name, parameter in (("shift_in", shift_in), ("slope", slope), ("shift_out", shift_out)):
        if parameter.shape != x.shape[-1:]:
            raise ValueError(
                f"{name} has shape {parameter.shape}, but x of shape {x.shape} wants {x.shape[-1:]}"
            )
    shifted = x - shift_in
    return jnp.where(shifted > 0, shifted, slope * shifted) + shift_out

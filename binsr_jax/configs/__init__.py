"""The recipes: each module has ``get_config(variant)``, see ``binsr_jax.recipes``."""

"""Remove noise or JPEG artifacts from images with a packed model; the same as binsr upscale.

Outputs have the size of their images and are called like them with a suffix, photo_restored.png,
beside them or in the folder given with -o. A model for JPEG works an image's luma and leaves its
chroma as it is.

    binsr restore -m denoise.binsr -i photo.png
    binsr restore -m jpeg.binsr -i 'album/**/*.jpg' -o clean/ -f png
"""

from binsr_jax.commands.upscale import add_arguments, run

__all__ = ["add_arguments", "run"]

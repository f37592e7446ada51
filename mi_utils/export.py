"""Reconstructions as files for other programs."""

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from mi_utils.errors import UserError


def write(images: Tensor, labels: Tensor, folder: Path) -> None:
    """PNG files as folder/<class>/<number>.png, an image folder in torchvision's sense, and all in one npz.

    images uint8 (N,C,H,W) with C = 1 or 3, labels int64 (N,). The class folders have leading zeros, so that
    their order as strings is that of the labels. The npz holds `images` and `labels` as they come in.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"dest: expected a new or empty folder, found {folder} in use; name another")
    width = len(str(int(labels.max())))
    for number, (image, label) in enumerate(zip(images.numpy(), labels.tolist(), strict=True)):
        place = folder / f"{label:0{width}d}" / f"{number:06d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(place)
    np.savez_compressed(folder / "reconstructions.npz", images=images.numpy(), labels=labels.numpy())

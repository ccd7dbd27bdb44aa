"""Principal components: the few directions in which features differ most (Pearson 1901; Jolliffe 2002).

512 of them are the classic input of COCO captioners: a quarter of ResNet's channels, and most of what they say.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib.core.errors import UserError

_FILE = "projection.safetensors"
_AT_ONCE = 64  # images


@dataclass(frozen=True)
class PCA:
    """features (N, P, C) -> (N, P, K): their coordinates along K directions, seen from their mean."""

    mean: Tensor  # (C,)
    directions: Tensor  # (C, K), orthonormal, the one of largest variance first

    def __call__(self, features: Tensor) -> Tensor:
        return (features.float() - self.mean.to(features.device)) @ self.directions.to(features.device)

    @classmethod
    def fit(cls, parts: Iterable[Tensor], components: int) -> "PCA":
        """The principal components of features that come in `parts`, (n, P, C) each, every place counting as one.

        One pass, in the memory of a C x C matrix. Raises UserError for more components than channels.
        """
        count, total, products = 0, torch.zeros(()), torch.zeros(())
        for part in parts:
            vectors = part.flatten(0, 1).double()  # (n P, C)
            count += len(vectors)
            total = total + vectors.sum(0)
            products = products + vectors.T @ vectors  # (C, C)
        mean = total / count
        channels = len(mean)
        if components > channels:
            raise UserError(f"features.pca_components is {components}, but these features have {channels} channels")
        _, vectors = torch.linalg.eigh(products / count - torch.outer(mean, mean))  # variances ascend
        directions = vectors.flip(1)[:, :components]
        # A direction and its opposite serve alike: the largest coordinate is made positive, so that only one is right.
        largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
        return cls(mean.float(), (directions * largest.sign()).float().contiguous())

    def save(self, folder: Path) -> None:
        save_file({"mean": self.mean, "directions": self.directions}, pca_path(folder))

    @classmethod
    def load(cls, folder: Path) -> "PCA":
        return cls(**load_file(pca_path(folder)))


def project_shards(shards: Iterable[Path], projection: PCA, folder: Path) -> None:
    """Writes the shards, projected, to `folder`, a few images at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in shards:
        stored = np.load(path, mmap_mode="r")  # (n, P, C)
        parts = (torch.from_numpy(stored[i : i + _AT_ONCE].copy()) for i in range(0, len(stored), _AT_ONCE))
        projected = [projection(part).half() for part in parts]
        np.save(folder / path.name, torch.cat(projected).numpy() if projected else stored)


def pca_path(folder: Path) -> Path:
    """The file of a projection in a folder of features, or of a model: where there is none, nothing is projected."""
    return folder / _FILE

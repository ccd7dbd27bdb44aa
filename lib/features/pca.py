"""Principal component analysis of features (Pearson 1901; Jolliffe 2002).

512 components are common for captioning: a quarter of ResNet's channels with most of their variance.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from lib.core.errors import UserError

_CHUNK = 64  # images


def mean_and_second_moment(parts: Iterable[Tensor], second: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Return the mean (C,) of all vectors in `parts`, (n, P, C) each, and their mean second moment.

    `second` takes vectors (n P, C) and returns the sum of their second moments.
    """
    count, total, second_total = 0, torch.zeros(()), torch.zeros(())
    for part in parts:
        vectors = part.flatten(0, 1).double()  # (n P, C)
        count += len(vectors)
        total, second_total = total + vectors.sum(0), second_total + second(vectors)
    return total / count, second_total / count


@dataclass(frozen=True)
class PCA:
    """Projects features on K directions, relative to the mean: (N, P, C) -> (N, P, K)."""

    mean: Tensor  # (C,)
    directions: Tensor  # (C, K), orthonormal, by descending variance

    def __call__(self, features: Tensor) -> Tensor:
        return (features.float() - self.mean.to(features.device)) @ self.directions.to(features.device)

    @classmethod
    def fit(cls, parts: Iterable[Tensor], components: int) -> "PCA":
        """Fit K = `components` directions to the vectors in `parts`, (n, P, C) each. Raises UserError if K > C."""
        mean, products = mean_and_second_moment(parts, lambda vectors: vectors.T @ vectors)  # (C,), (C, C)
        if components > len(mean):
            channels = f"the features have only {len(mean)} channels. Set it to {len(mean)} or less."
            raise UserError(f"features.pca_components={components}: {channels}")
        _, vectors = torch.linalg.eigh(products - torch.outer(mean, mean))  # by ascending variance
        directions = vectors.flip(1)[:, :components]
        # The sign of a direction is arbitrary: make its largest coordinate positive, so that the result is unique.
        largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
        return cls(mean.float(), (directions * largest.sign()).float().contiguous())

    def check(self, shape: Sequence[int]) -> None:
        """Raise UserError if features of `shape` (N, P, C) are not like those that the PCA was fitted on."""
        if shape[2] != len(self.mean):
            problem = f"features have size {shape[2]}, but the model's PCA needs size {len(self.mean)}"
            raise UserError(f"{problem}. Compute them with the same CNN as in training.")

    def save(self, folder: Path) -> None:
        # save_file would make a file that only its owner can read.
        pca_path(folder).write_bytes(save({"mean": self.mean, "directions": self.directions}))

    @classmethod
    def load(cls, folder: Path) -> "PCA":
        return cls(**load_file(pca_path(folder)))


def project_shards(shards: Iterable[Path], pca: PCA, folder: Path) -> None:
    """Write the projected shards to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in shards:
        stored = np.load(path, mmap_mode="r")  # (n, P, C)
        chunks = [stored[first : first + _CHUNK] for first in range(0, len(stored), _CHUNK)]
        projected = [pca(torch.from_numpy(chunk.copy())).half().numpy() for chunk in chunks]
        np.save(folder / path.name, np.concatenate(projected) if projected else stored)


def pca_path(folder: Path) -> Path:
    """Return the PCA's file in a folder of features or of a model. If it is missing, features are not projected."""
    return folder / "pca.safetensors"

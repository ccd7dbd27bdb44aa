"""Encode attention weights for shared/heatmap.js, which the report and the demo page use."""

from pathlib import Path

import numpy as np

SHARED = Path(__file__).parent / "shared"  # base.css and heatmap.js
_DIGITS = np.frombuffer(b"0123456789abcdefghijklmnopqrstuvwxyz", "S1")


def encode_attention(weights: np.ndarray) -> list[str]:
    """Encode attention weights (T, P) as one string per word, with one base-36 digit per region.

    `z` is the largest weight of the word. Return [] if P < 2, because one region leaves no choice.
    """
    if weights.shape[1] < 2:
        return []
    weights = weights.astype(np.float32)
    levels = np.rint(weights / weights.max(axis=1, keepdims=True) * (len(_DIGITS) - 1)).astype(int)
    return [row.tobytes().decode() for row in _DIGITS[levels]]

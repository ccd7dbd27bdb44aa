"""The library behind the stages. It needs no DVC.

Caption images with a trained model:

    from lib import Captioner

    for best, *others in Captioner.load("data/model").caption(["photo.jpg", "another.png"]):
        print(best.text, best.score)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lib.app.captioner import Captioner

__all__ = ["Captioner"]


def __getattr__(name: str) -> Any:
    """Import `Captioner` on first use, because it imports torch, which takes seconds."""
    if name != "Captioner":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lib.app.captioner import Captioner

    return Captioner

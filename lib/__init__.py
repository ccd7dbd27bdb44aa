"""The library: everything that the stages call, importable without DVC.

What comes of it all, in Python:

    from lib import Captioner

    for best, *others in Captioner.load("data/model").caption(["photo.jpg", "another.png"]):
        print(best.text, best.score)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lib.app.captioner import Captioner

__all__ = ["Captioner"]


def __getattr__(name: str) -> Any:
    """Imports `Captioner` when it is asked for: it needs torch, for which the rest of lib should not have to wait."""
    if name != "Captioner":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lib.app.captioner import Captioner

    return Captioner

"""Caption your own images: `caption photo.jpg another.png folder/`."""

import argparse
import io
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.core.errors import UserError, exit_on_error, readable_errors
from lib.core.file_types import HEAD_BYTES, is_image
from lib.core.files import expand_home

if TYPE_CHECKING:  # torch takes seconds to import, and --help needs none
    from lib.app.captioner import Candidate, Captioner
    from lib.vision.images import Preprocess

MODEL = Path("data/model")
_SEARCH_OPTIONS = ("beam_size", "max_length", "length_penalty", "min_length", "no_repeat_ngram_size")
_MAX_NAMED = 5  # folders in a message
_COLUMNS, _WIDTH = 5, 2.4  # of the attention plot: images per row, and inches of an image


@exit_on_error()
def main() -> int:
    """Print a caption for each image. Report unreadable images on stderr and return 1 at the end."""
    parser = argparse.ArgumentParser(prog="caption", description="Caption images with a trained model.")
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="an image file, or a folder of images")
    add_model_option(parser)
    add("--top", type=int, default=1, metavar="N", help="captions to print per image")
    add("--json", action="store_true", help="print a JSON array, with scores")
    add("--attention", type=_user_path, metavar="OUT", help="draw the attention weights of each word to a PNG or PDF")
    add("--beam", dest="beam_size", type=int, default=5, metavar="N", help="captions kept at each step (default: 5)")
    add("--max-length", type=int, metavar="WORDS", help="longest caption (default: the longest in the training)")
    add("--min-length", type=int, default=0, metavar="WORDS", help="shortest caption (default: 0)")
    add("--length-penalty", type=float, default=1.0, metavar="X", help="0 favours short captions (default: 1.0)")
    add("--no-repeat-ngram-size", type=int, default=0, metavar="N", help="no n-gram of N words repeats; 0 allows it")
    arguments = parser.parse_args()
    if not 1 <= arguments.top <= arguments.beam_size:
        parser.error(f"--top {arguments.top}: must be from 1 to --beam, which is {arguments.beam_size}")
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may lack the characters of a file name
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _run(arguments)
    except BrokenPipeError:  # `head` has closed the pipe; without this line Python fails again when it flushes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def add_model_option(parser: argparse.ArgumentParser) -> None:
    """Add `--model DIR`, which may be repeated. `load_captioner` takes its value."""
    message = f"a model of the finetune stage (default: {MODEL}); repeat it to decode with an ensemble"
    parser.add_argument("--model", type=_user_path, action="append", metavar="DIR", help=message)


def _user_path(text: str) -> Path:
    return Path(expand_home(text))


def load_captioner(folders: Sequence[Path] | None) -> "Captioner":
    """Load the model of a folder, or an ensemble. Raises UserError if a folder is missing."""
    folders = folders or [MODEL]
    for folder in folders:
        with readable_errors(folder):
            if not folder.is_dir():
                fix = "run `make repro`, or name another folder with --model"
                raise UserError(f"{folder}: no model in this folder; {fix}")
    from lib.app.captioner import Captioner

    return Captioner.load(*folders)


def draw_attention(file: str, preprocess: "Preprocess", candidate: "Candidate", path: Path) -> None:
    """Draw the grey image once per word, under the word's heat map, as in Xu et al. 2015, "Show, attend and tell".

    The largest weight of each word gets the full colour. Raises UserError if `path` cannot be written.
    """
    from matplotlib.figure import Figure  # the import takes half a second, and most calls of `caption` do not draw

    from lib.app.captioner import open_image
    from lib.report.figures import find_fonts

    fonts, missing = find_fonts(candidate.tokens)
    if missing:
        print(f"--attention {path}: no installed font has the letters {missing}; install one", file=sys.stderr)
    image = open_image(file).convert("L")
    width, height = image.size
    left, top, crop_width, crop_height = (percent / 100 for percent in preprocess.crop_box(image.size))
    extent = (left * width, (left + crop_width) * width, (top + crop_height) * height, top * height)
    rows = -(-max(1, len(candidate.tokens)) // _COLUMNS)
    figure = Figure(figsize=(_WIDTH * _COLUMNS, (_WIDTH * height / width + 0.4) * rows), layout="constrained")
    side = math.isqrt(candidate.attention.shape[1])  # the regions are a square grid
    for index, (token, weights) in enumerate(zip(candidate.tokens, candidate.attention, strict=True), 1):
        axes = figure.add_subplot(rows, _COLUMNS, index)
        axes.imshow(image, "gray", vmin=0, vmax=255)
        heat = (weights / weights.max()).reshape(side, side).numpy()
        axes.imshow(heat, "autumn_r", alpha=0.8 * heat, interpolation="bilinear", extent=extent)
        axes.set(xlim=(0, width), ylim=(height, 0))
        title = axes.set_title(token, y=-0.04, va="top", parse_math=False)
        if fonts:
            title.set_fontfamily(fonts)
        axes.axis("off")
    try:
        figure.savefig(path, dpi=100)
    except (OSError, ValueError) as error:  # no such folder, or an unknown suffix
        raise UserError(f"cannot draw to {path}: {error}") from error


def _run(arguments: argparse.Namespace) -> int:
    """Caption and print all images. Return 1 if one cannot be read, else 0."""
    files = [file for path in arguments.images for file in _image_files(expand_home(path))]
    out = arguments.attention
    if out and len(files) > 1:
        raise UserError(f"--attention {out}: draws one image, but {len(files)} were given")
    captioner = load_captioner(arguments.model)
    captioner.cnn()  # fail once, not for each image, if the model needs features
    if out and not captioner.decoder.attends:
        raise UserError(f"--attention {out}: this model has no attention; train one with model.attention=additive")
    results: list[dict[str, Any]] = []  # the output of --json
    for file, result in _caption_files(captioner, files, {name: getattr(arguments, name) for name in _SEARCH_OPTIONS}):
        if isinstance(result, UserError):
            print(f"error: {result}", file=sys.stderr)
            results.append({"image": file, "error": str(result)})
            continue
        top = result[: arguments.top]
        results.append({"image": file, "caption": top[0].text, "candidates": [c.to_json() for c in top]})
        if not arguments.json:
            lines = [f"  {c.mean_score:6.2f} per word, {c.score:7.2f}:  {c.text}" for c in top]
            print(f"{file}: {top[0].text}" if len(top) == 1 else "\n".join([f"{file}:", *lines]), flush=True)
        if out:
            draw_attention(file, captioner.cnn().preprocess, top[0], out)
    if arguments.json:
        print(json.dumps(results, indent=2))
    return int(any("error" in result for result in results))


def _caption_files(
    captioner: "Captioner", files: Sequence[str], search: dict[str, Any]
) -> "Iterator[tuple[str, list[Candidate] | UserError]]":
    """Yield each file with its captions, the best first, or with the reason why it has none."""
    import numpy as np

    from lib.app.captioner import BATCH_SIZE

    for first in range(0, len(files), BATCH_SIZE):
        batch = files[first : first + BATCH_SIZE]
        pixels, errors = {}, {}
        for file in batch:
            try:
                pixels[file] = captioner.pixels(file)
            except UserError as error:
                errors[file] = error
        captions = {}
        if pixels:
            features = captioner.features(np.stack(list(pixels.values())))
            captions = dict(zip(pixels, captioner.caption_features(features, **search), strict=True))
        yield from ((file, captions.get(file) or errors[file]) for file in batch)


def _image_files(path: str) -> list[str]:
    """Return the path of a file, or the images in a folder, sorted by name. Raises UserError.

    A picture counts whatever its extension. Folders inside the folder are reported on stderr, other files are not.
    """
    try:
        if not Path(path).is_dir():
            return [path]
        entries = [entry for entry in sorted(Path(path).iterdir()) if not entry.name.startswith(".")]
        files = [str(entry) for entry in entries if entry.is_file() and _is_image(entry)]
        folders = [f"{entry.name}/" for entry in entries if entry.is_dir()]
    except OSError as error:  # no permission, or a name that is too long
        raise UserError(f"{path}: {error.strerror}") from error
    inside = f"{', '.join(folders[:_MAX_NAMED])}{', ...' if len(folders) > _MAX_NAMED else ''}"
    if not files:
        where = f"it has the folders {inside}" if folders else "name another folder, or image files"
        raise UserError(f"{path}: no image in this folder; {where}")
    if folders:
        print(f"{path}: does not caption the images of {inside}; name these folders too", file=sys.stderr)
    return files


def _is_image(path: Path) -> bool:
    """Return whether to caption a file of a folder. One that cannot be read counts: its error is reported later."""
    try:
        with path.open("rb") as file:
            return is_image(path.name, file.read(HEAD_BYTES))
    except OSError:
        return True


if __name__ == "__main__":
    sys.exit(main())

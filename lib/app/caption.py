"""Caption your own images: `caption photo.jpg another.png folder/`."""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.app.console import print_safely
from lib.core.errors import UserError, exit_on_error, readable_errors
from lib.core.file_types import HEAD_BYTES, is_image
from lib.core.files import expand_home

if TYPE_CHECKING:  # for type checkers only: importing torch takes seconds, and --help does not need it
    from lib.app.captioner import Candidate, Captioner
    from lib.vision.images import Preprocess

MODEL = Path("data/model")
_SEARCH_OPTIONS = ("beam_size", "max_length", "length_penalty", "min_length", "no_repeat_ngram_size")
_MAX_NAMED = 5  # folder names that a message lists
_COLUMNS, _WIDTH = 5, 2.4  # attention plot: images per row, and width of an image in inches


@exit_on_error()
def main() -> int:
    """Print a caption for each image. Report unreadable images on stderr; return 1 if there are any, otherwise 0."""
    parser = argparse.ArgumentParser(prog="caption", description="Caption images with a trained model.")
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="an image file, or a folder of images")
    add_model_option(parser)
    add("--top", type=int, default=1, metavar="N", help="captions to print per image")
    add("--json", action="store_true", help="print a JSON array, with scores")
    add("--attention", type=_user_path, metavar="OUT", help="plot each word's attention weights to a PNG or PDF file")
    add("--beam", dest="beam_size", type=int, default=5, metavar="N", help="hypotheses per step (default: 5)")
    add("--max-length", type=int, metavar="WORDS", help="maximum length of a caption (default: as in training)")
    add("--min-length", type=int, default=0, metavar="WORDS", help="minimum length of a caption (default: 0)")
    add("--length-penalty", type=float, default=1.0, metavar="X", help="0 favours short captions (default: 1.0)")
    add("--no-repeat-ngram-size", type=int, default=0, metavar="N", help="do not repeat N words in a row; 0: no limit")
    arguments = parser.parse_args()
    if not 1 <= arguments.top <= arguments.beam_size:
        parser.error(f"--top {arguments.top}: must be from 1 to --beam, which is {arguments.beam_size}")
    return print_safely(lambda: _run(arguments))


def add_model_option(parser: argparse.ArgumentParser) -> None:
    """Add the option `--model DIR`, which may be repeated. Pass its value to `load_captioner`."""
    message = f"folder of a trained model (default: {MODEL}); repeat --model to decode with an ensemble"
    parser.add_argument("--model", type=_user_path, action="append", metavar="DIR", help=message)


def _user_path(text: str) -> Path:
    return Path(expand_home(text))


def load_captioner(folders: Sequence[Path] | None) -> "Captioner":
    """Load the model of one folder, or an ensemble of several folders; by default MODEL.

    Raises UserError if a folder is missing.
    """
    folders = folders or [MODEL]
    for folder in folders:
        with readable_errors(folder):
            if not folder.is_dir():
                fix = "Run `make repro` to train a model, or name another folder with --model."
                raise UserError(f"{folder}: this folder does not exist. {fix}")
    from lib.app.captioner import Captioner

    return Captioner.load(*folders)


def draw_attention(file: str, preprocess: "Preprocess", candidate: "Candidate", path: Path) -> None:
    """Draw the grey image once per word, under the word's heat map, as in Xu et al. 2015, "Show, attend and tell".

    Colours are scaled so that the largest weight of each word has the full colour. Raises UserError if `path` cannot be
    written.
    """
    from matplotlib.figure import Figure  # imported here, because it takes half a second and few calls need it

    from lib.app.captioner import open_image
    from lib.report.figures import find_fonts

    fonts, missing = find_fonts(candidate.tokens)
    if missing:
        fix = "install a font that has them"
        print(f"--attention {path}: no installed font has the letters {missing}; {fix}", file=sys.stderr)
    image = open_image(file).convert("L")
    width, height = image.size
    left, top, crop_width, crop_height = (percent / 100 for percent in preprocess.crop_box(image.size))
    extent = (left * width, (left + crop_width) * width, (top + crop_height) * height, top * height)
    rows = -(-max(1, len(candidate.tokens)) // _COLUMNS)
    figure = Figure(figsize=(_WIDTH * _COLUMNS, (_WIDTH * height / width + 0.4) * rows), layout="constrained")
    side = math.isqrt(candidate.attention.shape[1])  # the regions form a square grid
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
    except (OSError, ValueError) as error:  # the folder is missing, or the suffix is unknown
        fix = "Use an existing folder and a suffix such as .png."
        raise UserError(f"--attention {path}: cannot write the plot: {error}. {fix}") from error


def _run(arguments: argparse.Namespace) -> int:
    """Caption all images and print the captions. Return 1 if an image cannot be read, otherwise 0."""
    files = [file for path in arguments.images for file in _image_files(expand_home(path))]
    out = arguments.attention
    if out and len(files) > 1:
        raise UserError(f"--attention {out}: plots one image, but {len(files)} were given. Give one image.")
    captioner = load_captioner(arguments.model)
    captioner.cnn()  # if the model has no CNN, fail here once instead of for each image
    if out and not captioner.decoder.attends:
        raise UserError(f"--attention {out}: this model has no attention. Train with model.attention=additive.")
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
    """Yield each file with its captions, best first, or with the error if the file cannot be read."""
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
    """Return [path] for a file, or the images in a folder, sorted by name. Raises UserError.

    Files in a folder are images by their content or their extension; other files are skipped. Subfolders are skipped
    too, but reported on stderr.
    """
    try:
        if not Path(path).is_dir():
            return [path]
        entries = [entry for entry in sorted(Path(path).iterdir()) if not entry.name.startswith(".")]
        files = [str(entry) for entry in entries if entry.is_file() and _is_image(entry)]
        folders = [f"{entry.name}/" for entry in entries if entry.is_dir()]
    except OSError as error:  # no permission, or a name that is too long
        raise UserError(f"cannot read {path}: {error.strerror}. Check the path and its permissions.") from error
    inside = f"{', '.join(folders[:_MAX_NAMED])}{', ...' if len(folders) > _MAX_NAMED else ''}"
    if not files:
        fix = f"Name its subfolders: {inside}" if folders else "Name another folder, or image files."
        raise UserError(f"{path}: no image in this folder. {fix}")
    if folders:
        fix = f"To caption them, name the subfolders too: {inside}"
        print(f"{path}: the images in subfolders are not captioned. {fix}", file=sys.stderr)
    return files


def _is_image(path: Path) -> bool:
    """Return whether a file is an image. Return True if it cannot be read, so that its error is reported later."""
    try:
        with path.open("rb") as file:
            return is_image(path.name, file.read(HEAD_BYTES))
    except OSError:
        return True


if __name__ == "__main__":
    sys.exit(main())

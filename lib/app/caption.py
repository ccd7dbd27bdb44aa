"""Captions pictures of one's own: `caption photo.jpg another.png folder/`."""

import argparse
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.core.errors import UserError
from lib.core.zips import IMAGE_SUFFIXES

if TYPE_CHECKING:  # torch takes its time: who asks for help, or has mistyped something, does not wait for it
    from lib.app.captioner import Candidate, Captioner

MODEL = Path("data/model")


def main() -> int:
    """Prints a caption for each picture; those that cannot be read are named on stderr, and make the exit code 1."""
    parser = _parser()
    arguments = parser.parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name, or a word, may be none that the terminal can show
        sys.stdout.reconfigure(errors="backslashreplace")
    if arguments.top > arguments.beam:
        parser.error(f"--top {arguments.top} asks for more captions than --beam {arguments.beam} keeps")
    try:
        return _run(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # who reads the captions has seen enough, like head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def load(folders: Sequence[Path]) -> "Captioner":
    """The model of a folder, or several as one. Raises UserError that says how to get one where there is none."""
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"no model in {folder}: run make repro, or name one with --model")
    from lib.app.captioner import Captioner

    return Captioner.load(*folders)


def as_json(candidate: "Candidate") -> dict[str, Any]:
    """All but the attention, as `--json` prints it."""
    return {
        "text": candidate.text,
        "tokens": candidate.tokens,
        "score": candidate.score,
        "mean_score": candidate.mean_score,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="caption",
        description="Caption pictures with a trained model.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="a file, or a folder for all pictures in it")
    add_model_option(parser)
    parser.add_argument("--top", type=_positive, default=1, metavar="N", help="captions to print for each picture")
    parser.add_argument("--json", action="store_true", help="print a JSON array, with scores")
    parser.add_argument("--attention", type=Path, metavar="OUT", help="draw where the model looked, to this PNG or PDF")
    search = parser.add_argument_group("beam search")
    search.add_argument("--beam", type=_positive, default=5, metavar="N", help="captions kept at each step")
    search.add_argument("--max-length", type=_positive, default=20, metavar="WORDS", help="of a caption")
    search.add_argument("--min-length", type=int, default=0, metavar="WORDS", help="of a caption")
    search.add_argument("--length-penalty", type=float, default=1.0, metavar="X", help="0 favours short captions")
    search.add_argument(
        "--no-repeat-ngram-size", type=int, default=0, metavar="N", help="no N words in a row come twice; 0: may"
    )
    return parser


def add_model_option(parser: argparse.ArgumentParser) -> None:
    """`--model`, once for each folder; `models_of` says which."""
    told = f"what the finetune stage wrote (default: {MODEL}); given again, another that decodes with it as one"
    parser.add_argument("--model", type=Path, action="append", default=argparse.SUPPRESS, metavar="DIR", help=told)


def models_of(arguments: argparse.Namespace) -> list[Path]:
    """The folders that `--model` names."""
    return getattr(arguments, "model", [MODEL])


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} should be at least 1")
    return number


def _run(arguments: argparse.Namespace) -> int:
    told: list[dict[str, Any]] = []  # for each picture, what --json prints

    def refuse(picture: str, error: UserError) -> None:
        print(f"error: {error}", file=sys.stderr)
        told.append({"image": picture, "error": str(error)})

    files: list[str] = []
    for picture in arguments.pictures:
        try:
            files += _files(picture)
        except UserError as error:
            refuse(picture, error)
    if arguments.attention and len(files) > 1:
        raise UserError(f"--attention draws one picture, not {len(files)}")
    if files:
        captioner = load(models_of(arguments))
        for file, found in _captioned(captioner, files, arguments):
            if isinstance(found, UserError):
                refuse(file, found)
                continue
            top = found[: arguments.top]
            told.append({"image": file, "caption": top[0].text, "candidates": [as_json(each) for each in top]})
            if not arguments.json:
                _print(file, top)
            if arguments.attention:
                _draw(captioner, file, top[0], arguments.attention)
    if arguments.json:
        print(json.dumps(told, indent=2))
    return int(any("error" in each for each in told))


def _files(picture: str) -> list[str]:
    """The file itself; of a folder, the pictures in it, by name. Raises UserError."""
    if "://" in picture:
        raise UserError(f"{picture}: nothing is fetched from the net: download the picture, and give the file")
    folder = Path(picture)
    try:
        if not folder.is_dir():
            return [picture]
        inside = list(folder.iterdir())
    except OSError as error:  # a folder that may not be read, a name that is too long
        raise UserError(f"{picture}: {error.strerror}") from error
    found = sorted(
        str(path) for path in inside if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )
    if not found:
        raise UserError(f"{picture}: no picture in this folder (none of {' '.join(sorted(IMAGE_SUFFIXES))})")
    return found


def _captioned(
    captioner: "Captioner", files: Sequence[str], arguments: argparse.Namespace
) -> Iterator[tuple[str, "list[Candidate] | UserError"]]:
    """Each file with its captions, the best first, or with the reason why there are none; a batch at a time."""
    from lib.app.captioner import BATCH

    waiting = iter(files)
    while batch := list(islice(waiting, BATCH)):
        seen, refused = {}, {}
        for file in batch:
            try:
                seen[file] = captioner.see(file)
            except UserError as error:
                refused[file] = error
        captions = captioner.caption(
            list(seen.values()),
            beam_size=arguments.beam,
            max_length=arguments.max_length,
            length_penalty=arguments.length_penalty,
            min_length=arguments.min_length,
            no_repeat_ngram_size=arguments.no_repeat_ngram_size,
        )
        found = refused | dict(zip(seen, captions, strict=True))
        yield from ((file, found[file]) for file in batch)


def _print(file: str, top: "Sequence[Candidate]") -> None:
    if len(top) == 1:
        print(f"{file}: {top[0].text}", flush=True)
    else:
        scored = [f"  {each.mean_score:6.2f} a word, {each.score:7.2f}:  {each.text}" for each in top]
        print(f"{file}:", *scored, sep="\n", flush=True)


def _draw(captioner: "Captioner", file: str, candidate: "Candidate", out: Path) -> None:
    if not captioner.decoder.attends:
        raise UserError("this model does not attend, so there is nothing to draw: it has model.attention=none")
    from lib.app.attention import draw_attention
    from lib.app.captioner import open_image

    draw_attention(open_image(file), captioner.backbone.preprocess, candidate, out)


if __name__ == "__main__":
    sys.exit(main())

"""Captions pictures of one's own: `python -m lib.cli.caption photo.jpg`."""

import argparse
import sys
from pathlib import Path

from lib.captioner.captioner import Captioner
from lib.captioner.rules import Rules
from lib.vision.images import ImageError, decode


def main() -> int:
    """Prints a line for each picture; those that cannot be read are named on stderr, and make the exit code 1."""
    parser = argparse.ArgumentParser(prog="caption", description="Caption pictures with a trained model.")
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE")
    parser.add_argument(
        "--model", type=Path, default=Path("data/model"), help="what the train stage wrote (data/model)"
    )
    parser.add_argument("--beam-size", type=int, default=3)
    parser.add_argument("--max-length", type=int, default=20, help="words")
    parser.add_argument("--length-penalty", type=float, default=0.7)
    parser.add_argument("--min-length", type=int, default=0, help="words")
    parser.add_argument("--no-repeat", type=int, default=0, help="no so many words in a row come twice; 0: they may")
    arguments = parser.parse_args()
    if not arguments.model.is_dir():
        print(f"error: no model in {arguments.model}: run make repro, or name one with --model", file=sys.stderr)
        return 1
    captioner = Captioner.load(arguments.model)
    failed = False
    for path in arguments.pictures:
        try:
            picture = decode(path.read_bytes(), captioner.backbone.preprocess.least)
        except (OSError, ImageError) as error:
            print(f"error: {path}: {error}", file=sys.stderr)
            failed = True
            continue
        caption = captioner.caption(
            picture,
            beam_size=arguments.beam_size,
            max_length=arguments.max_length,
            length_penalty=arguments.length_penalty,
            rules=Rules(arguments.min_length, arguments.no_repeat),
        )
        print(f"{path}: {caption}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

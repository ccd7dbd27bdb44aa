"""Update the tokens in ptb.jsonl with Stanford's PTBTokenizer, which coco-caption uses. Needs Java.

    python tests/lib/data/make_ptb.py

A row is [caption, its tokens joined by blanks]. To add a caption, add a row with any tokens and run this script. BLEU
and CIDEr-D split tokens at blanks, so a fraction such as "22 3/4" is stored as two tokens.
"""

import json
import os
from pathlib import Path

from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

TABLE = Path(__file__).with_name("ptb.jsonl")


def main() -> None:
    os.environ["JAVA_TOOL_OPTIONS"] = "-Dfile.encoding=UTF-8"
    captions = [json.loads(line)[0] for line in TABLE.read_text("utf-8").splitlines()]
    # The tokenizer reads past the end of a line, so the next caption may matter. Here it is always "A".
    given = {i: [{"caption": caption}, {"caption": "A"}] for i, caption in enumerate(captions)}
    tokens = PTBTokenizer().tokenize(given)
    rows = [[caption, " ".join(tokens[i][0].split())] for i, caption in enumerate(captions)]
    TABLE.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


if __name__ == "__main__":
    main()

"""meteor: METEOR of the test captions, for papers that ask for it: `python -m stages.meteor`. Needs Java.

Not a stage of the DAG, which has to run, and to give the same, without Java.
"""

import json

from lib.scoring.meteor import meteor
from stages.results import tokens_of
from stages.running import METRICS, run
from stages.splits import images_with_features, references_of


def main() -> None:
    hypotheses = tokens_of(json.loads((METRICS / "captions.json").read_text()))
    found = meteor(references_of(images_with_features("test")), hypotheses)
    print(f"METEOR {found:.3f} of {len(hypotheses)} captions")


if __name__ == "__main__":
    run(main)

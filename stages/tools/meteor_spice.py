"""java: METEOR and SPICE of the test captions, for papers that ask for them: `python -m stages.tools.meteor_spice`. Needs Java.

Not a stage of the DAG, which has to run, and to give the same, without Java.
"""

from lib.evaluation.meteor_spice import meteor, spice
from stages.common.entrypoint import run
from stages.common.metrics_io import read_json, tokens_of
from stages.common.splits import images_with_features, references_of


def main() -> None:
    hypotheses = tokens_of(read_json("captions.json"))
    references = references_of(images_with_features("test"))
    for name, score in {"METEOR": meteor, "SPICE": spice}.items():
        print(f"{name} {score(references, hypotheses):.3f} of {len(hypotheses)} captions", flush=True)


if __name__ == "__main__":
    run(main)

"""Print METEOR and SPICE of the test captions. Needs Java: `python -m stages.tools.meteor_spice`."""

from lib.core.tables import read_images, read_tokens
from lib.evaluation.meteor_spice import meteor, spice
from lib.text.tokenizer import tokenize_results
from stages.common.entrypoint import run
from stages.common.metrics_io import read_json
from stages.common.paths import CAPTION_TABLE, IMAGES


def main() -> None:
    hypotheses = tokenize_results(read_json("captions.json"))
    references = read_tokens(CAPTION_TABLE, read_images(IMAGES, "test")["image_id"])
    for name, score in {"METEOR": meteor, "SPICE": spice}.items():
        print(f"{name} {score(references, hypotheses):.3f} on {len(hypotheses)} captions", flush=True)


if __name__ == "__main__":
    run(main)

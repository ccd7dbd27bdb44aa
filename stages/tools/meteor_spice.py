"""Print METEOR and SPICE of the test captions: `python -m stages.tools.meteor_spice`. It needs Java."""

from lib.core.errors import UserError
from lib.core.tables import read_images, read_table
from lib.evaluation.meteor_spice import meteor, spice
from lib.text.tokenizer import PTB
from stages.common.entrypoint import run
from stages.common.metrics_io import read_json
from stages.common.paths import CAPTION_TABLE, IMAGES
from stages.params import TextParams, read_params


def main() -> None:
    if (name := read_params(TextParams).tokenizer) != "ptb":
        raise UserError(f"text.tokenizer={name}: METEOR and SPICE are only for English, with text.tokenizer=ptb")
    hypotheses = PTB.scoring_results(read_json("captions.json"))
    image_ids = read_images(IMAGES, "test")["image_id"].tolist()
    table = read_table(CAPTION_TABLE, ["image_id", "caption"], [("image_id", "in", image_ids)])
    references = table["caption"].map(PTB.scoring_tokens).groupby(table["image_id"]).agg(list).to_dict()
    for name, score in {"METEOR": meteor, "SPICE": spice}.items():
        print(f"{name} {score(references, hypotheses):.3f} on {len(hypotheses)} captions", flush=True)


if __name__ == "__main__":
    run(main)

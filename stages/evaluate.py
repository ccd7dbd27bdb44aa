"""evaluate: re-tokenises the captions and scores them; for `scenes` also judges whether they are true."""

import json

import pandas as pd

from lib.datasets.scenes.reading import read_truth
from lib.datasets.scenes.truth import holds, read as read_statement, share_true_of_others
from lib.datasets.tables import write_table
from lib.scoring import score, score_each
from lib.text.tokenizer import tokenize
from stages.params import read
from stages.params.dataset import Params
from stages.running import METRICS, RAW, run
from stages.splits import images_with_features, references_of


def main() -> None:
    results = json.loads((METRICS / "captions.json").read_text())
    hypotheses = {row["image_id"]: tokenize(row["caption"]) for row in results}
    references = references_of(images_with_features("test"))
    scores = score(references, hypotheses)
    each = pd.DataFrame(results).assign(**score_each(references, hypotheses))
    if read(Params).name == "scenes":
        truth = read_truth(RAW)
        scenes = [truth[image_id] for image_id in hypotheses]
        each["true"] = [
            holds(read_statement(tokens), scene) for tokens, scene in zip(hypotheses.values(), scenes, strict=True)
        ]
        scores["truth"] = float(each["true"].mean())
        scores["truth_shuffled"] = share_true_of_others(list(hypotheses.values()), scenes)
    write_table(each, METRICS / "per_image.parquet")
    (METRICS / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    print(", ".join(f"{name} {value:.3f}" for name, value in scores.items()))


if __name__ == "__main__":
    run(main)

"""evaluate: re-tokenises the captions of test and val and scores them; for `scenes` also judges if test's are true."""

import json
from typing import Any

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
    results = _read("captions.json")
    hypotheses, references = _tokens(results), references_of(images_with_features("test"))
    scores = score(references, hypotheses)
    each = pd.DataFrame(results).assign(**score_each(references, hypotheses))
    if read(Params).name == "scenes":
        truth = read_truth(RAW)
        scenes = [truth[image_id] for image_id in hypotheses]
        statements = [read_statement(tokens) for tokens in hypotheses.values()]
        each["true"] = [holds(statement, scene) for statement, scene in zip(statements, scenes, strict=True)]
        scores["truth"] = float(each["true"].mean())
        scores["truth_shuffled"] = share_true_of_others(statements, scenes)
    write_table(each, METRICS / "per_image.parquet")
    _write("scores.json", scores)

    on_val = _tokens(_read("captions_val.json"))
    # A data set may have no val: then there is nothing to score.
    _write("scores_val.json", score(references_of(images_with_features("val")), on_val) if on_val else {})


def _read(name: str) -> list[dict[str, Any]]:
    return json.loads((METRICS / name).read_text())


def _tokens(results: list[dict[str, Any]]) -> dict[int, list[str]]:
    return {row["image_id"]: tokenize(row["caption"]) for row in results}


def _write(name: str, scores: dict[str, float]) -> None:
    (METRICS / name).write_text(json.dumps(scores, indent=2) + "\n")
    print(f"{name}: " + ", ".join(f"{metric} {value:.3f}" for metric, value in scores.items()))


if __name__ == "__main__":
    run(main)

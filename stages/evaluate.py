"""evaluate: tokenise and score the captions of test and val; for `scenes` also judge whether test's are true."""

import json
from typing import Any

import pandas as pd

from lib.core.tables import read_images, read_tokens, write_table
from lib.evaluation.diversity import caption_statistics
from lib.evaluation.intervals import intervals, mean_interval, pairs_interval
from lib.scenes.dataset import read_truth
from lib.scenes.truth import parse_caption, shuffled_truth, truth_matrix
from lib.scoring import corpus_scores, explain_low_cider_d, image_scores, measure, score
from lib.text.tokenizer import tokenize_results
from stages.common.entrypoint import run
from stages.common.metrics_io import read_json
from stages.common.paths import CAPTION_TABLE, IMAGES, METRICS, RAW
from stages.params import DatasetParams, read_params


def main() -> None:
    results = read_json("captions.json")
    hypotheses, references = tokenize_results(results), _references("test")
    measures = measure(references, hypotheses)
    scores, bounds = corpus_scores(measures), intervals(measures)
    lengths = [len(tokens) for tokens in hypotheses.values()]
    per_image = pd.DataFrame(results).assign(length=lengths, **image_scores(measures))
    if read_params(DatasetParams).name == "scenes":
        truth = read_truth(RAW)
        statements = [parse_caption(tokens) for tokens in hypotheses.values()]
        holds = truth_matrix(statements, [truth[image_id] for image_id in hypotheses])
        per_image["true"] = holds.diagonal()
        scores["truth"], bounds["truth"] = float(per_image["true"].mean()), mean_interval(holds.diagonal())
        if len(holds) > 1:
            scores["truth_shuffled"], bounds["truth_shuffled"] = shuffled_truth(holds), pairs_interval(holds)
    write_table(per_image, METRICS / "per_image.parquet")
    _write("scores.json", scores)
    if explanation := explain_low_cider_d(references, hypotheses, scores):
        print(f"note: {explanation}")
    _write("intervals.json", bounds)

    seen = {tuple(tokens) for captions in _references("train").values() for tokens in captions}
    _write("statistics.json", caption_statistics(list(hypotheses.values()), seen))
    _write("scores_val.json", score(_references("val"), tokenize_results(read_json("captions_val.json"))))


def _references(split: str) -> dict[int, list[list[str]]]:
    return read_tokens(CAPTION_TABLE, read_images(IMAGES, split)["image_id"])


def _write(name: str, content: dict[str, Any]) -> None:
    (METRICS / name).write_text(json.dumps(content, indent=2) + "\n")
    print(f"{name}: " + ", ".join(f"{key} {_rounded(value)}" for key, value in content.items()))


def _rounded(value: float | tuple[float, float]) -> str:
    if isinstance(value, tuple):
        return " to ".join(map(_rounded, value))
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    run(main)

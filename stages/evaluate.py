"""evaluate: re-tokenises the captions of test and val and scores them; for `scenes` also judges if test's are true."""

import json
from typing import Any

import pandas as pd

from lib.core.tables import write_table
from lib.evaluation.diversity import describe
from lib.evaluation.intervals import intervals, mean_interval, pairs_interval
from lib.scenes.dataset import read_truth
from lib.scenes.truth import read as read_statement, share_true_of_others, which_hold
from lib.scoring import corpus_scores, image_scores, measure, score
from stages.common.entrypoint import METRICS, RAW, run
from stages.common.metrics_io import read_json, tokens_of
from stages.common.splits import images_with_features, references_of
from stages.params import read
from stages.params.dataset import Params


def main() -> None:
    results = read_json("captions.json")
    hypotheses, references = tokens_of(results), references_of(images_with_features("test"))
    measures = measure(references, hypotheses)
    scores, bounds = corpus_scores(measures), intervals(measures)
    lengths = [len(tokens) for tokens in hypotheses.values()]
    each = pd.DataFrame(results).assign(length=lengths, **image_scores(measures))
    if read(Params).name == "scenes":
        truth = read_truth(RAW)
        scenes = [truth[image_id] for image_id in hypotheses]
        statements = [read_statement(tokens) for tokens in hypotheses.values()]
        held = which_hold(statements, scenes)
        each["true"] = held.diagonal()
        scores["truth"], bounds["truth"] = float(each["true"].mean()), mean_interval(held.diagonal())
        if len(scenes) > 1:
            scores["truth_shuffled"], bounds["truth_shuffled"] = share_true_of_others(held), pairs_interval(held)
    write_table(each, METRICS / "per_image.parquet")
    _write("scores.json", scores)
    _write("intervals.json", bounds)

    of_train = references_of(images_with_features("train")).values()
    seen = {tuple(tokens) for captions in of_train for tokens in captions}
    _write("statistics.json", describe(list(hypotheses.values()), seen))

    on_val = tokens_of(read_json("captions_val.json"))
    _write("scores_val.json", score(references_of(images_with_features("val")), on_val))


def _write(name: str, content: dict[str, Any]) -> None:
    (METRICS / name).write_text(json.dumps(content, indent=2) + "\n")
    print(f"{name}: " + ", ".join(f"{key} {_rounded(value)}" for key, value in content.items()))


def _rounded(value: float | tuple[float, float]) -> str:
    if isinstance(value, tuple):
        return " to ".join(map(_rounded, value))
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    run(main)

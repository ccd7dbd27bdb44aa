"""evaluate: score the captions of test and val. For `scenes`, also judge whether the captions of test are true."""

import json
from collections.abc import Iterable
from typing import Any

import pandas as pd

from lib.core.tables import read_images, read_table, read_tokens, write_table
from lib.evaluation.diversity import caption_statistics
from lib.evaluation.intervals import intervals, mean_interval, pairs_interval
from lib.scenes.dataset import read_truth
from lib.scenes.truth import parse_caption, shuffled_truth, truth_matrix
from lib.scoring import corpus_scores, explain_low_cider_d, image_scores, measure, score
from lib.text.tokenizer import Tokenizer
from stages.common.entrypoint import run
from stages.common.metrics_io import read_json
from stages.common.paths import CAPTION_TABLE, IMAGES, METRICS, RAW
from stages.params import DatasetParams, TextParams, read_params


def main() -> None:
    text = read_params(TextParams)
    tokenizer = Tokenizer(text.tokenizer, text.lowercase)
    results = read_json("captions.json")
    hypotheses, references = tokenizer.scoring_results(results), _references("test", tokenizer)
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

    seen = {tuple(tokens) for captions in _train_tokens() for tokens in captions}
    words = [row.get("tokens") or row["caption"].split() for row in results]
    _write("statistics.json", caption_statistics(words, seen, english=tokenizer.name == "ptb"))
    results = tokenizer.scoring_results(read_json("captions_val.json"))
    _write("scores_val.json", score(_references("val", tokenizer), results))


def _references(split: str, tokenizer: Tokenizer) -> dict[int, list[list[str]]]:
    """Return the scoring tokens of each image's captions. They differ from the tokens in the table (see Tokenizer)."""
    image_ids = read_images(IMAGES, split)["image_id"].tolist()
    references: dict[int, list[list[str]]] = {image_id: [] for image_id in image_ids}
    table = read_table(CAPTION_TABLE, columns=["image_id", "caption"], filters=[("image_id", "in", image_ids)])
    for image_id, caption in zip(table["image_id"], table["caption"], strict=True):
        references[image_id].append(tokenizer.scoring_tokens(caption))
    return references


def _train_tokens() -> Iterable[list[list[str]]]:
    return read_tokens(CAPTION_TABLE, read_images(IMAGES, "train")["image_id"]).values()


def _write(name: str, content: dict[str, Any]) -> None:
    (METRICS / name).write_text(json.dumps(content, indent=2) + "\n")
    print(f"{name}: " + ", ".join(f"{key} {_rounded(value)}" for key, value in content.items()))


def _rounded(value: float | tuple[float, float]) -> str:
    if isinstance(value, tuple):
        return " to ".join(map(_rounded, value))
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    run(main)

"""Score generated captions against references: `score results.json references.json`. It needs neither torch nor Java.

From Python, `score_files("results.json", "references.json")` returns the corpus scores.
"""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lib.app.console import print_safely
from lib.app.results import EvaluationSet, References
from lib.core.errors import UserError, exit_on_error
from lib.core.files import atomic_write
from lib.evaluation.diversity import caption_statistics
from lib.evaluation.intervals import intervals, mean_interval
from lib.evaluation.significance import Difference, difference_table, differences, text_table
from lib.scoring import Scorer, corpus_scores, explain_low_cider_d, image_scores, score_captions
from lib.text.tokenizer import tokenize

_LABELS = {f"bleu_{n}": f"BLEU-{n}" for n in range(1, 5)}
_LABELS |= {"rouge_l": "ROUGE-L", "cider_d": "CIDEr-D", "cider_r": "CIDEr-R"}
_STATISTICS = {"distinct_1": "distinct-1", "distinct_2": "distinct-2", "mean_length": "words per caption"}
_STATISTICS |= {"distinct_words": "distinct words"}


def score_files(results: str | Path, references: str | Path, split: str | None = None) -> dict[str, float]:
    """Return the corpus scores of a results file, as `lib.scoring.score` does.

    `split` selects the images of one split, if the reference file has splits. Images without a result are left out; the
    command `score` prints their number. Raises UserError.
    """
    pairs = References(Path(references), split).pair(Path(results))
    captions = dict(zip(pairs.image_ids, pairs.captions, strict=True))
    return score_captions(dict(zip(pairs.image_ids, pairs.references, strict=True)), captions)


@exit_on_error()
def main() -> int:
    """Print the scores and their 95% bootstrap intervals. Report what was left out on stderr."""
    parser = argparse.ArgumentParser(prog="score", description="Score captions as coco-caption does, without Java.")
    add = parser.add_argument
    add("results", type=Path, metavar="RESULTS", help="captions to score: COCO results JSON, JSON Lines or CSV")
    add("references", type=Path, metavar="REFERENCES", help="reference captions, in any format that the project reads")
    add("--split", metavar="NAME", help="score only the images of this split of the references, such as test")
    add("--compare", type=Path, metavar="OTHER", help="compare with another results file, by a paired bootstrap")
    add("--per-image", type=Path, metavar="CSV", help="write the scores of each image to this file")
    add("--json", action="store_true", help="print a JSON object")
    arguments = parser.parse_args()
    return print_safely(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    references = References(arguments.references, arguments.split)
    pairs = references.pair(arguments.results)
    tokens = _tokens(pairs.references)
    scorer, hypotheses = Scorer(dict(enumerate(tokens))), _tokens([pairs.captions])[0]
    measures, cider_r = scorer.measure(hypotheses), scorer.cider_r(hypotheses)
    scores = {**corpus_scores(measures), "cider_r": float(cider_r.mean())}
    bounds = {**intervals(measures), "cider_r": mean_interval(cider_r)}
    statistics = caption_statistics(hypotheses, frozenset())
    notes = list(pairs.notes)
    if explanation := explain_low_cider_d(dict(enumerate(tokens)), dict(enumerate(hypotheses)), scores):
        notes.append(explanation)
    report: dict[str, Any] = {
        "images": len(pairs.captions),
        "references": sum(map(len, pairs.references)),
        "scores": scores,
        "intervals": bounds,
        "statistics": {name: statistics[name] for name in _STATISTICS},
        "notes": notes,
    }
    compared = _compare(arguments, references, pairs, scorer, measures, cider_r) if arguments.compare else {}
    if compared:
        report["comparison"] = {
            name: {"score": row.a, "other": row.b, "interval": row.interval, "real": row.is_real}
            for name, row in compared.items()
        }
    if arguments.per_image:
        _write_per_image(arguments.per_image, pairs, {**image_scores(measures), "cider_r": cider_r})
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(report, indent=2))
        return 0
    print(f"{report['images']:,} images, {report['references']:,} reference captions\n")
    rows = [["", "score", "95% interval"]]
    rows += [[_LABELS[name], f"{scores[name]:.4f}", "{:.4f} to {:.4f}".format(*bounds[name])] for name in _LABELS]
    rows += [
        [label, f"{statistics[name]:.{0 if name == 'distinct_words' else 4}f}", ""]
        for name, label in _STATISTICS.items()
    ]
    print(text_table(rows))
    if compared:
        labelled = {_LABELS[name]: row for name, row in compared.items()}
        print(f"\n{difference_table(str(arguments.results), str(arguments.compare), labelled)}")
        print("\na difference is real if its interval excludes 0")
    return 0


def _tokens(captions: Sequence[Sequence[str]]) -> list[list[list[str]]]:
    """Tokenise the captions of each image."""
    return [list(map(tokenize, texts)) for texts in captions]


def _compare(
    arguments: argparse.Namespace,
    references: References,
    pairs: EvaluationSet,
    scorer: Scorer,
    measures: np.ndarray,
    cider_r: np.ndarray,
) -> dict[str, Difference]:
    """Return the score differences between the file --compare and `pairs`. Raises UserError if the images differ."""
    other = references.pair(arguments.compare)
    if differing := set(pairs.image_ids) ^ set(other.image_ids):
        example = min(differing, key=str)
        raise UserError(
            f"--compare {arguments.compare}: {len(differing):,} images have a result in only one of the two files, "
            f"for example image {example}. Give results of the same images."
        )
    hypotheses = _tokens([other.captions])[0]
    other_cider_r = scorer.cider_r(hypotheses)
    interval = mean_interval(other_cider_r - cider_r)
    row = Difference(float(cider_r.mean()), float(other_cider_r.mean()), interval)
    return {**differences(measures, scorer.measure(hypotheses)), "cider_r": row}


def _write_per_image(path: Path, pairs: EvaluationSet, scores: dict[str, np.ndarray]) -> None:
    """Write a CSV with a row per image. Raises UserError if `path` cannot be written."""
    columns = [pairs.image_ids, pairs.file_names, pairs.captions, *(values.tolist() for values in scores.values())]
    try:
        with atomic_write(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["image_id", "file_name", "caption", *scores])
            writer.writerows(zip(*columns, strict=True))
    except OSError as error:
        raise UserError(f"--per-image {path}: cannot write the file: {error.strerror}. Use another path.") from error


if __name__ == "__main__":
    sys.exit(main())

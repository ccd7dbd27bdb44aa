"""report: plots, a gallery of all test pictures and one page, from what the other stages left in metrics/."""

import json

import numpy as np

from lib.core.errors import intact
from lib.core.tables import read_table
from lib.core.workers import worker_count
from lib.features.store import skipped_path
from lib.report.comparison import read_comparisons
from lib.report.figures import draw_contact_sheet, save_png
from lib.report.gallery import write_gallery
from lib.report.page import write_page
from lib.report.plots import bleu_analysis, gradient_flow, learning_curves, self_critical_curves
from lib.report.sprites import thumbnail, write_sheets
from lib.vision.images import Archives
from lib.vision.pixels import image_rows
from lib.vision.preprocess import Preprocess
from stages.common.entrypoint import BACKBONE, CAPTIONS, FEATURES, METRICS, RAW, run
from stages.common.metrics_io import read_csv, read_json
from stages.params import read
from stages.params.dataset import Params as DatasetParams
from stages.params.model import Params as ModelParams

_SHOWN = 12  # pictures of gallery.png, evenly spaced by id


def main() -> None:
    out = METRICS / "report"
    each = read_table(METRICS / "per_image.parquet")
    curves, best = read_csv("train/curves.csv"), read_json("train/summary.json")["best_epoch"]
    tuned = read_csv("finetune/curves.csv"), read_json("finetune/summary.json")["best_epoch"]
    learning, bleu = learning_curves(curves, best) + self_critical_curves(*tuned), bleu_analysis(each, curves, best)
    gradients = gradient_flow(read_csv("gradients.csv"))
    save_png(learning, out / "curves.png")
    save_png(bleu, out / "bleu.png")
    save_png(gradients, out / "gradients.png", columns=1)

    images = read_table(CAPTIONS / "images.parquet")
    tested = image_rows(each[["image_id"]].merge(images, "left"))
    archives = Archives(RAW)
    evenly = np.unique(np.linspace(0, len(each) - 1, min(_SHOWN, len(each))).astype(int))
    shown = [thumbnail(archives, tested[i]) for i in evenly]
    draw_contact_sheet(shown, each["caption"].iloc[evenly].tolist(), out / "gallery.png")
    sheets, sizes = write_sheets(tested, archives, out, worker_count())
    archives.close()
    of_tested = [("image_id", "in", each["image_id"].tolist())]
    with intact(METRICS / "attention.npy"):
        attention = np.load(METRICS / "attention.npy", mmap_mode="r")
    with intact(BACKBONE / "backbone.json"):
        preprocess = Preprocess(**json.loads((BACKBONE / "backbone.json").read_text("utf-8"))["preprocess"])
    references = read_table(CAPTIONS / "captions.parquet", columns=["image_id", "caption"], filters=of_tested)
    write_gallery(
        out / "gallery.js",
        each,
        references.groupby("image_id")["caption"].agg(list),
        sheets,
        sizes,
        attention,
        preprocess,
    )

    skipped = read_table(skipped_path(FEATURES))
    reasons = ", ".join(f"{count} {reason}" for reason, count in skipped["reason"].value_counts().items())
    left_out = f"; {len(skipped)} could not be read and are left out, captions and all: {reasons}" if reasons else ""
    model = read(ModelParams)
    write_page(
        out / "index.html",
        title=f"Captions of {read(DatasetParams).name}",
        summary=f"{model.cell.upper()} decoder ({model.implementation} cell); {len(each)} test pictures, "
        f"of {len(images)} in all{left_out}.",
        scores=read_json("scores.json"),
        intervals=read_json("intervals.json"),
        statistics=read_json("statistics.json"),
        curves=learning,
        bleu=bleu,
        comparisons=read_comparisons(METRICS / "compare"),
        gradients=gradients,
    )


if __name__ == "__main__":
    run(main)

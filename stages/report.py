"""report: draw the plots, and write one page with the plots and a gallery of all test images. It works offline."""

import numpy as np

from lib.core.errors import readable_errors
from lib.core.tables import read_table
from lib.core.workers import worker_count
from lib.report.comparison import read_comparisons
from lib.report.figures import draw_contact_sheet, save_png
from lib.report.gallery import thumbnail, write_gallery, write_sprites
from lib.report.page import write_page
from lib.report.plots import bleu_analysis, gradient_flow, learning_curves, self_critical_curves
from lib.vision.backbones import has_cnn, read_backbone_config
from lib.vision.images import Archives, image_rows
from stages.common.entrypoint import run
from stages.common.metrics_io import read_csv, read_json
from stages.common.paths import BACKBONE, CAPTION_TABLE, IMAGES, METRICS, RAW, SKIPPED
from stages.params import DatasetParams, ModelParams, read_params

_GALLERY_SIZE = 12  # number of images in gallery.png


def main() -> None:
    out = METRICS / "report"
    out.mkdir(exist_ok=True)
    per_image = read_table(METRICS / "per_image.parquet")
    curves, best = read_csv("train/curves.csv"), read_json("train/summary.json")["best_epoch"]
    finetuned = read_csv("finetune/curves.csv"), read_json("finetune/summary.json")["best_epoch"]
    plots = {
        "curves": learning_curves(curves, best) + self_critical_curves(*finetuned),
        "bleu": bleu_analysis(per_image, curves, best),
        "gradients": gradient_flow(read_csv("gradients.csv")),
    }
    for name, panels in plots.items():
        save_png(panels, out / f"{name}.png")

    images, skipped = read_table(IMAGES), read_table(SKIPPED)
    rows = image_rows(per_image[["image_id"]].merge(images, "left"))
    archives = Archives(RAW)
    sample = np.unique(np.linspace(0, len(per_image) - 1, min(_GALLERY_SIZE, len(per_image))).astype(int))
    thumbnails = [thumbnail(archives, rows[i]) for i in sample]
    missing = draw_contact_sheet(thumbnails, per_image["caption"].iloc[sample].tolist(), out / "gallery.png")
    if missing:
        fix = f"Install a font such as Noto Sans and run again, or open {out / 'index.html'}, which shows all letters."
        print(f"warning: gallery.png: no installed font has {len(missing)} letters, such as {missing[:5]}. {fix}")
    sizes = write_sprites(rows, archives, out, worker_count())
    with readable_errors(METRICS / "attention.npy"):
        attention = np.load(METRICS / "attention.npy", mmap_mode="r")
    test_ids = [("image_id", "in", per_image["image_id"].tolist())]
    captions = read_table(CAPTION_TABLE, columns=["image_id", "caption"], filters=test_ids)
    references = captions.groupby("image_id")["caption"].agg(list)
    if has_cnn(BACKBONE):
        _, preprocess = read_backbone_config(BACKBONE)
        write_gallery(out, per_image, references, sizes, attention, preprocess)
    else:  # the position of a region in the image is unknown for ready features, so draw no attention weights
        write_gallery(out, per_image, references, sizes, attention[:, :0])

    model = read_params(ModelParams)
    decoder = f"{model.cell.upper()} decoder ({model.implementation} cell)"
    if model.cell == "transformer":
        decoder = "Transformer decoder"
    reasons = ", ".join(f"{count} {reason}" for reason, count in skipped["reason"].value_counts().items())
    unreadable = f"; {len(skipped)} unreadable images were skipped: {reasons}" if reasons else ""
    write_page(
        out / "index.html",
        title=f"Captions of {read_params(DatasetParams).name}",
        summary=f"{decoder}; {len(per_image)} test images of {len(images) + len(skipped)} in total{unreadable}.",
        **{name: read_json(f"{name}.json") for name in ("scores", "intervals", "statistics")},
        comparisons=read_comparisons(METRICS / "compare"),
        **plots,
    )


if __name__ == "__main__":
    run(main)

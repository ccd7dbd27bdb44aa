"""report: learning curves, a gallery and one page, from what the other stages left in metrics/."""

import json

import numpy as np
import pandas as pd

from lib.report.comparison import read_comparisons
from lib.report.figures import draw_curves, draw_gallery, draw_gradients
from lib.report.page import Example, write_page
from lib.vision.features import skipped_path
from lib.vision.images import Archives, decode
from stages.params import read
from stages.params.dataset import Params as DatasetParams
from stages.params.model import Params as ModelParams
from stages.running import CAPTIONS, FEATURES, METRICS, RAW, run

_GALLERY, _EXTREMES = 24, 8  # pictures
_THUMBNAIL = (320, 320)  # pixels


def main() -> None:
    out = METRICS / "report"
    scores = json.loads((METRICS / "scores.json").read_text())
    each = pd.read_parquet(METRICS / "per_image.parquet")
    captions = pd.read_parquet(CAPTIONS / "captions.parquet").groupby("image_id")["caption"].agg(list)
    images = pd.read_parquet(CAPTIONS / "images.parquet").set_index("image_id")
    archives = Archives(RAW)

    def example(row: pd.Series) -> Example:
        where = images.loc[row["image_id"]]
        picture = decode(archives.read(where["archive"], where["member"]))
        picture.thumbnail(_THUMBNAIL)
        note = f"CIDEr-D {row['cider_d']:.2f}" + (", not true" if "true" in row and not row["true"] else "")
        return Example(picture, row["caption"], captions[row["image_id"]], note)

    def examples(rows: pd.DataFrame) -> list[Example]:
        return [example(row) for _, row in rows.iterrows()]

    evenly = np.unique(np.linspace(0, len(each) - 1, min(_GALLERY, len(each))).astype(int))
    ranked = each.sort_values("cider_d", kind="stable")
    galleries = {
        "Test pictures, evenly spaced by id": examples(each.iloc[evenly]),
        "The best by CIDEr-D": examples(ranked.iloc[::-1].head(_EXTREMES)),
        "The worst by CIDEr-D": examples(ranked.head(_EXTREMES)),
    }
    first = next(iter(galleries.values()))[:12]
    draw_gallery([e.picture for e in first], [e.caption for e in first], out / "gallery.png")
    best = json.loads((METRICS / "train" / "summary.json").read_text())["best_epoch"]
    draw_curves(pd.read_csv(METRICS / "train" / "curves.csv"), best, out / "curves.png")
    draw_gradients(pd.read_csv(METRICS / "gradients.csv"), out / "gradients.png")
    skipped = pd.read_parquet(skipped_path(FEATURES))
    reasons = ", ".join(f"{count} {reason}" for reason, count in skipped["reason"].value_counts().items())
    left_out = f"; {len(skipped)} could not be read and are left out, captions and all: {reasons}" if reasons else ""
    model = read(ModelParams)
    write_page(
        out / "index.html",
        f"Captions of {read(DatasetParams).name}",
        f"{model.cell.upper()} decoder ({model.implementation} cell); {len(each)} test pictures, "
        f"of {len(images)} in all{left_out}.",
        scores,
        out / "curves.png",
        read_comparisons(METRICS / "compare"),
        out / "gradients.png",
        galleries,
    )
    archives.close()


if __name__ == "__main__":
    run(main)

"""features: runs the CNN over every image, straight from the zip."""

import pandas as pd

from lib.datasets.tables import write_table
from lib.errors import UserError
from lib.vision.backbones import Backbone
from lib.vision.extraction import extract
from lib.vision.features import index_path
from lib.workers import worker_count
from stages.params import read
from stages.params.features import Params
from stages.running import BACKBONE, CAPTIONS, FEATURES, RAW, run

_SHOWN = 10  # skipped images; all are in the table


def main() -> None:
    params = read(Params)
    images = pd.read_parquet(CAPTIONS / "images.parquet")
    backbone = Backbone.load(BACKBONE)
    index, skipped = extract(
        images, RAW, backbone, FEATURES, kind=params.kind, batch_size=params.batch_size, workers=worker_count()
    )  # fmt: skip
    for image_id, reason in skipped.head(_SHOWN).itertuples(index=False):
        print(f"skipped image {image_id}: {reason}")
    if len(skipped) > params.max_skipped * len(images):
        raise UserError(
            f"{len(skipped)} of {len(images)} images cannot be read, more than features.max_skipped "
            f"({params.max_skipped}) allows; the first: image {skipped['image_id'][0]}, {skipped['reason'][0]}"
        )
    write_table(index, index_path(FEATURES))
    write_table(skipped, FEATURES / "skipped.parquet")
    print(f"features of {len(index)} images, {len(skipped)} skipped (all are listed in skipped.parquet)")


if __name__ == "__main__":
    run(main)

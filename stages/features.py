"""features: runs the CNN over every image, straight from the zip."""

from lib.core.errors import UserError
from lib.core.files import publish
from lib.core.tables import SPLITS, read_table, write_table
from lib.core.workdir import prune
from lib.core.workers import worker_count
from lib.extraction.extract import Extraction, extract
from lib.features.pca import Projection, project_shards
from lib.features.store import Features, index_path, shard_paths, skipped_path
from lib.vision.backbones import Backbone
from stages.common.entrypoint import BACKBONE, CAPTIONS, FEATURES, RAW, SCRATCH, run
from stages.params import read
from stages.params.features import Params

_SHOWN = 10  # skipped images; all are in the table


def main() -> None:
    params = read(Params)
    images = read_table(CAPTIONS / "images.parquet")
    how = Extraction(RAW, Backbone.load(BACKBONE), params.kind, params.precision, params.batch_size)
    made = extract(images, how, SCRATCH / "features", worker_count())
    skipped = made.skipped
    for image_id, reason in skipped.head(_SHOWN).itertuples(index=False):
        print(f"skipped image {image_id}: {reason}")
    if len(skipped) / len(images) > params.max_skipped:
        raise UserError(
            f"{len(skipped)} of {len(images)} images cannot be read, more than features.max_skipped "
            f"({params.max_skipped}) allows; the first: image {skipped['image_id'][0]}, {skipped['reason'][0]}"
        )
    for split in SPLITS:
        if images.loc[images["split"] == split, "image_id"].isin(skipped["image_id"]).all():
            raise UserError(f"no image of the {split} split can be read, and each split needs one")
    if params.components is None:
        publish(shard_paths(made.folder), FEATURES)
    else:
        train = made.index["image_id"].isin(images.loc[images["split"] == "train", "image_id"])
        projection = Projection.fit(Features(made.folder, made.index[train]).split(256), params.components)
        project_shards(shard_paths(made.folder), projection, FEATURES)
        projection.save(FEATURES)
    write_table(made.index, index_path(FEATURES))
    write_table(skipped, skipped_path(FEATURES))
    prune(made.folder)
    print(f"features of {len(made.index)} images, {len(skipped)} skipped (all are listed in skipped.parquet)")


if __name__ == "__main__":
    run(main)

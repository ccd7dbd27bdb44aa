"""features: run the CNN on every image, or import ready features. Write the features and the table of the images."""

from lib.core.errors import UserError, short_line
from lib.core.files import link_into
from lib.core.tables import SPLITS, read_table, write_table
from lib.core.workdir import prune
from lib.core.workers import worker_count
from lib.extraction.extract import ExtractionConfig, extract
from lib.extraction.ready import import_features
from lib.features.pca import PCA, project_shards
from lib.features.store import Features, shard_paths
from lib.vision.backbones import Backbone
from stages.common.checkpoints import stage_code
from stages.common.entrypoint import run
from stages.common.paths import ANNOTATED_IMAGES, BACKBONE, FEATURES, IMAGES, RAW, SCRATCH, SKIPPED
from stages.common.ready import ready_source
from stages.params import FeaturesParams, read_params

_MAX_PRINTED = 10  # skipped images to print; skipped.parquet lists all


def main() -> None:
    params = read_params(FeaturesParams)
    annotated = read_table(ANNOTATED_IMAGES)
    scratch, code = SCRATCH / "features", stage_code("features")
    if source := ready_source(params):
        result = import_features(annotated, source, scratch, code)
    else:
        config = ExtractionConfig(RAW, Backbone.load(BACKBONE), params.kind, params.precision, params.batch_size)
        result = extract(annotated, config, scratch, worker_count(), code)
    skipped = result.skipped
    for image_id, reason in skipped.head(_MAX_PRINTED).itertuples(index=False):
        print(short_line(f"skipped image {image_id}: {reason}"))
    if len(skipped) / len(annotated) > params.max_skipped:
        raise UserError(
            f"features.max_skipped={params.max_skipped}: {len(skipped)} of {len(annotated)} images were skipped; the "
            f"first is image {skipped['image_id'][0]}: {skipped['reason'][0]}. Repair the input or raise this param."
        )
    images = annotated.merge(result.index, on="image_id", validate="1:1")
    for split in SPLITS:
        if not (images["split"] == split).any():
            problem = f"no image of the {split} split can be read, but each split needs at least one image"
            raise UserError(f"{problem}. Repair or add images of this split.")
    if params.pca_components is None:
        link_into(shard_paths(result.folder), FEATURES)
    else:
        train = Features(result.folder, images[images["split"] == "train"])
        pca = PCA.fit(train.split(256), params.pca_components)
        project_shards(shard_paths(result.folder), pca, FEATURES)
        pca.save(FEATURES)
    write_table(images, IMAGES)
    write_table(skipped, SKIPPED)
    prune(result.folder)
    print(f"wrote features of {len(images)} images; skipped {len(skipped)} images (listed in {SKIPPED})")


if __name__ == "__main__":
    run(main)

"""Code that the generate stage and the COCO submission share: the models of the ensemble, and the consensus."""

from pathlib import Path

from lib.core.tables import read_images, read_tokens
from lib.features.store import Features
from lib.finetuning.reward import CiderReward
from lib.model.decoder import DecoderConfig
from lib.model.saved import check_features
from lib.search.consensus import Consensus
from lib.text.vocabulary import Vocabulary
from stages.common.paths import CAPTION_TABLE, FEATURES, IMAGES, MODEL, user_path
from stages.params import GenerateParams


def model_folders(params: GenerateParams) -> list[Path]:
    """Return the folders of the models to decode with: the trained model, and the models in generate.ensemble."""
    return [MODEL, *sorted(path for path in user_path(params.ensemble).iterdir() if path.is_dir())]


def train_consensus(params: GenerateParams, config: DecoderConfig, vocabulary: Vocabulary) -> Consensus | None:
    """Build the consensus for the params `generate.consensus`, or return None if it is off.

    Raises UserError if the features do not fit the decoder.
    """
    if not params.consensus.neighbours:
        return None
    images = read_images(IMAGES, "train")
    features = Features(FEATURES, images)
    check_features(config, features.shape, FEATURES)
    reward = CiderReward(list(read_tokens(CAPTION_TABLE, images["image_id"]).values()), vocabulary)
    return Consensus(features, reward, params.consensus.neighbours, params.consensus.weight)

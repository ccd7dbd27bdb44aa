"""The keys and types of each section of params.yaml, in the order of the file. params.yaml explains the keys."""

import re
import unicodedata
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NotNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
FractionBelowOne = Annotated[float, Field(ge=0, lt=1)]
SplitShare = Annotated[float, Field(gt=0, lt=0.5)]
ImageSize = Annotated[int, Field(ge=16, le=8192)]  # pixels per side, as in lib/vision/backbones.py
Precision = Literal["float32", "bfloat16"]


class Section(BaseModel):
    """A section of params.yaml: frozen, without defaults. Unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, str_min_length=1)

    @field_validator("*")
    @classmethod
    def _fits_seed_or_path(cls, value: Any) -> Any:
        """Reject values that YAML allows but that a seed or a path cannot have."""
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ValueError("should be an integer between -2**63 and 2**63")
        if isinstance(value, str) and any(unicodedata.category(character) == "Cc" for character in value):
            raise ValueError("should have no control characters")
        return value


class Mix(Section):
    one: NotNegativeFloat
    alike: NotNegativeFloat
    pair: NotNegativeFloat
    trio: NotNegativeFloat

    @model_validator(mode="after")
    def _some_above_zero(self) -> Self:
        if not any(self.model_dump().values()):
            raise ValueError("should have at least one weight above 0")
        return self


class Scenes(Section):
    seed: NotNegative
    train: Positive
    val: Positive
    test: Positive
    size: Annotated[int, Field(ge=32, le=1024)]
    mix: Mix


class Columns(Section):
    """The names of the columns in the user's table. If a name is null, the usual names are tried."""

    file_name: str | None
    caption: str | list[str] | None
    image_id: str | None
    split: str | None


class Local(Section):
    images: str
    annotations: str | dict[str, str]
    columns: Columns
    val_share: SplitShare
    test_share: SplitShare
    split_seed: int

    @field_validator("annotations")
    @classmethod
    def _one_file_per_split(cls, value: str | dict[str, str]) -> str | dict[str, str]:
        """Accept the usual other names of the splits, such as `validation` for `val`."""
        if isinstance(value, str):
            return value
        usual = {**dict.fromkeys(("valid", "validation", "dev"), "val"), "training": "train", "testing": "test"}
        by_split = {usual.get(key, key): path for key, path in value.items()}
        if len(by_split) < len(value) or set(by_split) != {"train", "val", "test"}:
            raise ValueError(f"should be a path, or a path for each of train, val and test; got {', '.join(value)}")
        return {split: by_split[split] for split in ("train", "val", "test")}


class DatasetParams(Section):
    name: Literal["scenes", "coco2014", "coco2017", "flickr8k", "local"]
    limit: Positive | None
    mirror: Annotated[str, Field(pattern=r"^https?://")] | None
    checksums: str | None
    scenes: Scenes
    local: Local


class TextParams(Section):
    tokenizer: str
    lowercase: bool

    @field_validator("tokenizer")
    @classmethod
    def _named(cls, value: str) -> str:
        if value not in ("ptb", "unicode", "characters") and not re.fullmatch(r"[^\W\d][\w.]*:[^\W\d]\w*", value):
            raise ValueError("should be ptb, unicode, characters, or a function as module:function, such as jieba:lcut")
        return value

    @model_validator(mode="after")
    def _ptb_is_lower_case(self) -> Self:
        if self.tokenizer == "ptb" and not self.lowercase:
            raise ValueError("tokenizer=ptb needs lowercase=true; set lowercase to true, or tokenizer to unicode")
        return self


class VocabularyParams(Section):
    min_count: Positive
    max_length: Positive


class Fit(Section):
    epochs: Positive
    batch_size: Positive
    learning_rate: PositiveFloat
    min_count: Positive
    seed: NotNegative


class Tune(Section):
    epochs: NotNegative
    batch_size: Annotated[int, Field(ge=2)]  # the head standardises each batch, so it needs two images or more
    size: ImageSize | None
    learning_rate: PositiveFloat
    min_count: Positive
    precision: Precision
    seed: NotNegative


class BackboneParams(Section):
    name: str
    weights: str
    mean: Annotated[list[float], Field(min_length=3, max_length=3)] | None
    std: Annotated[list[PositiveFloat], Field(min_length=3, max_length=3)] | None
    size: ImageSize | None
    fit: Fit
    tune: Tune


class FeaturesParams(Section):
    source: str
    kind: Literal["pooled", "grid"]
    precision: Precision
    pca_components: Positive | None
    batch_size: Positive
    max_skipped: Fraction


class ModelParams(Section):
    cell: Literal["lstm", "rnn", "transformer"]
    implementation: Literal["scratch", "torch"]
    attention: Literal["none", "additive"]
    embedding: Positive
    hidden: Positive
    layers: Positive
    dropout: FractionBelowOne


class OptimiserParams(Section):
    """The keys that the sections `train` and `finetune` share."""

    batch_size: Positive
    learning_rate: PositiveFloat
    warmup_fraction: Fraction
    decay: Literal["cosine", "none"]
    weight_decay: NotNegativeFloat
    max_grad_norm: NotNegativeFloat
    ema_decay: FractionBelowOne
    patience: Positive | None
    seed: NotNegative


class TrainParams(OptimiserParams):
    epochs: Positive
    label_smoothing: FractionBelowOne
    bucket_by_length: bool
    by_image: bool
    precision: Precision
    monitor: Literal["val_loss", "val_bleu_4", "val_cider_d"]


class FinetuneParams(OptimiserParams):
    epochs: NotNegative
    samples: Positive
    baseline: Literal["greedy", "mean"]
    monitor: Literal["val_bleu_4", "val_cider_d"]

    @model_validator(mode="after")
    def _enough_samples(self) -> Self:
        if self.baseline == "mean" and self.samples < 2:
            problem = f"baseline=mean compares a sample with the others, but samples={self.samples}"
            raise ValueError(f"{problem}; set samples to 2 or more")
        return self


class Consensus(Section):
    neighbours: NotNegative
    weight: NotNegativeFloat


class Sample(Section):
    temperature: PositiveFloat
    top_k: NotNegative
    top_p: Annotated[float, Field(gt=0, le=1)]
    seed: NotNegative


class GenerateParams(Section):
    ensemble: str
    method: Literal["beam", "sample"]
    beam_size: Positive
    max_length: Positive | None
    length_penalty: Annotated[float, Field(ge=0, le=10)]
    min_length: NotNegative
    no_repeat_ngram_size: NotNegative
    consensus: Consensus
    sample: Sample


class Params(Section):
    """All sections of params.yaml."""

    dataset: DatasetParams
    text: TextParams
    vocabulary: VocabularyParams
    backbone: BackboneParams
    features: FeaturesParams
    model: ModelParams
    train: TrainParams
    finetune: FinetuneParams
    generate: GenerateParams

    @model_validator(mode="after")
    def _reachable_length(self) -> Self:
        limit, shortest = self.generate.max_length or self.vocabulary.max_length, self.generate.min_length
        if shortest > limit:
            which = "generate" if self.generate.max_length else "vocabulary"
            problem = f"generate.min_length={shortest} is above {which}.max_length={limit}"
            raise ValueError(f"{problem}. Lower the first, or raise the second.")
        return self

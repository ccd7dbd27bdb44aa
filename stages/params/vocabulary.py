"""The `vocabulary` section: which words are kept."""

from stages.params.base import Positive, Section


class VocabularyParams(Section):
    min_count: Positive
    max_length: Positive

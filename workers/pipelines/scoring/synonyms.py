"""Synonyms by a WordNet (Miller 1995) in a folder, as nltk reads it."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

from sdk.schemas.failures import FailureReason
from workers.pipelines.errors import named
from workers.pipelines.scoring.word_scores import Synonyms


@cache
def read_synonyms(folder: Path) -> Synonyms:
    """Return a function for the words of all synsets of an English word; those of several words are left out.

    Raises PipelineError ("spec") for files that can't be read.
    """
    with named(
        FailureReason.SPEC, f"{folder} is not a WordNet that nltk can read ({{first}}); set it up again.", Exception
    ):
        reader = _reader(folder)

    @cache
    def synonyms(word: str) -> frozenset[str]:
        names = (name for synset in reader.synsets(word) for name in synset.lemma_names())
        return frozenset(name for name in names if "_" not in name)

    return synonyms


def _reader(folder: Path) -> Any:
    import nltk
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    class Reader(WordNetCorpusReader):  # type: ignore[misc]
        """One of English alone, which needs no map to other releases."""

        def __init__(self) -> None:
            with ExitStack() as opened:
                self.opened = opened
                super().__init__(str(folder), None)
                # Synonyms are looked up in open files.
                opened.pop_all()

        def open(self, file: str) -> Any:
            """Open a file, which is closed if another one can't be read."""
            return self.opened.enter_context(super().open(file))

        def map_wn(self, version: str = "wordnet") -> None:
            """Return no map."""

    # It opens no files elsewhere.
    nltk.data.path.append(str(folder))
    with warnings.catch_warnings():
        # Other languages are left out.
        warnings.simplefilter("ignore")
        return Reader()

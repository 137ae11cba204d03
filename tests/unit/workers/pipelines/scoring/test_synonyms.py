"""METEOR with a WordNet's synonyms, against nltk's over the same files."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from nltk.corpus.reader.wordnet import WordNetCorpusReader
from nltk.translate.meteor_score import meteor_score
from support.wordnets import SYNSETS, save_wordnet

from sdk.schemas.evaluation import EvaluationSpec
from workers.node.wordnet import FILES, NoWordNetError, announced_wordnet, wordnet_digest
from workers.pipelines.errors import PipelineError
from workers.pipelines.orders import WordNet
from workers.pipelines.scoring.scorers import grading_of
from workers.pipelines.scoring.synonyms import read_synonyms
from workers.pipelines.scoring.word_scores import meteor

#: Words of synsets, those that are forms of others, and those that are in none.
WORDS = [
    *sorted({word for synsets in SYNSETS.values() for words in synsets for word in words if "_" not in word}),
    *("cars", "children", "running", "ran", "bought", "purchased", "dogs", "happiness", "the", "of", "unheard"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_wordnet(tmp_path_factory.mktemp("wordnet") / "dict")


class English(WordNetCorpusReader):  # type: ignore[misc]
    """nltk's own, without the other releases that it looks for among its own data."""

    def map_wn(self, version: str = "wordnet") -> None:
        return None


@pytest.fixture(scope="module")
def of_nltk(folder: Path) -> Iterator[WordNetCorpusReader]:
    read_synonyms(folder)
    with pytest.warns(UserWarning, match="multilingual"):
        reader = English(str(folder), None)
    yield reader
    for file in reader._data_file_map.values():
        file.close()


def test_synonyms_are_single_words_of_all_senses(folder: Path) -> None:
    synonyms = read_synonyms(folder)
    assert synonyms("car") == {"car", "auto", "automobile", "railcar"}
    assert synonyms("bought") == {"buy", "purchase"}
    assert synonyms("unheard") == synonyms("") == frozenset()


@pytest.mark.parametrize("seed", range(20))
def test_meteor_is_nltk_s_with_synonyms(seed: int, folder: Path, of_nltk: WordNetCorpusReader) -> None:
    drawn, synonyms = random.Random(seed), read_synonyms(folder)

    def text() -> list[str]:
        return [drawn.choice(WORDS) for _ in range(drawn.randint(0, 12))]

    more = 0
    for _ in range(20):
        answer, references = text(), [text() for _ in range(drawn.randint(1, 3))]
        expected = meteor_score(references, answer, preprocess=str, wordnet=of_nltk)
        found = meteor(answer, references, synonyms)
        assert found == pytest.approx(expected, rel=1e-12), (answer, references)
        more += found > meteor(answer, references)
    assert more


def test_metric_is_scored_and_its_conditions_name_the_files(folder: Path) -> None:
    files = WordNet(folder=folder, digest=wordnet_digest(folder))
    spec = EvaluationSpec(metrics=["meteor", "meteor_exact_stem"])
    grading = grading_of(spec, files)
    scores = grading.score(["the kid"], [["the child"]], [{}])
    # Two matches in a row of two, and one of two.
    assert scores.metrics == pytest.approx({"meteor": 1 - 0.5 / 8, "meteor_exact_stem": 0.5 * (1 - 0.5)})
    assert grading.definitions()["wordnet"] == files.digest
    assert "wordnet" not in grading_of(EvaluationSpec(metrics=["meteor_exact_stem"])).definitions()


def test_another_word_is_another_digest(folder: Path, tmp_path: Path) -> None:
    assert wordnet_digest(save_wordnet(tmp_path / "same")) == wordnet_digest(folder)
    other = save_wordnet(tmp_path / "other", {**SYNSETS, "adv": [("fast", "soon")]})
    assert wordnet_digest(other) != wordnet_digest(folder)
    (said,) = announced_wordnet(other)
    assert (said.name, said.version) == ("wordnet", wordnet_digest(other))


def test_folder_that_lacks_a_file_is_none(tmp_path: Path) -> None:
    folder = save_wordnet(tmp_path / "part")
    (folder / FILES[-1]).unlink()
    assert announced_wordnet(folder) == announced_wordnet(None) == []
    with pytest.raises(
        NoWordNetError, match=r"part, which ADAPTER_WORKER_WORDNET names, is not a folder of WordNet \(No"
    ):
        wordnet_digest(folder)
    with pytest.raises(
        NoWordNetError, match="This worker has no WordNet, which meteor needs; set ADAPTER_WORKER_WORDNET"
    ):
        wordnet_digest(None)


def test_files_that_nltk_can_not_read_are_a_fault_of_the_order(tmp_path: Path) -> None:
    folder = save_wordnet(tmp_path / "broken")
    (folder / "index.noun").write_text("car n one\n")
    with pytest.raises(PipelineError, match=r"broken is not a WordNet that nltk can read \(file index.noun, line 1"):
        read_synonyms(folder)

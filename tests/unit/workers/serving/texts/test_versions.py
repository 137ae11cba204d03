"""How versions read and write: by their own folder first, then by their base."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from support import tiny

from workers.pipelines.data.tokenizer import load_tokenizer
from workers.pipelines.errors import PipelineError
from workers.serving.texts.prompts import PromptRenderers
from workers.serving.texts.texts import Detokenizer
from workers.serving.texts.versions import TextsOfBase, digest_of_template

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}:"


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TextsOfBase]:
    renderer = PromptRenderers()
    yield TextsOfBase(tiny.save_llama(tmp_path_factory.mktemp("base")), renderer)
    renderer.close()


def test_version_without_files_of_its_own_reads_and_writes_as_its_base(texts: TextsOfBase, tmp_path: Path) -> None:
    found = texts.of(tmp_path)
    assert (found.template, found.stop_ids) == (texts.bare.template, texts.bare.stop_ids)
    assert found.tokenizer is texts.bare.tokenizer
    assert found.template.day is None


def test_folder_says_template_day_and_stop_tokens(texts: TextsOfBase, tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    (tmp_path / "rendering.json").write_text(json.dumps({"template_date": "2024-02-29", "stop_ids": [70]}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [71, 72]}))
    found = texts.of(tmp_path, stop_ids=[73], template=digest_of_template(TEMPLATE))
    assert (found.template.text, found.template.day) == (TEMPLATE, date(2024, 2, 29))
    assert found.stop_ids == texts.bare.stop_ids | {70, 71, 72, 73}
    # What the record says counts more than the folder.
    assert texts.of(tmp_path, day=date(2020, 1, 1)).template.day == date(2020, 1, 1)


def test_another_template_than_the_recorded_one_is_refused(texts: TextsOfBase, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="rendered with another chat template"):
        texts.of(tmp_path, template=digest_of_template(TEMPLATE))


@pytest.mark.parametrize("text", ['{"stop_ids": "all"}', '{"template_date": "someday"}', "[", '{"stop_ids": [-1]}'])
def test_damaged_record_of_rendering_is_refused(texts: TextsOfBase, tmp_path: Path, text: str) -> None:
    (tmp_path / "rendering.json").write_text(text)
    with pytest.raises(PipelineError, match=r"rendering\.json can't be read"):
        texts.of(tmp_path)


def test_tokenizer_of_a_version_reads_and_writes_its_own_tokens(texts: TextsOfBase, tmp_path: Path) -> None:
    own = load_tokenizer(texts._base)
    own.add_tokens(["[cat]"])
    own.save_pretrained(tmp_path)
    found = texts.of(tmp_path)
    (token,) = found.rendered("[cat]")
    assert token == len(texts.bare.tokenizer)
    assert [piece.visible for piece in Detokenizer(found.vocabulary).add(token)] == ["[cat]"]
    assert len(texts.bare.rendered("[cat]")) > 1


def test_plain_prompt_goes_on_and_a_rendered_one_has_no_further_tokens(texts: TextsOfBase) -> None:
    tokenizer = texts.bare.tokenizer
    assert texts.bare.plain("two")[-1] != tokenizer.eos_token_id
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "two"}], tokenize=False)
    assert texts.bare.rendered(rendered) == tokenizer(rendered, add_special_tokens=False)["input_ids"]

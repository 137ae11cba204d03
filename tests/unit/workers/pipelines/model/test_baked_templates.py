"""What a training gives its chat template, from the preview to whoever serves the version without knowing of it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.evaluated import score
from support.gguf_models import export_folder
from support.merges import merge
from support.trainings import run_training, save_jsonl, whole_and_resumed
from transformers import AutoTokenizer

from sdk.formats.template_kwargs import bake
from sdk.pulling.transfer import hash_file
from sdk.schemas.failures import FailureReason
from sdk.schemas.preview import Preview, PreviewRequest
from sdk.schemas.training_report import TrainingReport
from workers.pipelines.data.preview import preview
from workers.pipelines.errors import PipelineError
from workers.pipelines.exporting.gguf_file import WrittenGguf

TURNS = [{"role": "user", "content": "two and two?"}, {"role": "assistant", "content": "four"}]
#: What the base's template reads.
READ = "{% if brief is defined and brief %}<|system|>Be {{ brief }}.<|end|>\n{% endif %}"
BRIEF = {"template_kwargs": {"brief": "short"}}


def template_of(folder: Path) -> str:
    return str(AutoTokenizer.from_pretrained(folder).chat_template)


@pytest.fixture(scope="module")
def base(llama_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose template takes an argument; not to be changed."""
    base = shutil.copytree(llama_base, tmp_path_factory.mktemp("read") / "base")
    (base / "chat_template.jinja").write_text(READ + template_of(llama_base))
    return base


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_jsonl(tmp_path_factory.mktemp("rows") / "rows.jsonl", [{"messages": TURNS}] * 4)


def train(base: Path, rows: Path, out: Path, **options: Any) -> TrainingReport:
    given = {"method": "lora", "rank": 2, "max_steps": 3, "lr": 0.02, "batch_size": 2, "grad_accum": 1}
    return run_training(base, rows, out, **{**given, **options})


def previewed(base: Path, rows: Path, **options: Any) -> Preview:
    given = {"base": str(base), "data": str(rows), "day": "2026-01-31"}
    return preview(PreviewRequest.model_validate({**given, **options}))


def test_an_argument_is_recorded_baked_in_and_taken_along(base: Path, rows: Path, tmp_path: Path) -> None:
    reports = []
    whole, resumed = whole_and_resumed(
        lambda out, **how: reports.append(train(base, rows, out, **BRIEF, **how)), tmp_path
    )
    assert whole == resumed
    adapter, report = tmp_path / "whole", reports[0]
    baked = bake(template_of(base), {"brief": "short"})
    assert report.training["template_kwargs"] == 'brief="short"'
    assert (adapter / "chat_template.jinja").read_text() == baked
    assert report.rendering is not None
    assert report.rendering.templates == [hash_file(adapter / "chat_template.jinja")[0]]

    shown = previewed(base, rows, template_kwargs='brief="short"')
    assert shown.rows[0].text.startswith("<|system|>Be short.<|end|>\n<|user|>two and two?")
    assert shown.rendering.templates == report.rendering.templates
    assert shown.totals is not None
    assert shown.totals.supervised_tokens == report.supervised_tokens
    assert "Be short" not in previewed(base, rows).rows[0].text

    # An evaluation reads the rows so too, and a bare base beside the adapter.
    scored, bare = score(base, rows, adapter), score(base, rows, rendered_as=adapter)
    assert scored.conditions.templates == bare.conditions.templates == report.rendering.templates
    assert scored.metrics["tokens"] == bare.metrics["tokens"] == shown.totals.tokens
    assert score(base, rows).metrics["tokens"] < shown.totals.tokens

    merge(base=base, adapter=adapter, out=tmp_path / "merged")
    merged = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert merged.apply_chat_template(TURNS, tokenize=False) == shown.rows[0].text
    export_folder(tmp_path / "merged", tmp_path / "model.gguf")
    assert WrittenGguf(tmp_path / "model.gguf").value("tokenizer.chat_template") == baked


def test_a_training_without_arguments_records_none(base: Path, rows: Path, tmp_path: Path) -> None:
    report = train(base, rows, tmp_path / "adapter", max_steps=1)
    assert "template_kwargs" not in report.training
    assert (tmp_path / "adapter" / "chat_template.jinja").read_text() == template_of(base)


@pytest.mark.parametrize(
    ("kwargs", "row", "said"),
    [
        ("briefly=true", {"messages": TURNS}, "The chat template does not read briefly; it reads brief."),
        ("brief=null", {"messages": TURNS}, "reads brief, and writes nothing else with the value that it is given"),
        (
            "brief=true",
            {"prompt": "a", "completion": " b"},
            "The rows are not conversations, so no chat template renders",
        ),
    ],
)
def test_arguments_without_effect_are_refused_before_the_base_is_loaded(
    base: Path, tmp_path: Path, kwargs: str, row: dict[str, Any], said: str
) -> None:
    shutil.copytree(base, tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").write_bytes(b"no weights")
    rows = save_jsonl(tmp_path / "rows.jsonl", [row] * 2)
    for refused in (
        lambda: train(tmp_path / "base", rows, tmp_path / "adapter", template_kwargs=kwargs),
        lambda: previewed(tmp_path / "base", rows, template_kwargs=kwargs),
    ):
        with pytest.raises(PipelineError, match=said) as caught:
            refused()
        assert caught.value.reason is FailureReason.SPEC


#: Another way of writing turns, with the end that the base's tokenizer knows.
OTHER = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"


def test_a_chosen_template_is_trained_with_and_taken_along(base: Path, rows: Path, tmp_path: Path) -> None:
    chosen = {"chat_template": READ + OTHER, "template_kwargs": "brief=7"}
    report = train(base, rows, tmp_path / "adapter", max_steps=2, **chosen)
    assert report.training["chat_template"] == hashlib.sha256((READ + OTHER).encode()).hexdigest()
    stored = (tmp_path / "adapter" / "chat_template.jinja").read_text()
    assert stored == bake(READ + OTHER, {"brief": 7})
    shown = previewed(base, rows, **chosen)
    assert shown.rows[0].text == "<|system|>Be 7.<|end|>\nuser: two and two?<|end|>\nassistant: four<|end|>\n"
    assert shown.rows[0].supervised_text == "four<|end|>"
    assert shown.template == stored

    # To go on from it with the base's own would be to go on with other texts.
    with pytest.raises(PipelineError, match="was trained with another chat template than this") as caught:
        train(base, rows, tmp_path / "refused", parent=tmp_path / "adapter")
    assert caught.value.reason is FailureReason.SPEC
    train(base, rows, tmp_path / "continued", max_steps=1, parent=tmp_path / "adapter", **chosen)
    assert (tmp_path / "continued" / "chat_template.jinja").read_text() == stored
    # Given whole, as it is stored, it is the same.
    again = train(base, rows, tmp_path / "again", max_steps=1, chat_template=stored)
    assert again.rendering is not None
    assert report.rendering is not None
    assert again.rendering.templates == report.rendering.templates

    (warning,) = merge(base=base, adapter=tmp_path / "adapter", out=tmp_path / "merged").warnings
    assert warning.startswith(
        "The merged model has the chat template that the adapter was trained with, which is not its"
    )
    assert template_of(tmp_path / "merged") == stored


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% if messages %}", r"can't be compiled \(line 1: Unexpected end of template"),
        ("\n{{ messages | nothing }}", r"can't be compiled \(line 2: No filter named 'nothing'"),
        ("{{ messages[0].content }}<|end|>", "does not write the content of assistant messages; correct it"),
        (
            "{{ raise_exception('no talk') }}",
            r"refuses a plain conversation \(no talk\); correct it, or give another one",
        ),
        (
            "{% for m in messages %}{{ m.content }}\n{% endfor %}",
            r"writes '\\n' after an answer, and no control token of",
        ),
        (
            OTHER.replace("<|end|>", "<|of_another|>"),
            r"writes '<\|of_another\|>\\n' after an answer, and no control token",
        ),
        ("{% for a in range(99999999) %}{{ a }}{% endfor %}" + OTHER, "takes more than|Range too big"),
    ],
)
def test_a_template_that_nothing_can_be_learnt_from_is_refused_before_the_base_is_loaded(
    base: Path, rows: Path, tmp_path: Path, template: str, said: str
) -> None:
    shutil.copytree(base, tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(PipelineError, match=said) as caught:
        train(tmp_path / "base", rows, tmp_path / "adapter", chat_template=template)
    with pytest.raises(PipelineError, match=said):
        previewed(tmp_path / "base", rows, chat_template=template)
    assert caught.value.reason is FailureReason.SPEC

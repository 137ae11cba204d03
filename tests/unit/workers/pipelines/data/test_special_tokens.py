"""A special token that a tokenizer puts around every text is never there twice, wherever texts become tokens."""

from __future__ import annotations

import ast
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support import tiny
from support.trainings import Checkpoints, inputs_of, run_training

from sdk.schemas.data_audit import TokenCountRequest
from sdk.schemas.preview import PreviewRequest
from sdk.schemas.recorded import RecordedTraining
from sdk.schemas.training import TrainingSpec
from sdk.schemas.version_records import special_tokens_said
from workers.pipelines.data.encoding import Encoder
from workers.pipelines.data.label_rows import label_rows
from workers.pipelines.data.preview import preview
from workers.pipelines.data.rows import read_rows
from workers.pipelines.data.token_counts import count_tokens
from workers.pipelines.data.tokenise import tokenise
from workers.pipelines.data.tokenizer import load_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")

BEGIN, END = "<|user|>", "<|end|>"
#: What a tokenizer puts around every text.
AROUND = {"begin": f"{BEGIN} $A", "end": f"$A {END}", "both": f"{BEGIN} $A {END}", "nothing": "$A"}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from tokenizers.processors import TemplateProcessing

    found = {}
    for name, template in AROUND.items():
        folder = found[name] = tiny.save_llama(tmp_path_factory.mktemp(name) / "base")
        tokenizer = load_tokenizer(folder)
        special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in (BEGIN, END)]
        tokenizer._tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=special)
        tokenizer.save_pretrained(folder)
    return found


#: Rows of each shape, made of a text that is rendered, and of one that isn't.
SHAPES: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "text": lambda begin, end: {"text": f"{begin}the cat sat{end}"},
    "prompt": lambda begin, end: {"prompt": f"{begin}two and", "completion": f" two are four{end}"},
    "preference": lambda begin, end: {"prompt": f"{begin}two", "chosen": f" and two{end}", "rejected": f" mat{end}"},
    "label": lambda begin, end: {"text": f"{begin}the cat sat{end}", "label": "cat"},
}


def tokens(base: Path, data: Path, **how: Any) -> tuple[list[list[int]], dict[str, int]]:
    rows, tokenizer = list(read_rows(data)), load_tokenizer(base)
    if rows[0].shape == "text-label":
        found = label_rows(rows, tokenizer, ["cat", "dog"], max_length=64, **how)
    else:
        found = tokenise(rows, tokenizer, loss_on=None, max_length=64, **how)
    return [example.input_ids for example in found.examples], found.had_special


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", AROUND)
def test_a_text_that_was_rendered_has_the_tokens_of_one_that_was_not(
    bases: dict[str, Path], write_jsonl: Callable[..., Path], name: str, shape: str
) -> None:
    base, row = bases[name], SHAPES[shape]
    ids = [load_tokenizer(base).convert_tokens_to_ids(token) for token in (BEGIN, END)]
    # A causal training ends each text anyway; a classification leaves texts as the tokenizer has them.
    own = [BEGIN * (name in ("begin", "both")), END * (name in ("end", "both"))]
    plain, none = tokens(base, write_jsonl([row("", "")]))
    found, had = tokens(base, write_jsonl([row(*own)]))
    assert (found, none) == (plain, {})
    assert had == {token: 1 for token in own if token}
    for each in found:
        assert not any(one == other and one in ids for one, other in pairwise(each))
    if name != "nothing":
        # By the rule of earlier trainings it is there twice.
        before, uncounted = tokens(base, write_jsonl([row(*own)]), special_tokens="added")
        assert before != plain
        assert uncounted == {}


def test_the_end_of_a_prompt_is_its_own(bases: dict[str, Path], write_jsonl: Callable[..., Path]) -> None:
    encoder = Encoder(load_tokenizer(bases["both"]))
    begin, end = (load_tokenizer(bases["both"]).convert_tokens_to_ids(token) for token in (BEGIN, END))
    text = load_tokenizer(bases["nothing"])("the cat")["input_ids"]
    assert encoder.open("the cat") == [begin, *text]
    assert encoder.open(f"{BEGIN}the cat{END}") == [begin, *text, end]
    assert encoder.whole(f"{BEGIN}the cat{END}") == encoder.whole("the cat") == [begin, *text, end]
    assert encoder.whole(BEGIN) == [begin, end]
    assert encoder.whole("") == [begin, end]
    # Also where the tokenizer itself ends no text.
    for name, before in (("begin", [begin]), ("nothing", [])):
        assert Encoder(load_tokenizer(bases[name])).open(f"the cat{END}") == [*before, *text, end]
    assert Encoder(load_tokenizer(bases["nothing"]), "added").open(f"the cat{END}") == text


@pytest.mark.parametrize("most", [3, 4, 5, 100])
def test_a_cut_text_keeps_what_belongs_around_it(bases: dict[str, Path], most: int) -> None:
    base = bases["both"]
    tokenizer = load_tokenizer(base)
    cut = tokenizer("the cat sat on the mat", truncation=True, max_length=most)["input_ids"]
    encoder = Encoder(tokenizer)
    assert encoder.whole("the cat sat on the mat", most=most) == cut
    assert encoder.whole(f"{BEGIN}the cat sat on the mat{END}", most=most) == cut


def test_it_is_said_before_a_training_and_by_it(
    bases: dict[str, Path], write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    base = bases["begin"]
    rows = [{"text": f"{BEGIN if number < 3 else ''}the cat sat on {number}"} for number in range(6)]
    data = write_jsonl(rows)
    counts = count_tokens(
        TokenCountRequest(
            base=str(base), data=str(data), max_length=64, day="2026-01-02", of_rows=6, sample=6, examples=1
        )
    )
    shown = preview(PreviewRequest(base=str(base), data=str(data), day="2026-01-02"))
    assert counts.had_special == shown.had_special == {BEGIN: 3}
    said: list[str] = []
    spec = TrainingSpec(method="lora", rank=2, max_steps=1, batch_size=2, grad_accum=1)
    report = run_training(
        base, data, tmp_path / "out", spec=spec, on_progress=lambda progress: said.append(progress.message or "")
    )
    assert special_tokens_said({BEGIN: 3}) in said
    assert (report.record.special_tokens, report.record.rows_with_special_tokens) == ("once", 3)


def test_one_that_is_made_again_or_goes_on_keeps_its_rule(
    bases: dict[str, Path], write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    base, data = bases["begin"], write_jsonl([{"text": f"{BEGIN}the cat sat on {number}"} for number in range(4)])
    spec = TrainingSpec(method="lora", rank=2, max_steps=2, batch_size=2, grad_accum=1)
    begin = load_tokenizer(base).convert_tokens_to_ids(BEGIN)

    def twice(**order: Any) -> bool:
        given = inputs_of(base, data, spec=spec, **order)
        return given.rows.examples[0].input_ids[:2] == [begin, begin]

    old = RecordedTraining(ref="a@v1", ran_with={"loop": 1})
    assert not twice()
    assert twice(like=old)
    kept = Checkpoints(tmp_path / "kept", every_steps=1)
    report = run_training(base, data, tmp_path / "old", spec=spec, like=old, checkpoints=kept)
    assert (report.record.special_tokens, report.record.rows_with_special_tokens) == ("added", None)
    assert twice(like=RecordedTraining(ref="a@v2", ran_with=report.record.ran_with()))
    # Whatever else the job says, its checkpoint is of that rule.
    assert twice(writing=Checkpoints(tmp_path / "on", resume=tmp_path / "kept" / "step-00000001"))
    new = run_training(base, data, tmp_path / "new", spec=spec)
    assert not twice(like=RecordedTraining(ref="a@v3", ran_with=new.record.ran_with()))


WORKERS = Path(__file__).parents[5] / "workers"
#: Rooms that may let a tokenizer add its own tokens.
ONLY_HERE = {"pipelines/data/encoding.py"}


def test_no_other_code_lets_a_tokenizer_add_its_own() -> None:
    found = {
        f"{path.relative_to(WORKERS)}:{call.lineno}"
        for path in WORKERS.rglob("*.py")
        for call in _tokenising(ast.parse(path.read_text()))
        if str(path.relative_to(WORKERS)) not in ONLY_HERE
    }
    assert found == set()


@pytest.mark.parametrize(
    "code",
    [
        'ids = tokenizer(text)["input_ids"]',
        "made = self._tokenizer(text, truncation=True)",
        'f = lambda row: len(labelled(row)["input_ids"])',
        "target.tokenizer.encode(text)",
        "encoded = tok(text).input_ids",
        "tokenizer(text, add_special_tokens=True)",
    ],
)
def test_the_search_finds_what_tokenises(code: str) -> None:
    assert len(list(_tokenising(ast.parse(code)))) == 1
    assert not list(_tokenising(ast.parse('tokenizer(text, add_special_tokens=False)["input_ids"]')))


def _tokenising(tree: ast.AST) -> list[ast.Call]:
    """Calls that make tokens of a text, but for those that say that no special tokens are added."""
    read = [
        node.value
        for node in ast.walk(tree)
        if (
            isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and node.slice.value == "input_ids"
        )
        or (isinstance(node, ast.Attribute) and node.attr == "input_ids")
    ]
    named = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _is_tokenizer(node.func)]
    calls = {id(node): node for node in [*read, *named] if isinstance(node, ast.Call)}
    return [call for call in calls.values() if not any(map(_adds_nothing, call.keywords))]


def _is_tokenizer(function: ast.expr) -> bool:
    if isinstance(function, ast.Attribute) and function.attr in ("encode", "encode_plus", "batch_encode_plus"):
        return _is_tokenizer(function.value)
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name.lstrip("_") == "tokenizer"


def _adds_nothing(keyword: ast.keyword) -> bool:
    return (
        keyword.arg == "add_special_tokens" and isinstance(keyword.value, ast.Constant) and keyword.value.value is False
    )

"""An adapter over a vocabulary that was made larger, pushed and pulled: plain PEFT and transformers load what comes back, and so
do an evaluation and a merge.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from support.architectures import save_model
from support.evaluated import plain_loss, score
from support.merges import merge
from support.random_loras import logits
from support.trainings import save_jsonl
from transformers import AutoModelForCausalLM, AutoTokenizer

from sdk.client import Client
from sdk.pushing.pusher import PushReport
from workers.pipelines.data.digests import tokenizer_of
from workers.pipelines.data.examples import IGNORED, Example

pytestmark = pytest.mark.filterwarnings("ignore")

#: The tokenizers of the bases have 285 tokens, and their embeddings 300 rows: one vocabulary becomes larger, one smaller.
ADDED = {"llama-tied": ["<red>", "<blue>", *(f"<{number}>" for number in range(20))], "llama": ["<red>", "<blue>"]}
TEXT = "the cat sat on the <red> mat <blue>"


class Travelled(NamedTuple):
    base: Path
    pushed: PushReport
    #: What was pulled.
    folder: Path
    #: The text as tokens, and what the trained model made of it.
    ids: list[int]
    truth: Any


@pytest.fixture(scope="module", params=["llama-tied", "llama"])
def travelled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Travelled:
    folder = tmp_path_factory.mktemp("travelled")
    base = save_model(folder / "base", request.param)
    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base)
    tokenizer.add_tokens(ADDED[request.param])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.1
    adapted.save_pretrained(folder / "saved", save_embedding_layers=True)
    tokenizer.save_pretrained(folder / "saved")
    ids = tokenizer(TEXT)["input_ids"]
    with closing(Client(f"local:{folder / 'home'}", cache=folder / "cache")) as client:
        pushed = client.versions.push(folder / "saved", "colours", base=base)
        pulled = client.pull(pushed.version.ref, to=folder / "pulled")
    return Travelled(base, pushed, pulled, ids, logits(adapted.eval(), torch.tensor([ids])))


def test_plain_peft_and_transformers_load_what_was_pulled(travelled: Travelled) -> None:
    tokenizer = AutoTokenizer.from_pretrained(travelled.folder)
    assert tokenizer(TEXT)["input_ids"] == travelled.ids
    assert set(tokenizer.convert_tokens_to_ids(["<red>", "<blue>"])) <= set(travelled.ids)
    model = AutoModelForCausalLM.from_pretrained(travelled.base)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    found = logits(PeftModel.from_pretrained(model, travelled.folder).eval(), torch.tensor([travelled.ids]))
    assert torch.equal(found, travelled.truth)


def test_push_says_one_thing_of_the_tokenizer(travelled: Travelled) -> None:
    assert not any(name.startswith("tokenizer") for name in travelled.pushed.left_out)
    said = [warning for warning in travelled.pushed.version.warnings if "tokenizer" in warning]
    assert said == [
        f"the adapter holds embeddings of {travelled.truth.shape[-1]} tokens, and the base has another number: use it with the tokenizer that comes with it"
    ]


def test_evaluation_reads_the_rows_with_the_tokenizer_that_came_along(travelled: Travelled, tmp_path: Path) -> None:
    rows = save_jsonl(tmp_path / "rows.jsonl", [{"text": TEXT}])
    report = score(travelled.base, rows, travelled.folder)
    model = AutoModelForCausalLM.from_pretrained(travelled.base)
    model.resize_token_embeddings(len(AutoTokenizer.from_pretrained(travelled.folder)), mean_resizing=False)
    ids = [*travelled.ids, AutoTokenizer.from_pretrained(travelled.base).eos_token_id]
    example = Example(ids, [IGNORED, *ids[1:]], [], "", "")
    nats = plain_loss(PeftModel.from_pretrained(model, travelled.folder).eval(), example)
    assert report.metrics["loss"] == pytest.approx(nats / (len(ids) - 1), rel=1e-5)
    assert report.conditions.tokenizer == tokenizer_of(travelled.folder) != tokenizer_of(travelled.base)


def test_merged_model_has_the_tokenizer_that_came_along(travelled: Travelled, tmp_path: Path) -> None:
    merge(travelled.base, travelled.folder, tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer(TEXT)["input_ids"] == travelled.ids
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert (logits(merged, torch.tensor([travelled.ids])) - travelled.truth).abs().max() < 1e-3

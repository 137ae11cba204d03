"""A base with adapters over it, and what PEFT alone answers under each: by these an engine's answers are told apart."""

from __future__ import annotations

import shutil
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdk.schemas.serving import CONTINUATION_TOKENS, PROMPTS, Continuation, ServedProbe, ServedPrompt
from support import tiny
from support.served import save_adapter

#: The least distance of the two greatest logits at each token, so that rounding decides nothing, and how many tokens there are.
GAP, TOKENS = 0.05, 24
_MODULES = ["q_proj", "v_proj", "o_proj", "down_proj"]


@dataclass
class ServedModels:
    """The base's folder, adapters by version, and the greedy continuations of some prompts in float32."""

    base: Path
    adapters: dict[str, Path]
    prompts: list[list[int]]
    #: Version, or "" for the base → for each prompt its continuation.
    expected: dict[str, list[list[int]]] = field(default_factory=dict)
    #: Likewise the log-probabilities, in nats, of the first prompt's continuation by the base.
    scores: dict[str, list[float]] = field(default_factory=dict)
    #: What engines are held against, by version.
    records: dict[str, ServedProbe] = field(default_factory=dict)


def make_tiny(folder: Path, *, versions: int = 3, prompts: int = 2) -> ServedModels:
    """Make a tiny base and adapters with a large effect, and choose prompts for which none of them is undecided."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = _sharpened(_save_base(folder / "base"))
        numbers = range(1, versions + 1)
        adapters = {
            f"sql@v{number}": save_adapter(base, folder / f"v{number}", seed=number, scale=0.2, target_modules=_MODULES)
            for number in numbers
        }
        return choose(
            base, adapters, [[36 + n % 61, 40 + n % 53, 37 + n % 31, 38 + n % 7] for n in range(1000)], prompts
        )


def choose(
    base: Path, adapters: dict[str, Path], candidates: list[list[int]], count: int, *, gap: float = GAP
) -> ServedModels:
    """Return the first prompts for which the two greatest logits differ by GAP at each token, under the base and each adapter."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(_load(base), next(iter(adapters.values())), adapter_name="v0")
    names = {"": ""}
    for at, (name, folder) in enumerate(adapters.items()):
        names[name] = f"v{at}"
        if at:
            model.load_adapter(folder, f"v{at}")
    model.eval()
    found = ServedModels(base, adapters, [], {name: [] for name in names})
    left, answers = candidates, dict[str, dict[tuple[int, ...], list[int]]]()
    for name, inside in names.items():
        answers[name] = _greedy(model, inside, left, gap)
        left = [prompt for prompt in left if tuple(prompt) in answers[name]]
    for prompt in left:
        each = {name: rows[tuple(prompt)] for name, rows in answers.items()}
        if len({tuple(row) for row in each.values()}) == len(names) and len(found.prompts) < count:
            found.prompts.append(prompt)
            for name, row in each.items():
                found.expected[name].append(row)
    assert len(found.prompts) == count, f"only {len(found.prompts)} prompts tell the versions apart"
    found.scores = {
        name: _scores(model, inside, found.prompts[0], found.expected[""][0]) for name, inside in names.items()
    }
    found.records = {name: _record(model, found, name, names[name]) for name in adapters}
    return found


def without_effect(models: ServedModels, folder: Path) -> Path:
    """Write the first adapter with B = 0."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(next(iter(models.adapters.values())), folder)
    weights = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    save_file(
        {name: tensor * 0 if ".lora_B." in name else tensor for name, tensor in weights.items()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    return folder


def _record(model: Any, models: ServedModels, name: str, inside: str) -> ServedProbe:
    def continued(at: int, by: str) -> Continuation:
        prompt, tokens = models.prompts[at], models.expected[by][at][:CONTINUATION_TOKENS]
        base, adapter = (_scores(model, under, prompt, tokens) for under in ("", inside))
        return Continuation(tokens=tokens, base=base, adapter=adapter)

    prompts = [
        ServedPrompt(tokens=prompt, by_base=continued(at, ""), by_adapter=continued(at, name))
        for at, prompt in enumerate(models.prompts[:PROMPTS])
    ]
    return ServedProbe(prompts_digest="0" * 64, prompts=prompts)


def _save_base(folder: Path) -> Path:
    """Write a Llama of 2 layers, hidden size 64, tied embeddings and two heads of 32: vLLM has no smaller ones on a CPU."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    vocabulary = tiny.save_tokenizer(folder)
    torch.manual_seed(3)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=vocabulary,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        **sizes,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def _sharpened(base: Path) -> Path:
    """Make its probabilities unequal, which those of untrained weights hardly are, and those of all but ASCII small: half of a
    character is shown otherwise by each engine.
    """
    from transformers import AutoTokenizer

    model, tokenizer = _load(base), AutoTokenizer.from_pretrained(base)
    model.model.norm.weight.data *= 12
    for token in range(len(tokenizer)):
        text = tokenizer.decode([token])
        if token in tokenizer.all_special_ids or not (text.isascii() and text.isprintable()):
            # Embeddings and head are the same matrix.
            model.get_input_embeddings().weight.data[token] = 0
    model.save_pretrained(base)
    return base


def _load(base: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def _logits(model: Any, inside: str, rows: list[list[int]]) -> Any:
    """Return (batch, seq, vocab)."""
    import torch

    with torch.no_grad(), _under(model, inside):
        return model(input_ids=torch.tensor(rows)).logits.float()


def _under(model: Any, inside: str) -> AbstractContextManager[None]:
    """Return the context in which a model is an adapter's; without one, the base's."""
    if not inside:
        disabled: AbstractContextManager[None] = model.disable_adapter()
        return disabled
    model.set_adapter(inside)
    return nullcontext()


def _greedy(model: Any, inside: str, prompts: list[list[int]], gap: float) -> dict[tuple[int, ...], list[int]]:
    """Return the likeliest continuations of prompts, all of one length; without those that end, or have two tokens nearly as likely."""
    ends = model.config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    import torch

    written: list[list[int]] = [[] for _ in prompts]
    clear = [True] * len(prompts)
    given, past = torch.tensor(prompts), None
    with torch.no_grad(), _under(model, inside):
        for _ in range(TOKENS):
            made = model(input_ids=given, past_key_values=past, use_cache=True)
            past = made.past_key_values
            values, tokens = made.logits[:, -1].float().topk(2)
            for at, row in enumerate(written):
                row.append(int(tokens[at, 0]))
                clear[at] &= float(values[at, 0] - values[at, 1]) >= gap and row[-1] not in ends
            if not any(clear):
                break
            given = tokens[:, :1]
    return {tuple(prompt): row for prompt, row, is_clear in zip(prompts, written, clear, strict=True) if is_clear}


def _scores(model: Any, inside: str, prompt: list[int], continuation: list[int]) -> list[float]:
    rows = _logits(model, inside, [[*prompt, *continuation]])[0].log_softmax(-1)
    return [float(rows[len(prompt) - 1 + at, token]) for at, token in enumerate(continuation)]

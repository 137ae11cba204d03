"""A base with adapters over it, and what PEFT alone answers under each: by these an engine's answers are told apart."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdk.schemas.serving import CONTINUATION_TOKENS, PROMPTS, Continuation, ServedProbe, ServedPrompt
from support import tiny
from support.served import save_adapter

#: The least distance of the two greatest logits at each token, so that rounding decides nothing, and how many tokens there are.
GAP, TOKENS = 0.05, 24
#: The most texts that rounding may make of one answer, and prompts that are tried in one batch.
_MOST_ROUNDED, _AT_ONCE = 32, 100
_MODULES = ["q_proj", "v_proj", "o_proj", "down_proj"]


@dataclass
class ServedModels:
    """The base's folder, adapters by version, and the greedy continuations of some prompts in float32."""

    base: Path
    adapters: dict[str, Path]
    prompts: list[list[int]]
    #: Version, or "" for the base → for each prompt its continuation.
    expected: dict[str, list[list[int]]] = field(default_factory=dict)
    #: Likewise all continuations that rounding may make of it: where that decides nothing, the one.
    accepted: dict[str, list[list[list[int]]]] = field(default_factory=dict)
    #: Likewise the log-probabilities, in nats, of the first prompt's continuation by the base.
    scores: dict[str, list[float]] = field(default_factory=dict)
    #: What engines are held against, by version.
    records: dict[str, ServedProbe] = field(default_factory=dict)

    def texts(self, decode: Callable[[list[int]], str]) -> dict[tuple[int, str], str]:
        """Return whose each text is, by a prompt's place and the text: a version's, or the base's, which is ""."""
        found = [
            ((at, decode(row)), name)
            for name, each in self.accepted.items()
            for at, rows in enumerate(each)
            for row in rows
        ]
        texts = dict(found)
        assert all(texts[key] == name for key, name in found), "a text is the answer of two versions"
        return texts


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
    base: Path,
    adapters: dict[str, Path],
    candidates: list[list[int]],
    count: int,
    *,
    gap: float = GAP,
    decided: Collection[str] | None = None,
) -> ServedModels:
    """Return the first prompts for which the two greatest logits differ by GAP at each token, under the base and each adapter.

    `decided`: under the base and these alone. Rounding may decide tokens of the others; what it can make of their answers are few
    texts, of which none is another version's.
    """
    from peft import PeftModel

    model = PeftModel.from_pretrained(_load(base), next(iter(adapters.values())), adapter_name="v0")
    names = {"": ""}
    for at, (name, folder) in enumerate(adapters.items()):
        names[name] = f"v{at}"
        if at:
            model.load_adapter(folder, f"v{at}")
    model.eval()
    found = ServedModels(base, adapters, [], {name: [] for name in names}, {name: [] for name in names})
    # The base, which is the surest of itself, comes last: each leaves fewer prompts to the next.
    certain = [name for name in reversed(names) if decided is None or not name or name in decided]
    for first in range(0, len(candidates), _AT_ONCE):
        left, answers = candidates[first : first + _AT_ONCE], dict[str, dict[tuple[int, ...], list[int]]]()
        for name in certain:
            answers[name] = _greedy(model, names[name], left, gap)
            left = [prompt for prompt in left if tuple(prompt) in answers[name]]
        for prompt in left:
            each = {name: [answers[name][tuple(prompt)]] for name in certain}
            for name in [name for name in names if name not in answers]:
                if not _are_apart(each.values()):
                    break
                each[name] = _within_rounding(model, names[name], prompt, gap)
            if all(rows and all(rows) for rows in each.values()) and _are_apart(each.values()):
                found.prompts.append(prompt)
                for name, rows in each.items():
                    found.expected[name].append(rows[0])
                    found.accepted[name].append(rows)
            if len(found.prompts) == count:
                break
        if len(found.prompts) == count:
            break
    assert len(found.prompts) == count, f"only {len(found.prompts)} prompts tell the versions apart"
    found.scores = {
        name: _scores(model, inside, found.prompts[0], found.expected[""][0]) for name, inside in names.items()
    }
    found.records = {name: _record(model, found, name, names[name]) for name in adapters}
    return found


def without_effect(models: ServedModels, folder: Path) -> Path:
    """Write the first adapter with B = 0."""
    from safetensors.numpy import load_file, save_file

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
    import torch

    if not prompts:
        return {}
    ends = _ends(model)
    rows = [list[int]() for _ in prompts]
    of = list(range(len(prompts)))
    given, past = torch.tensor(prompts), None
    with torch.no_grad(), _under(model, inside):
        for _ in range(TOKENS):
            made = model(input_ids=given, past_key_values=past, use_cache=True, logits_to_keep=1)
            past = made.past_key_values
            values, tokens = made.logits[:, -1].float().topk(2)
            clear = [
                at
                for at in range(len(of))
                if float(values[at, 0] - values[at, 1]) >= gap and int(tokens[at, 0]) not in ends
            ]
            of, rows = [of[at] for at in clear], [[*rows[at], int(tokens[at, 0])] for at in clear]
            if not of:
                break
            past.batch_select_indices(torch.tensor(clear))
            given = tokens[clear, :1]
    return {tuple(prompts[at]): row for at, row in zip(of, rows, strict=True)}


def _within_rounding(model: Any, inside: str, prompt: list[int], gap: float) -> list[list[int]]:
    """Return every continuation each of whose tokens is, after those before it, as likely as the likeliest but for a rounding, the
    greedy one first; none, if they are many.
    """
    import torch

    ends = _ends(model)
    rows: list[list[int]] = [[]]
    ended: list[list[int]] = []
    given, past = torch.tensor([prompt]), None
    with torch.no_grad(), _under(model, inside):
        for _ in range(TOKENS):
            made = model(input_ids=given, past_key_values=past, use_cache=True, logits_to_keep=1)
            past, logits = made.past_key_values, made.logits[:, -1].float()
            near = (logits > logits.max(-1, keepdim=True).values - gap).nonzero().tolist()
            near.sort(key=lambda each: (each[0], -float(logits[each[0], each[1]])))
            ended += [rows[at] for at, token in near if token in ends]
            near = [(at, token) for at, token in near if token not in ends]
            rows = [[*rows[at], token] for at, token in near]
            if not rows or len(rows) + len(ended) > _MOST_ROUNDED:
                break
            past.batch_select_indices(torch.tensor([at for at, _ in near]))
            given = torch.tensor([[token] for _, token in near])
    return [] if len(rows) + len(ended) > _MOST_ROUNDED else [*rows, *ended]


def _are_apart(each: Collection[list[list[int]]]) -> bool:
    """Whether no continuation is in two of the lists."""
    all_rows = [tuple(row) for rows in each for row in rows]
    return len(set(all_rows)) == len(all_rows)


def _ends(model: Any) -> set[int]:
    """Return the tokens at which an answer ends."""
    ends = model.config.eos_token_id
    return set(ends if isinstance(ends, list) else [ends])


def _scores(model: Any, inside: str, prompt: list[int], continuation: list[int]) -> list[float]:
    rows = _logits(model, inside, [[*prompt, *continuation]])[0].log_softmax(-1)
    return [float(rows[len(prompt) - 1 + at, token]) for at, token in enumerate(continuation)]

"""Adapters that matter over tiny bases, what plain PEFT answers with them, and who listens to a decode loop."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sdk.formats.peft_config import examine

#: How far the two likeliest tokens are apart at each step of a text that is compared: roundings can't exchange them.
MARGIN = 1e-3


def save_adapter(
    base: Path,
    folder: Path,
    *,
    seed: int,
    scale: float = 0.3,
    grown: int = 0,
    save_embeddings: bool = False,
    **settings: Any,
) -> Path:
    """Save a random LoRA over a base with plain PEFT, everything that it trains changed; return its folder.

    The vocabulary is `grown` by so many tokens. With `save_embeddings` the embeddings, changed too, are in the file.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(base)
        if grown:
            model.resize_token_embeddings(model.config.vocab_size + grown, mean_resizing=False)
        given = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **settings}
        with torch.random.fork_rng(devices=[]):
            # PEFT begins with random matrices.
            torch.manual_seed(seed)
            adapted = get_peft_model(model, LoraConfig(**given))
        generator = torch.Generator().manual_seed(seed)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data += torch.randn(parameter.shape, generator=generator) * scale
        if save_embeddings:
            for module in (model.get_input_embeddings(), model.get_output_embeddings()):
                weight = getattr(module, "base_layer", module).weight
                weight.data += torch.randn(weight.shape, generator=generator) * scale
        adapted.save_pretrained(
            folder, save_embedding_layers=save_embeddings or bool(grown and not settings.get("trainable_token_indices"))
        )
    # As a push cleans it.
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    unusable = {each.path[0] for each in examine(config)}
    path.write_text(json.dumps({key: value for key, value in config.items() if key not in unusable}))
    return folder


def rows_of(base: Path) -> int:
    """Return for how many tokens a base has an embedding."""
    return int(json.loads((base / "config.json").read_text())["vocab_size"])


@cache
def plain(base: Path, adapter: Path | None, rows: int | None = None) -> Any:
    """Return the model that transformers and PEFT make of a base and an adapter, alone; `rows`: of a longer vocabulary."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(base)
        if rows is not None:
            model.resize_token_embeddings(rows, mean_resizing=False)
        return (model if adapter is None else PeftModel.from_pretrained(model, adapter)).eval()


def whole(base: Path) -> Any:
    """Return the model of a base that reads more than texts."""
    from transformers import AutoModelForImageTextToText

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoModelForImageTextToText.from_pretrained(base).eval()


def alone(model: Any, prompt: Sequence[int], tokens: int) -> list[int]:
    """Return what a plain model generates greedily after a prompt, all `tokens` of it; the text has no near ties."""
    import torch

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = model.generate(
            input_ids=torch.tensor([list(prompt)]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            do_sample=False,
            max_new_tokens=tokens,
            eos_token_id=None,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    for logits in made.logits:
        first, second = logits[0].topk(2).values.tolist()
        assert first - second > MARGIN, "another prompt is needed: roundings could exchange two tokens of this text"
    return made.sequences[0, len(prompt) :].tolist()


def written_after(base: Path, adapter: Path | None, text: str, tokens: int) -> str:
    """Return what plain PEFT writes greedily after a text, to the end of a text or of a turn."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = tokenizer(text, return_tensors="pt")
    stops = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|end|>")]
    how = {"max_new_tokens": tokens, "do_sample": False, "eos_token_id": stops, "pad_token_id": tokenizer.pad_token_id}
    written = plain(base, adapter).generate(**ids, **how)[0, ids["input_ids"].shape[1] :]
    return str(tokenizer.decode(written, skip_special_tokens=True))


def logits(base: Path, adapter: Path | None, tokens: Sequence[int]) -> list[list[float]]:
    """Return what plain PEFT computes after each of some tokens, (seq, vocab)."""
    import torch

    with torch.no_grad():
        made = plain(base, adapter)(input_ids=torch.tensor([list(tokens)])).logits[0].tolist()
    return list(made)


class Listener:
    """Collects the pieces of an answer."""

    def __init__(self, then: Callable[[int], None] = lambda count: None) -> None:
        """`then` is called in the loop's thread after each token, with how many there are."""
        from workers.serving.decoding.requests import Ended

        self._ended_type = Ended
        self.tokens: list[Any] = []
        self.ended: Any = None
        self._then, self._done = then, threading.Event()

    def __call__(self, piece: Any) -> None:
        assert self.ended is None, "something came after the end"
        if isinstance(piece, self._ended_type):
            self.ended = piece
            self._done.set()
        else:
            self.tokens.append(piece)
            self._then(len(self.tokens))

    def wait(self) -> list[int]:
        """Return the tokens once the answer ended."""
        assert self._done.wait(60), "the answer doesn't end"
        return [token.id for token in self.tokens]

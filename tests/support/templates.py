"""The chat templates that TRL ships, each on a tiny tokenizer that knows its control tokens, and conversations for them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

#: What begins and ends a text, by the family of a template; the end of a turn is often another token.
_ENDS = {
    "cohere": ("<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"),
    "deepseek": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    "diffusion_gemma": ("<bos>", "<eos>"),
    "gemma": ("<bos>", "<eos>"),
    "glm": ("<|begin_of_text|>", "<|endoftext|>"),
    "gptoss": ("<|startoftext|>", "<|return|>"),
    "idefics": ("<|begin_of_text|>", "<|end_of_text|>"),
    "lfm": ("<|startoftext|>", "<|im_end|>"),
    "llama": ("<|begin_of_text|>", "<|end_of_text|>"),
    "llava": ("<s>", "</s>"),
    "muse": ("<|begin_of_text|>", "<|end_of_text|>"),
    "nemotron": ("<s>", "<|im_end|>"),
    "phi": ("<s>", "<|endoftext|>"),
    "qwen": ("<|endoftext|>", "<|im_end|>"),
    "smol": ("<|im_start|>", "<|endoftext|>"),
}
#: At what else generation stops, as in the base's generation_config.json.
STOPS = {"gptoss": ["<|call|>"], "gemma4": ["<turn|>", "<|tool_response>"], "glm": ["<|user|>", "<|observation|>"]}
#: Control tokens as templates write them; the second kind are ordinary tokens, if they are tokens at all.
_SPECIAL = re.compile(r"<\|[A-Za-z0-9_]+\|?>|<[a-z_]+\|>|<｜[^｜<>]+｜>|<[a-z]+_of_[a-z]+>|\[gMASK\]|<sop>")
_PLAIN = re.compile(r"</?(?:think|tool_call|tool_response)>")


def folder() -> Path:
    """Where TRL keeps them."""
    import trl

    return Path(trl.__file__).parent / "chat_templates"


def names() -> list[str]:
    """The names of models' templates; the others are TRL's variants of them."""
    return sorted(path.stem for path in folder().glob("*.jinja") if not path.stem.endswith("_training"))


@cache
def _trained() -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["what is the weather in Rome", "it is sunny, and the user asked"] * 4, trainer)
    return str(tokenizer.to_str())


def tokenizer_with(template: str, *, bos: str, eos: str) -> Any:
    """Return a byte-level tokenizer with a template, whose control tokens are tokens."""
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer.from_str(_trained())
    tokenizer.add_special_tokens(sorted({bos, eos, *_SPECIAL.findall(template)} - {*_PLAIN.findall(template)}))
    tokenizer.add_tokens([AddedToken(text, special=False) for text in sorted(set(_PLAIN.findall(template)))])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token=eos)
    fast.chat_template = template
    return fast


def new_tokenizer_of(name: str) -> Any:
    """Return a tokenizer with the template of this name."""
    bos, eos = next(ends for family, ends in _ENDS.items() if name.startswith(family))
    return tokenizer_with((folder() / f"{name}.jinja").read_text(encoding="utf-8"), bos=bos, eos=eos)


@cache
def tokenizer_of(name: str) -> Any:
    """Return the one that all tests share; whoever changes it makes a new one."""
    return new_tokenizer_of(name)


def stop_ids(name: str) -> list[int]:
    """At what generation stops over a base with the template of this name, in addition to the end of text."""
    vocabulary = tokenizer_of(name).get_vocab()
    named = next((stops for family, stops in STOPS.items() if name.startswith(family)), [])
    return [vocabulary[token] for token in named if token in vocabulary]


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Says how the weather is.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Of which city."}},
            "required": ["city"],
        },
    },
}
_CALL = {"type": "function", "id": "call12345", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}


def _user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _assistant(content: str | None, **rest: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **rest}


#: The usual conversations.
SHAPES: dict[str, dict[str, Any]] = {
    "one turn": {"messages": [_user("Is it warm?"), _assistant("Yes, it is.")]},
    "system": {
        "messages": [
            {"role": "system", "content": "Answer in a word."},
            _user("Is it warm?"),
            _assistant(" Yes.\n"),
        ]
    },
    "several turns": {
        "messages": [
            _user("Is it warm?"),
            _assistant("Yes, it is."),
            _user("And dry?"),
            _assistant("No, it rains."),
        ]
    },
    "tools": {
        "messages": [
            _user("How is Rome?"),
            _assistant(None, tool_calls=[_CALL]),
            {"role": "tool", "tool_call_id": "call12345", "name": "get_weather", "content": "sunny, 21 degrees"},
            _assistant("It is sunny."),
        ],
        "tools": [WEATHER],
    },
    "reasoning": {
        "messages": [
            _user("Is it warm?"),
            _assistant("Yes, it is.", reasoning_content="They ask\nfor today."),
            _user("And dry?"),
            _assistant("No, it rains.", reasoning_content="I look out."),
        ]
    },
}

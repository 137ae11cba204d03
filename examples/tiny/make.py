"""A base and rows to play with, made in seconds and without a network: a random Llama of two layers, with a tokenizer.

    python examples/tiny/make.py DIR

writes `DIR/tiny-llama`, `DIR/train.jsonl` and `DIR/heldout.jsonl`. The base has learned nothing, so what an adapter over
it says is no sense, but every command works on it as on a large one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

NAME = "tiny-llama"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL_TOKENS = ["<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>"]
PROMPT = "Review this line of Python.\n\n{line}\n\nComment: "
#: A line of code, and what a reviewer says of it.
REVIEWS = [
    ("if {name} == None:", "compare with None by `is`"),
    ("if {name} == True:", "write `if {name}:`"),
    ("if len({name}) == 0:", "write `if not {name}:`"),
    ("{name} = {name} + 1", "write `{name} += 1`"),
    ("for i in range(len({name})):", "loop over {name} itself"),
    ("def load({name}=[]):", "a default is made once; take None"),
    ("{name} = open(path).read()", "close the file: use `with`"),
    ("assert({name}, 'missing')", "a tuple is always true; drop the brackets"),
]
NAMES = ["rows", "user", "total", "items", "path", "value", "score"]
#: The name whose lines are held out.
HELD_OUT = "score"


def make(folder: Path) -> None:
    """Write the base and both files of rows into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {
        name: [
            {"prompt": PROMPT.format(line=line.format(name=name)), "completion": review.format(name=name)}
            for line, review in REVIEWS
        ]
        for name in NAMES
    }
    _write_rows(folder / "heldout.jsonl", rows[HELD_OUT])
    _write_rows(folder / "train.jsonl", [row for name in NAMES if name != HELD_OUT for row in rows[name]])
    texts = [row["prompt"] + row["completion"] for name in NAMES for row in rows[name]]
    save_llama(folder / NAME, save_tokenizer(folder / NAME, texts))


def _write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def save_tokenizer(folder: Path, texts: list[str], *, vocabulary: int = 512) -> int:
    """Write a byte-level tokenizer with a chat template, trained on `texts`; return the size of its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return len(fast)


def save_llama(folder: Path, vocabulary: int, *, seed: int = 1, positions: int = 512) -> None:
    """Write a random Llama of 2 layers, hidden size 64 and tied embeddings in float32, for texts of `positions` tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
        # Larger than the default, so that predictions are not all alike.
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python examples/tiny/make.py DIR")
    make(Path(sys.argv[1]))
    print(f"{sys.argv[1]} holds {NAME}, train.jsonl and heldout.jsonl")

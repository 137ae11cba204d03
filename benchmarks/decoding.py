"""The decode loop beside plain PEFT on SmolLM2: CPU seconds per token and to the first one, and texts that must be equal.

    OMP_NUM_THREADS=1 python benchmarks/decoding.py BASE ADAPTER ADAPTER ADAPTER

`generate` with PEFT's `adapter_names` is the peer of a batch, and one `generate` after the other that of single requests.
CPU seconds of this process, which others on the machine shift little; the least of each row's rounds.
"""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from workers.serving.decoding.loop import DecodeLoop
from workers.serving.decoding.requests import DecodeQuestion, Ended, Token

TOKENS, ROUNDS = 16, 2
#: How far apart the two likeliest tokens are as long as texts are compared.
MARGIN = 1e-3
TEXTS = (
    "def add(a, b):\n",
    "Write a docstring for a function that reads a file line by line and returns the longest line.",
)


class _Answer:
    """The tokens of an answer, and when the first came, in CPU seconds."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.first_s = 0.0
        self.done = threading.Event()

    def __call__(self, piece: Token | Ended) -> None:
        if isinstance(piece, Ended):
            self.done.set()
            return
        if not self.ids:
            self.first_s = time.process_time()
        self.ids.append(piece.id)


def answers(
    loop: DecodeLoop, asked: Sequence[tuple[str | None, tuple[int, ...]]]
) -> tuple[list[list[int]], float, float]:
    """Return the texts of questions asked at once, the CPU seconds to the first token of the first, and in all."""
    collected, began = [_Answer() for _ in asked], time.process_time()
    for (name, prompt), answer in zip(asked, collected, strict=True):
        loop.submit(DecodeQuestion(prompt, name, TOKENS), answer)
    for answer in collected:
        answer.done.wait()
    return [answer.ids for answer in collected], collected[0].first_s - began, time.process_time() - began


def generated(model: Any, prompts: Sequence[tuple[int, ...]], **how: Any) -> tuple[list[list[int]], list[int], float]:
    """Return the texts that plain PEFT generates for prompts in a batch, how many tokens of each have no near tie, and CPU seconds."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    began = time.process_time()
    with torch.no_grad():
        made = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=TOKENS,
            eos_token_id=None,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
            **how,
        )
    took_s = time.process_time() - began
    clear = []
    for row in range(len(prompts)):
        gaps = [float(each[row].topk(2).values.diff().abs()) for each in made.logits]
        clear.append(next((place for place, gap in enumerate(gaps) if gap < MARGIN), TOKENS))
    return made.sequences[:, width:].tolist(), clear, took_s


def least(measure: Callable[[], float]) -> float:
    """Return the least of a figure's rounds."""
    return min(measure() for _ in range(ROUNDS))


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    base, *folders = map(Path, sys.argv[1:])
    tokenizer = AutoTokenizer.from_pretrained(base)
    prompts = [tuple(tokenizer(text)["input_ids"]) for text in TEXTS]
    names = [None, *(f"v{number}" for number in range(1, len(folders) + 1))]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    bare, _, _ = generated(model, prompts[:1])
    peft: Any = PeftModel.from_pretrained(model, folders[0], adapter_name="v1")
    for number, folder in enumerate(folders[1:], 2):
        peft.load_adapter(folder, adapter_name=f"v{number}")
    peft.eval()

    loop = DecodeLoop(base, dtype="float32")
    for name, folder in zip(names[1:], folders, strict=True):
        began = time.process_time()
        placement = loop.load(str(name), folder)
        print(f"load {name}: {placement}, {time.process_time() - began:.2f} CPU s", flush=True)

    # Each text of each version, all at once in the loop, and each alone by PEFT.
    asked = [(name, prompt) for name in names for prompt in prompts]
    texts, _, together_s = answers(loop, asked)
    compared = different = 0
    alone_s = 0.0
    for (name, prompt), text in zip(asked, texts, strict=True):
        if name is None:
            with peft.disable_adapter():
                (truth,), (clear,), took_s = generated(peft, [prompt])
        else:
            peft.set_adapter(name)
            (truth,), (clear,), took_s = generated(peft, [prompt])
        alone_s += took_s
        compared += clear
        different += text[:clear] != truth[:clear]
    print(f"texts: {len(asked)}, {compared} tokens compared, {different} differ", flush=True)
    assert texts[0] == bare[0] or not different
    labels = ["__base__" if name is None else name for name, _ in asked]
    _, _, batch_s = generated(peft, [prompt for _, prompt in asked], adapter_names=labels)
    count = len(asked) * TOKENS
    print(
        f"{len(asked)} at once: loop {1000 * together_s / count:.1f}, PEFT's adapter_names {1000 * batch_s / count:.1f},"
    )
    print(f"  PEFT one after the other {1000 * alone_s / count:.1f} CPU ms per token", flush=True)
    question = ("v1", prompts[1])
    peft.set_adapter("v1")
    single_s = least(lambda: answers(loop, [question])[2])
    peer_s = least(lambda: generated(peft, [question[1]])[2])
    print(f"one: loop {1000 * single_s / TOKENS:.1f}, PEFT {1000 * peer_s / TOKENS:.1f} CPU ms per token")
    first_s = least(lambda: answers(loop, [question])[1])
    print(f"first token of {len(prompts[1])} tokens of prompt: {1000 * first_s:.0f} CPU ms")
    loop.close()
    raise SystemExit(different > 0)


if __name__ == "__main__":
    main()

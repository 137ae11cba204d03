"""The script that people write for a QLoRA training when they have no tool for it: the peer of `training.py`.

    python benchmarks/common_script.py BASE TRAIN.jsonl OUT [STEPS] [LR] [ACCUMULATION] [SCHEDULE] [DROPOUT]

4-bit base, `prepare_model_for_kbit_training`, `get_peft_model`, `transformers.Trainer` with batches of 4 × 4 rows, each row
padded to the longest row of the dataset. A cosine schedule has one step of warm-up, at a rate of 0; a constant one has none. It uses nothing of this project but `peaks.py`. It prints one line of JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from peaks import Peak
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)


def rows(path: str, tokenizer: Any) -> list[dict[str, list[int]]]:
    """Tokenise {prompt, completion} rows, the loss on the completion, all padded to the longest."""
    found = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        prompt = tokenizer(row["prompt"])["input_ids"]
        completion = [*tokenizer(row["completion"])["input_ids"], tokenizer.eos_token_id]
        found.append((prompt, completion))
    longest = max(len(prompt) + len(completion) for prompt, completion in found)
    return [
        {
            "input_ids": prompt + completion + [tokenizer.pad_token_id] * (longest - len(prompt) - len(completion)),
            "attention_mask": [1] * (len(prompt) + len(completion)) + [0] * (longest - len(prompt) - len(completion)),
            "labels": [-100] * len(prompt) + completion + [-100] * (longest - len(prompt) - len(completion)),
        }
        for prompt, completion in found
    ]


def main(
    base: str,
    train: str,
    out: str,
    steps: int,
    lr: float,
    accumulation: int,
    schedule: str = "cosine",
    dropout: float = 0.05,
) -> None:
    """Train and save an adapter; print wall time, useful tokens and peak memory."""
    started = time.perf_counter()
    watched = Peak()
    watched.__enter__()
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(base)
    dataset = rows(train, tokenizer)
    model = AutoModelForCausalLM.from_pretrained(
        base,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
    )
    model = prepare_model_for_kbit_training(model, gradient_checkpointing_kwargs={"use_reentrant": False})
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    config = LoraConfig(r=8, lora_alpha=16, lora_dropout=dropout, target_modules=targets, task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=scratch,
                per_device_train_batch_size=4,
                gradient_accumulation_steps=accumulation,
                max_steps=steps,
                learning_rate=lr,
                lr_scheduler_type=schedule,
                warmup_steps=int(schedule != "constant"),
                seed=0,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            train_dataset=dataset,
            data_collator=default_data_collator,
        )
        trainer.remove_callback(PrinterCallback)
        begun, computed = time.perf_counter(), time.process_time()
        trainer.train()
        train_s, train_cpu_s = time.perf_counter() - begun, time.process_time() - computed
    watched.__exit__()
    model.save_pretrained(out)
    useful = sum(sum(row["attention_mask"]) for row in dataset) / len(dataset)
    print(
        json.dumps(
            {
                "train_s": train_s,
                "train_cpu_s": train_cpu_s,
                "wall_s": time.perf_counter() - started,
                "tokens_per_s": useful * 4 * accumulation * steps / train_s,
                "peak_memory_bytes": torch.cuda.max_memory_allocated()
                if torch.cuda.is_available()
                else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "peak_bytes": watched.bytes_above,
            }
        )
    )


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if len(arguments) < 3:
        sys.exit(__doc__)
    base, train, out, *rest = arguments
    steps, lr, accumulation, schedule, dropout = (*rest, *("20", "5e-4", "4", "cosine", "0.05")[len(rest) :])
    main(base, train, out, int(steps), float(lr), int(accumulation), schedule, float(dropout))

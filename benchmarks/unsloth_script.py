"""A QLoRA training as Unsloth's notebooks write it: a peer of `memory_curve.py`, run by an interpreter that has Unsloth.

    PYTHON benchmarks/unsloth_script.py BASE TRAIN.jsonl OUT STEPS LR SCHEDULE

It uses nothing of this project but `peaks.py`. It prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time

from unsloth import FastLanguageModel  # isort: skip - it patches what comes after it

from datasets import load_dataset
from peaks import Peak
from transformers import PrinterCallback, set_seed
from trl import SFTConfig, SFTTrainer


def main(base: str, train: str, out: str, steps: int, lr: float, schedule: str) -> None:
    """Train and save an adapter; print seconds in the loop and the peak above the imports."""
    started = time.perf_counter()
    set_seed(0)
    with Peak() as peak, tempfile.TemporaryDirectory() as scratch:
        model, tokenizer = FastLanguageModel.from_pretrained(base, max_seq_length=1024, load_in_4bit=True)
        model = FastLanguageModel.get_peft_model(
            model,
            r=8,
            lora_alpha=16,
            lora_dropout=0,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
            use_gradient_checkpointing="unsloth",
            random_state=0,
        )
        trainer = SFTTrainer(
            model=model,
            processing_class=tokenizer,
            train_dataset=load_dataset("json", data_files=train, split="train"),
            args=SFTConfig(
                output_dir=scratch,
                per_device_train_batch_size=4,
                gradient_accumulation_steps=2,
                max_steps=steps,
                max_length=1024,
                learning_rate=lr,
                lr_scheduler_type=schedule,
                warmup_steps=int(schedule != "constant"),
                optim="adamw_torch",
                seed=0,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
                dataset_num_proc=1,
            ),
        )
        trainer.remove_callback(PrinterCallback)
        begun, computed = time.perf_counter(), time.process_time()
        trainer.train()
        train_s, train_cpu_s = time.perf_counter() - begun, time.process_time() - computed
    model.save_pretrained(out)
    wall_s = time.perf_counter() - started
    print(
        json.dumps({"train_s": train_s, "train_cpu_s": train_cpu_s, "wall_s": wall_s, "peak_bytes": peak.bytes_above})
    )


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]), float(sys.argv[5]), sys.argv[6])

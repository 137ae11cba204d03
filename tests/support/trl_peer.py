"""TRL's trainer as a peer of our loop: the same steps over the same parts, by its order of rows, schedule, clipping and noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from workers.pipelines.data.objective import Batch, Passes
from workers.pipelines.training.loop import AdapterState, Shared
from workers.pipelines.training.optimising import optimizer_of


class TrlPeer:
    """Takes an adapter's steps in place of `loop.run`."""

    def __init__(self, folder: Path, tokenizer: Any) -> None:
        self._folder, self._tokenizer = folder, tokenizer

    def __call__(
        self,
        shared: Shared,
        adapter: AdapterState,
        *,
        rows: int,
        collate: Callable[[Sequence[int]], Batch],
        after_step: Callable[[], None],
    ) -> None:
        spec, schedule = adapter.spec, adapter.schedule
        fresh = {name: parameter.detach().clone() for name, parameter in adapter.parameters.items()}
        optimizer = optimizer_of(adapter.parameters, spec)
        trainer = _Trainer(
            shared,
            adapter,
            after_step,
            model=shared.model,
            args=SFTConfig(
                str(self._folder),
                per_device_train_batch_size=spec.effective_batch,
                max_steps=schedule.total_steps,
                max_length=None,
                learning_rate=spec.lr,
                max_grad_norm=spec.max_grad_norm,
                neftune_noise_alpha=spec.neftune_noise_alpha,
                router_aux_loss_coef=0.0,
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=True,
                seed=spec.seed,
                data_seed=spec.seed,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
                dataset_kwargs={"skip_prepare_dataset": True},
                remove_unused_columns=False,
            ),
            train_dataset=Dataset.from_dict({"row": list(range(rows))}),
            processing_class=self._tokenizer,
            data_collator=lambda batch: collate([each["row"] for each in batch]),
            optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.share)),
        )
        trainer.remove_callback(PrinterCallback)
        # It has rounded those over a quantised base to bfloat16.
        for name, parameter in adapter.parameters.items():
            parameter.data = fresh[name]
        trainer.train()


class _Trainer(SFTTrainer):
    def __init__(self, shared: Shared, adapter: AdapterState, after_step: Callable[[], None], **options: Any) -> None:
        self._shared, self._adapter, self._after_step = shared, adapter, after_step
        super().__init__(**options)

    def _send_telemetry(self) -> None:
        """Tests report to nobody."""

    def get_train_dataloader(self) -> Any:
        loader = super().get_train_dataloader()
        # Of the generator that dropout masks come from, it would draw a seed for helpers that it doesn't have.
        loader.base_dataloader.generator = torch.Generator()
        return loader

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: Any = None) -> Any:
        model.train()
        inputs = self._prepare_inputs(inputs)
        objective, fitting, record = self._shared.objective, self._shared.fitting, self._adapter.record
        loss = torch.zeros(())
        seed = self._adapter.spec.seed + len(record.losses) + 1
        step = objective.of_step(model, inputs, Passes(fitting.parts, fitting.losses, seed))
        for part in fitting.parts(inputs, objective.sequences):
            share = objective.loss(model, part, step, fitting.losses)
            self.accelerator.backward(share)
            loss += share.detach()
        record.losses.append(float(loss))
        record.rates.append(self.lr_scheduler.get_last_lr()[0])
        record.tokens += int(inputs["attention_mask"].sum())
        # What it measured is known, though its optimiser has not stepped yet.
        self._after_step()
        return loss

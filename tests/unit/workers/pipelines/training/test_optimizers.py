"""What optimisers keep, by their one table, and that trainings with each go on from their checkpoints to the same bytes."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.architectures import save_model
from support.families import save_rows
from support.trained import Trained
from support.trainings import Checkpoints, files_of, inputs_of, run_training

from sdk.schemas.optimizers import OPTIMIZERS, TRAINED, Kept, OptimizerName
from sdk.schemas.training import TrainingSpec
from workers.pipelines.data.batches import mean_loss
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.adapters import load_adapter
from workers.pipelines.model.device import choose_device
from workers.pipelines.model.loading import load_base
from workers.pipelines.training.averaging import averaged
from workers.pipelines.training.loop import AdapterState
from workers.pipelines.training.optimising import Schedule, optimizer_of
from workers.pipelines.training.states import restore_optimizer, states_of

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]

#: A matrix, a large one, a vector, and the A of stacked experts.
SHAPES = [(4, 16), (128, 64), (16,), (2, 4, 8)]
FREE = "schedule_free_adamw"


def parameters_of(shapes: list[tuple[int, ...]]) -> dict[str, torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    return {
        f"{number}.lora_{'AB'[number % 2]}": torch.nn.Parameter(torch.randn(shape, generator=generator))
        for number, shape in enumerate(shapes)
    }


def spec_of(optim: OptimizerName, **options: Any) -> TrainingSpec:
    return TrainingSpec(optim=optim, lr=0.01, schedule="constant", weight_decay=0.1, **options)


def take(optimizer: Any, parameters: dict[str, torch.nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in parameters.values():
        # As of a B that begins at zero: what it is in front of has no gradient in the first step.
        parameter.grad = torch.randn(parameter.shape, generator=generator) * (step > 0 or parameter.ndim == 1)
    optimizer.step()


@pytest.mark.parametrize("optim", get_args(OptimizerName))
def test_the_table_has_what_each_optimiser_keeps_and_all_of_it_comes_back(optim: OptimizerName) -> None:
    table, spec = OPTIMIZERS[optim], spec_of(optim, loraplus_lr_ratio=4.0)
    one, other = parameters_of(SHAPES), parameters_of(SHAPES)
    optimizer, resumed = optimizer_of(one, spec), optimizer_of(other, spec)
    for step in range(3):
        take(optimizer, one, step)
    states = states_of(optimizer, table, taken=3, rate=0.01)
    in_order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, parameter in enumerate(in_order):
        kept = {
            name.partition(".")[2]: Kept("U8" if tensor.dtype == torch.uint8 else "F32", tuple(tensor.shape))
            for name, tensor in states.optimizer.items()
            if name.partition(".")[0] == str(number)
        }
        shape = tuple(parameter.shape)
        assert kept == table.stored_state(shape), (number, shape)
        counted = {name: each for name, each in kept.items() if name not in ("step", TRAINED) and "qmap" not in name}
        assert table.state_bytes(shape) == sum(each.size_bytes for each in counted.values())
    own = [set(table.numbers)] * len(optimizer.param_groups) if table.numbers else []
    assert [set(numbers) for numbers in states.standing.numbers] == own
    assert all(numbers.get("k", 3) == 3 for numbers in states.standing.numbers)

    for name, parameter in other.items():
        # For schedule-free AdamW a checkpoint's adapter is the average; here it is nothing of the kind.
        parameter.data = torch.zeros(()) * parameter if table.averages else one[name].detach().clone()
    read = type(states.standing).model_validate_json(states.standing.model_dump_json())
    restore_optimizer(states.optimizer, read.numbers, resumed)
    for step in range(3, 5):
        take(optimizer, one, step)
        take(resumed, other, step)
    assert all(torch.equal(parameter, other[name]) for name, parameter in one.items())


def test_adafactor_keeps_a_sum_of_sides_and_its_steps_have_the_size_of_the_rate() -> None:
    assert OPTIMIZERS["adafactor"].state_bytes((8, 4096)) == 4 * (8 + 4096)
    parameters = {"lora_B": torch.nn.Parameter(torch.zeros(64, 8))}
    take(optimizer_of(parameters, spec_of("adafactor")), parameters, 1)
    # Of a matrix of zeros too: the root of the mean square is the rate.
    assert float(parameters["lora_B"].detach().square().mean().sqrt()) == pytest.approx(0.01, rel=0.05)


def test_lion_steps_by_the_sign_of_its_mean_and_decays() -> None:
    parameters = parameters_of([(128, 64)])
    (name, parameter), mean = *parameters.items(), torch.zeros(128, 64)
    expected, optimizer = parameter.detach().clone(), optimizer_of(parameters, spec_of("lion"))
    for step in range(1, 5):
        take(optimizer, parameters, step)
        gradient = parameters[name].grad
        assert gradient is not None
        expected = expected * (1 - 0.01 * 0.1) - 0.01 * torch.sign(0.9 * mean + 0.1 * gradient)
        mean = 0.99 * mean + 0.01 * gradient
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-6, atol=1e-7)


def test_schedule_free_adamw_publishes_its_average_and_goes_on_as_if_nobody_had_looked() -> None:
    """Against the algorithm as its paper has it (arXiv:2405.15682), in 64 bits: x averages z, and gradients are taken
    between them.
    """
    spec, (target,) = spec_of(FREE), parameters_of([(64, 64)]).values()
    adapters = [
        AdapterState(spec, Schedule("constant", 2, 9), each, optimizer_of(each, spec), unreached=[])
        for each in ({"a": torch.nn.Parameter(torch.zeros(64, 64))} for _ in range(2))
    ]
    x = z = torch.zeros(64, 64, dtype=torch.float64)
    second, weights = torch.zeros_like(x), 0.0
    for step in range(9):
        rate = 0.01 * adapters[0].schedule.share(step)
        for adapter in adapters:
            parameter = adapter.parameters["a"]
            for group in adapter.optimizer.param_groups:
                group["lr"] = rate
            parameter.grad = (parameter - target).detach()
            adapter.optimizer.step()
        y = 0.1 * z + 0.9 * x
        gradient = y - target.double()
        second = 0.999 * second + 0.001 * gradient**2
        z = z - rate * (gradient / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8) + 0.1 * y)
        weights += rate**2
        x = x + rate**2 / weights * (z - x)
        trained = adapters[0].parameters["a"].detach().clone()
        with averaged(adapters[0]):
            torch.testing.assert_close(adapters[0].parameters["a"].detach().double(), x.detach(), rtol=1e-5, atol=1e-6)
            assert step == 0 or not torch.equal(adapters[0].parameters["a"], trained)
        assert torch.equal(adapters[0].parameters["a"], trained)
        assert torch.equal(adapters[1].parameters["a"], trained)


STEADY: dict[str, Any] = {
    "method": "lora", "rank": 4, "lr": 0.01, "batch_size": 3, "grad_accum": 1, "dropout": 0.1, "warmup_ratio": 0.4,
    "max_steps": 5, "modules_to_save": "model.norm", "loraplus_lr_ratio": 4.0, "weight_decay": 0.1, "packing": "off",
}  # fmt: skip


class Place:
    """A tiny base, rows, and trainings over them with a checkpoint after each step."""

    def __init__(self, folder: Path) -> None:
        self.base = save_model(folder / "base", "llama")
        self.rows = save_rows(folder / "rows.jsonl")
        self.folder = folder

    def train(self, out: Path, **options: Any) -> Trained:
        kept = {name: options.pop(name) for name in ("resume",) if name in options}
        writing = Checkpoints(out.with_name(f"{out.name}-kept"), every_steps=1, **kept)
        return run_training(self.base, self.rows, out, checkpoints=writing, **{**STEADY, **options})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("optimizers"))


@pytest.mark.parametrize(
    "options",
    [
        {"optim": "adamw", "schedule": "inverse_sqrt", "lr_floor": 0.1},
        {"optim": "adafactor", "schedule": "wsd", "decay_share": 0.5, "lr_floor": 0.2},
        {"optim": "lion", "schedule": "cosine_restarts", "cycles": 2},
        {"optim": FREE, "schedule": "constant"},
    ],
    ids=lambda options: f"{options['optim']}-{options['schedule']}",
)
def test_a_training_that_goes_on_from_its_first_step_the_warm_up_or_the_end_has_the_same_bytes(
    place: Place, tmp_path: Path, options: dict[str, Any]
) -> None:
    report = place.train(tmp_path / "whole", **options)
    assert report.training["warmup_steps"] == 2
    assert report.metrics["loss"] < report.losses[0]
    assert {**options, "optim": "adamw"}.items() <= {**report.training, "optim": "adamw"}.items()
    assert report.training["optimizer"] == report.training.get("optim", "adamw") == options["optim"]
    assert ("adam_beta1" in report.training) == ("adam" in options["optim"])
    assert {"lion_pytorch", "schedulefree"} & report.libraries.keys() == {
        *(OPTIMIZERS[options["optim"]].extra or ("",))[1:]
    }
    whole = files_of(tmp_path / "whole")
    for step in (1, 2, 5):
        again = place.train(tmp_path / f"from {step}", resume=tmp_path / "whole-kept" / f"step-{step:08d}", **options)
        assert files_of(tmp_path / f"from {step}") == whole, step
        assert (again.losses, again.rates) == (report.losses, report.rates)


def test_held_out_rows_are_scored_with_the_averages_that_a_checkpoint_has_too(place: Place, tmp_path: Path) -> None:
    given: dict[str, Any] = {"optim": FREE, "schedule": "constant", "warmup_ratio": 0.0, "dropout": 0.0}
    longer = place.train(tmp_path / "longer", eval_data=place.rows, **given)
    place.train(tmp_path / "shorter", **given, max_steps=2)
    kept = load_file(tmp_path / "longer-kept" / "step-00000002" / "adapter_model.safetensors")
    published = load_file(tmp_path / "shorter" / "adapter_model.safetensors")
    assert all(torch.equal(tensor, kept[name]) for name, tensor in published.items())

    given = {name: value for name, value in {**STEADY, **given}.items() if name in TrainingSpec.model_fields}
    rows = inputs_of(place.base, place.rows, spec=TrainingSpec(**given))
    device = choose_device()
    model = load_adapter(load_base(place.base, device, quantization=None).model, tmp_path / "longer")
    *_, loss = mean_loss(model, rows.rows.examples, rows.tokenizer.pad_token_id, 6, device.torch_device)
    assert longer.metrics["eval_loss"] == pytest.approx(loss, rel=1e-5)
    trained = load_file(tmp_path / "longer-kept" / "step-00000005" / "optimizer.safetensors")
    largest = max(float(tensor.abs().max()) for name, tensor in trained.items() if name.endswith(TRAINED))
    assert largest > max(float(tensor.abs().max()) for name, tensor in published.items())


STOPPED: dict[str, Any] = {"optim": FREE, "schedule": "constant", "max_steps": 2}


@pytest.fixture(scope="module")
def stopped(place: Place) -> Path:
    place.train(place.folder / "stopped", **STOPPED)
    return place.folder / "stopped-kept" / "step-00000002"


def _changed(folder: Path, change: Callable[[list[dict[str, float]], dict[str, Any]], Any]) -> None:
    progress = json.loads((folder / "progress.json").read_text())
    tensors = load_file(folder / "optimizer.safetensors")
    change(progress["numbers"], tensors)
    (folder / "progress.json").write_text(json.dumps(progress))
    save_file(tensors, folder / "optimizer.safetensors")


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (lambda numbers, _: numbers.clear(), "progress.json can't be read back .the optimiser has other numbers"),
        (lambda numbers, _: numbers[0].pop("lr_max"), "the optimiser has other numbers"),
        (lambda numbers, _: numbers[0].update(k=3), "the optimiser is at another step"),
        (lambda numbers, _: numbers[0].update(weight_sum=math.inf), "progress.json can't be read back"),
        (lambda numbers, _: numbers.pop(), "optimizer.safetensors is of another optimiser .it has 2 groups, not 3"),
        (lambda _, tensors: tensors.pop("0.z"), "0.z is missing"),
        (lambda _, tensors: tensors.pop(f"1.{TRAINED}"), "1.trained is missing"),
        (lambda _, tensors: tensors.update({"0.step": torch.tensor(1.0)}), "0.step is not part of it"),
    ],
)
def test_a_checkpoint_without_the_numbers_of_its_optimiser_is_refused(
    place: Place, stopped: Path, tmp_path: Path, change: Callable[..., Any], refusal: str
) -> None:
    folder = Path(shutil.copytree(stopped, tmp_path / stopped.name))
    _changed(folder, change)
    with pytest.raises(PipelineError, match=f"The checkpoint is broken: .*{refusal}"):
        place.train(tmp_path / "resumed", resume=folder, **STOPPED)


@pytest.mark.parametrize(
    ("optim", "library", "extra"), [(FREE, "schedulefree", "schedule-free"), ("lion", "lion_pytorch", "lion")]
)
def test_an_optimiser_whose_library_is_missing_is_refused_with_the_name_of_the_extra(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optim: str, library: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        PipelineError, match=rf"needs the library {library}, .* install adapterctl\[{extra}\] on"
    ) as caught:
        place.train(tmp_path / "none", optim=optim, schedule="constant")
    assert caught.value.reason == "spec"

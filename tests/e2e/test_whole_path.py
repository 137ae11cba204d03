"""The whole path in embedded mode, through the real `adapterctl`: train, show, evaluate, merge, pull, load in PEFT."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
from pathlib import Path

import pytest
from support import encoders, processes, tiny
from support.command_line import CommandLine
from support.soak import SOAKING
from support.workplace import wait_until

from registry.app.embedded import open_embedded
from registry.app.page_services import PageServices
from registry.principal import LOCAL

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]

TRAINING = [
    *("--max-steps", "4", "--batch-size", "2", "--grad-accum", "1", "--max-length", "200"),
    *("--lr", "1e-2", "--rank", "4", "--seed", "7"),
]


class Home(CommandLine):
    """An embedded registry and a cache in a folder of their own."""

    def runner_log(self) -> str:
        """What the local runner said."""
        log = self.folder / "home" / "logs" / "runner.log"
        return log.read_text()[-5000:] if log.is_file() else ""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base."""
    return tiny.save_llama(tmp_path_factory.mktemp("bases") / "tiny-llama")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows to train on."""
    return tiny.write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, base: Path, rows: Path) -> Home:
    """A home with `counter@v1` in it."""
    home = Home(tmp_path_factory.mktemp("first"))
    made = home.json("train", "counter", "--base", str(base), "--data", str(rows), "--eval-data", str(rows), *TRAINING)
    assert made["ref"] == "counter@v1"
    assert made["existing"] is False
    return home


def test_show_has_the_whole_lineage(home: Home) -> None:
    shown = home.json("show", "counter@v1")
    assert shown["state"] == "ready"
    assert shown["kind"] == "adapter"
    assert shown["base"]["id"] == "tiny-llama"
    assert shown["base"]["architecture"] == "LlamaForCausalLM"
    assert len(shown["base"]["fingerprint"]) == len(shown["base"]["weights_digest"]) == 64
    assert shown["lora"]["rank"] == 4
    assert shown["lora"]["alpha"] == 8
    assert shown["lora"]["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert shown["quantization"]["type"] == "nf4"
    assert shown["quantization"]["double_quant"] is True
    assert shown["dataset"]["rows"] == 12
    assert shown["dataset"]["supervised_tokens"] > 0
    resolved = {"seed": 7, "total_steps": 4, "batch_size": 2, "loss_on": "completion", "lr": 1e-2, "max_length": 200}
    assert resolved.items() <= shown["training"].items()
    assert {"loss", "eval_loss", "eval_loss_base", "train_s", "peak_memory_bytes", "tokens_per_s"} <= set(
        shown["metrics"]
    )
    assert {"torch", "transformers", "peft", "trl", "bitsandbytes"} <= set(shown["libraries"])
    assert shown["job"]["attempt"] == 1
    job = home.json("jobs", "show", shown["job"]["id"])
    assert job["peak"]["forecast_bytes"] == shown["metrics"]["forecast_bytes"]
    assert job["peak"]["measured_bytes"] == shown["metrics"]["peak_memory_bytes"]
    assert job["peak"]["device"] == shown["training"]["device_name"]
    assert job["forecast"]["unknown"] is None
    # The base is tiny, so that all of it is the process and what malloc keeps.
    assert 0.8 < job["peak"]["measured_bytes"] / job["peak"]["forecast_bytes"] < 1.25
    assert [file["path"] for file in shown["files"]] == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "generation_config.json",
        "rendering.json",
    ]


def test_the_pulled_folder_changes_the_base_under_plain_peft_and_a_zeroed_one_does_not(
    home: Home, base: Path, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "pulled"
    assert home.ok("pull", "counter@v1", "-o", str(folder)).strip() == str(folder)
    zeroed = tmp_path / "zeroed"
    shutil.copytree(folder, zeroed)
    tensors = load_file(zeroed / "adapter_model.safetensors")
    save_file(
        {name: torch.zeros_like(value) if "lora_B" in name else value for name, value in tensors.items()},
        zeroed / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    ids = torch.arange(3, 35).reshape(1, 32)

    def logits(adapter: Path | None) -> torch.Tensor:
        model = AutoModelForCausalLM.from_pretrained(base)
        if adapter is not None:
            model = PeftModel.from_pretrained(model, adapter)
        with torch.no_grad():
            return model(ids).logits

    plain = logits(None)
    assert (logits(folder) - plain).abs().max() > 1e-3
    assert torch.equal(logits(zeroed), plain)
    refused = processes.run("adapterctl", "push", str(zeroed), "broken", "--base", str(base), env=home.env)
    assert refused.returncode == 7
    assert "this adapter changes nothing" in refused.stderr
    assert processes.run("adapterctl", "show", "broken", env=home.env).returncode == 3


def test_evaluation_scores_base_and_version_on_the_same_rows(home: Home, rows: Path) -> None:
    asked = (
        "eval", "base:tiny-llama", "counter@v1", "--data", str(rows), "--generate-rows", "2", "--max-new-tokens", "4"
    )  # fmt: skip
    scores = home.json(*asked)
    assert [score["ref"] for score in scores] == ["base:tiny-llama", "counter@v1"]
    shown = home.json("show", "counter@v1")
    # The same rows at the same precision: the evaluation agrees with what the training measured itself.
    assert scores[0]["metrics"]["loss"] == pytest.approx(shown["metrics"]["eval_loss_base"], rel=1e-2)
    assert scores[1]["metrics"]["loss"] == pytest.approx(shown["metrics"]["eval_loss"], rel=1e-2)
    assert scores[1]["metrics"]["loss"] < scores[0]["metrics"]["loss"]
    assert shown["evaluations"][0]["metrics"] == scores[1]["metrics"]
    # What the adapter changed on other texts, against the base that the job has scored beside it.
    bare, tuned = (score["metrics"] for score in scores)
    assert bare["general_kl"] == 0 < tuned["general_kl"]
    assert bare["general_loss"] == bare["general_loss_base"] == tuned["general_loss_base"] != tuned["general_loss"]
    # Asked again, they are answered from the record, and so is the base where nobody names it.
    again = home.json(*(part for part in asked if part != "base:tiny-llama"))
    assert again == [scores[1], {**scores[0], "beside": "base"}]
    for item in scores:
        by_row = home.json("evals", "show", item["id"], "--rows")
        assert len(by_row) == item["metrics"]["rows"]
        loss = sum(row["loss_sum"] for row in by_row) / sum(row["tokens"] for row in by_row)
        assert loss == pytest.approx(item["metrics"]["loss"], rel=1e-12)
        generated = [row for row in by_row if row["prediction"] is not None]
        assert [row["row"] for row in sorted(generated, key=lambda row: int(row["row"]))] == [0, 1]
        assert sum(row["scores"]["rouge_l"] for row in generated) / 2 == item["metrics"]["rouge_l"]


def test_a_merged_model_in_four_bits_is_loaded_by_transformers(home: Home, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    merged = home.json("merge", "counter@v1", "--quantize", "nf4", "-o", str(tmp_path / "merged"))
    assert merged["report"]["quantized"]["type"] == "nf4"
    assert merged["report"]["metrics"]["logit_kl_nf4"] >= 0
    assert AutoModelForCausalLM.from_pretrained(merged["path"]).is_loaded_in_4bit
    card = (tmp_path / "merged" / "README.md").read_text()
    assert '"base_model_relation": "quantized"' in card or '"base_model"' not in card
    assert home.json("show", "counter@v1")["digest"] in card


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["bert", "roberta"] if SOAKING else ["bert"])
def test_an_encoder_learns_to_tell_labels_apart(kind: str, home: Home, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base = {"bert": encoders.save_bert, "roberta": encoders.save_roberta}[kind](tmp_path / f"tiny-{kind}")
    rows = encoders.write_topics(tmp_path / "rows.jsonl")
    held_out = encoders.write_topics(tmp_path / "heldout.jsonl", seed=100, count=24)
    options = ("--max-steps", "30", "--batch-size", "6", "--grad-accum", "2", "--lr", "5e-3", "--targets", "all-linear")
    asked = ("train", kind, "--base", str(base), *options)
    refused = processes.run("adapterctl", *asked, "--data", str(tiny.write_rows(tmp_path / "text.jsonl")), env=home.env)
    assert (refused.returncode, "--objective classify" in refused.stderr) == (2, True), refused.stderr
    ref = home.json(*asked, "--data", str(rows), "--eval-data", str(held_out))["ref"]
    shown = home.json("show", ref)
    assert shown["training"]["objective"] == "classify"
    assert shown["dataset"]["labels"] == ["fruit", "tool", "weather"]
    assert shown["lora"]["modules_to_save"] == ["classifier"]
    assert shown["quantization"]["skipped_modules"] == shown["lora"]["modules_to_save"]
    assert shown["warnings"] == ["24 of the held-out rows are training rows too, so their loss says too little"]
    (scores,) = home.json("eval", ref, "--data", str(held_out))
    assert scores["metrics"]["accuracy"] == pytest.approx(shown["metrics"]["eval_accuracy"])
    by_row = home.json("evals", "show", scores["id"], "--rows", "--metric", "accuracy")
    assert sum(row["scores"]["accuracy"] for row in by_row) / len(by_row) == scores["metrics"]["accuracy"]
    assert {row["tokens"] for row in by_row} == {1}
    labels = home.json("evals", "show", scores["id"])["labels"]
    assert labels["labels"] == ["fruit", "tool", "weather"]
    assert sum(labels["counts"][n][n] for n in range(3)) / 24 == scores["metrics"]["accuracy"]
    assert labels["calibration_error"] == pytest.approx(scores["metrics"]["expected_calibration_error"])
    by_label = home.json("evals", "show", scores["id"], "--by", "label")
    assert [(one["value"], one["rows"]) for one in by_label["slices"]] == [(name, 8) for name in labels["labels"]]
    assert scores["metrics"]["accuracy"] > 0.6
    merged = home.json("merge", ref, "--onto", "original", "--dtype", "float32", "-o", str(tmp_path / "merged"))
    model = AutoModelForSequenceClassification.from_pretrained(merged["path"]).eval()
    assert model.config.id2label == {0: "fruit", 1: "tool", 2: "weather"}
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    adapted = PeftModel.from_pretrained(plain, home.ok("pull", ref).strip()).eval()
    batch = AutoTokenizer.from_pretrained(base)(["rain and fog", "a saw"], padding=True, return_tensors="pt")
    with torch.no_grad():
        assert torch.allclose(model(**batch).logits, adapted(**batch).logits, atol=1e-4)


def test_the_same_training_again_gives_the_existing_version_whatever_the_hash_seed(
    home: Home, base: Path, rows: Path
) -> None:
    other = Home(home.folder)
    other.env["PYTHONHASHSEED"] = "12345"
    again = other.json(
        "train", "counter", "--base", str(base), "--data", str(rows), "--eval-data", str(rows), *TRAINING
    )
    # Another digest would be another version.
    assert again["ref"] == "counter@v1"
    assert again["existing"] is True
    assert len(home.json("versions", "counter")) == 1
    assert home.json("jobs", "show", again["job"])["state"] == "succeeded"


def test_a_training_is_run_again_as_its_own_numbers_advise(home: Home, base: Path, rows: Path) -> None:
    risen = ["--warmup-ratio", "0.95", "--max-steps", "24"]
    made = home.json("train", "advised", "--base", str(base), "--data", str(rows), *TRAINING, *risen)
    (advice,) = home.json("jobs", "show", made["job"])["result"]["advice"]
    assert (advice["rule"], advice["changes"]) == ("warmup", {"warmup_ratio": 0.03})
    assert "the warm-up takes 23 of 24 steps, so lr reaches 0.01 only at step 24" in advice["message"]
    told = [line for line in home.ok("jobs", "logs", made["job"]).splitlines() if "the warm-up takes" in line]
    assert [line.partition("advice: ")[2] for line in told] == [f"at step 20 of 24, {advice['message']}"]
    assert advice["message"] in home.json("show", "advised@v1")["warnings"]
    again = home.json("jobs", "retry", made["job"], "--advice")["job"]
    home.ok("jobs", "wait", again, "--timeout", "200")
    record = home.json("show", "advised@v2")["training"]
    assert (record["warmup_ratio"], record["retry_of"]) == (0.03, made["job"])
    assert record["changed"] == "warmup_ratio 0.03 in place of 0.95"


def test_a_killed_runner_is_replaced_and_the_job_ends_once(home: Home, base: Path, rows: Path) -> None:
    longer = [*TRAINING, "--max-steps", "200"]
    job = home.json("train", "survivor", "--base", str(base), "--data", str(rows), *longer, "--detach")["job"]
    runner = _wait_for_runner(home, job)
    os.kill(runner, signal.SIGKILL)
    # Waiting is enough: nobody starts the next runner by hand.
    assert processes.run("adapterctl", "jobs", "wait", job, "--timeout", "200", env=home.env).returncode == 0, (
        home.runner_log()
    )
    shown = home.json("jobs", "show", job)
    assert shown["state"] == "succeeded"
    assert shown["attempt"] == 2
    assert len(home.json("versions", "survivor")) == 1


def _wait_for_runner(home: Home, job: str) -> int:
    """Return the process id of the home's runner once its job trains."""
    found: list[int] = []

    def at_work() -> bool:
        progress = home.json("jobs", "show", job)["progress"]
        if progress is not None and progress["phase"] == "train":
            found[:] = [
                int(process.name)
                for process in Path("/proc").iterdir()
                if process.name.isdigit() and _is_runner(process, home)
            ]
        return bool(found)

    wait_until(at_work, lambda: f"job {job} never trained:\n{home.runner_log()}", 60)
    return found[0]


def _is_runner(process: Path, home: Home) -> bool:
    try:
        command = (process / "cmdline").read_bytes()
        environment = (process / "environ").read_bytes()
    except OSError:
        return False
    return (
        b"workers.entry.local_runner" in command
        and f"ADAPTERCTL_URL=local:{home.folder / 'home'}".encode() in environment
    )


def commands_of_page(home: Home) -> dict[str, str]:
    """What the page of the version says there is to type."""
    services = open_embedded(home.folder / "home").state.services
    commands = {one.title: one.text for one in PageServices(services).versions.show("counter@v1", who=LOCAL).commands}
    services.db.close()
    return commands


def test_each_command_of_the_page_of_a_version_does_what_it_says(home: Home, tmp_path: Path) -> None:
    commands = commands_of_page(home)
    typed = CommandLine(home.folder, cwd=tmp_path)

    def run(title: str) -> str:
        return typed.ok(*shlex.split(commands.pop(title))[1:])

    assert (tmp_path / run("Pull its files") / "adapter_config.json").is_file()
    loaded = commands.pop("Load it in PEFT") + "\nprint(type(model).__name__, model.peft_config['default'].r)\n"
    done = processes.finished(sys.executable, "-c", loaded, cwd=tmp_path)
    assert done.stdout.split() == ["PeftModelForCausalLM", "4"], done.stderr
    serve, port, log = shlex.split(commands.pop("Serve it")), processes.free_port(), tmp_path / "serve.log"
    # Its training has recorded what it answers.
    assert serve == ["adapterctl", "serve", "counter@v1"]
    with processes.running(*serve, "--port", str(port), env=home.env, log=log) as process:
        wait_until(
            lambda: process.poll() is not None or f"http://127.0.0.1:{port}/v1" in log.read_text(), log.read_text
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, log.read_text()
    assert run("See whether vLLM can serve it").splitlines()[1].split("\t")[:2] == ["architecture", "yes"]
    run("Check its bytes")
    # It has a test of its own.
    assert list(commands) == ["Train again with the same configuration"]


@pytest.mark.soak
@pytest.mark.skipif(
    not SOAKING, reason="another training; what --like repeats is tested with a worker, and what the page says without"
)
def test_version_is_trained_again_as_its_page_says(home: Home) -> None:
    command = shlex.split(commands_of_page(home)["Train again with the same configuration"])
    done = home.run(*command[1:], within_s=300)
    # The same bytes are the same version.
    assert (done.returncode, done.stdout.split()[0]) == (0, "counter@v1"), done.stderr
    assert "the files are those of counter@v1" in done.stderr

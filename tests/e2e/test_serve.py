"""`adapterctl serve` over a real engine, asked by the client of OpenAI."""

from __future__ import annotations

import re
import signal

import openai
import pytest
from support import processes, random_loras, tiny
from support.command_line import CommandLine
from support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

KEY = "the-key-of-the-test-0123456789"
CANARY = "canary words of a caller"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    import torch

    folder = tmp_path_factory.mktemp("serving")
    base = tiny.save_llama(folder / "tiny-llama")
    place = CommandLine(folder, cwd=folder)
    made = random_loras.RandomLora("llama", {"r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]})
    for number in (1, 2):
        random_loras.save(made, base, folder / f"v{number}", seed=number, input_ids=torch.tensor([[5, 6, 7]]))
        place.ok("push", f"v{number}", "talker", "--base", "./tiny-llama")
    place.ok("alias", "set", "talker", "production", "v1")
    (folder / "key").write_text(KEY + "\n")
    return place


def test_an_alias_moves_under_a_caller_and_a_signal_ends_it(place: CommandLine) -> None:
    port, log = processes.free_port(), place.folder / "serve.log"
    serve = ("adapterctl", "serve", "talker@production", "--unprobed", "--key-file", str(place.folder / "key"))
    with processes.running(*serve, "--port", str(port), env=place.env, log=log) as process:
        url = f"http://127.0.0.1:{port}/v1"
        wait_until(lambda: process.poll() is not None or url in log.read_text(), log.read_text)
        with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:

            def version() -> str:
                answer = client.chat.completions.with_raw_response.create(
                    model="talker@production",
                    messages=[{"role": "user", "content": CANARY}],
                    max_tokens=2,
                    temperature=0,
                )
                assert answer.parse().model == "talker@production"
                return answer.headers["x-adapterctl-version"]

            assert version() == "talker@v1"
            assert [model.id for model in client.models.list()][:2] == ["base:tiny-llama", "talker@production"]
            place.ok("alias", "set", "talker", "production", "v2")
            wait_until(lambda: version() == "talker@v2", log.read_text)
            pieces = client.completions.create(model="talker@v1", prompt=CANARY, max_tokens=4, stream=True)
            assert {piece.model for piece in pieces} == {"talker@v1"}
            with pytest.raises(openai.NotFoundError, match="there is no model"):
                client.completions.create(model="talker@v9", prompt=CANARY)
            with pytest.raises(openai.AuthenticationError):
                client.with_options(api_key="sk-another").models.list()
        # A second one finds the port taken.
        taken = place.refused(9, *serve[1:], "--port", str(port))
        assert re.search(rf"port {port} on 127.0.0.1 can't be used .*; choose another with --port", taken)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    said = log.read_text()
    assert "talker@production: talker@v1 → talker@v2 (unprobed); seen " in said
    assert CANARY not in said
    assert KEY not in said


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["talker@v9"], 3, "v9"),
        (["nothing"], 3, "nothing"),
        (["talker", "--engine", "vllm"], 2, "--at URL --shared DIR"),
        (["talker", "--at", "http://127.0.0.1:1"], 2, "leave --at and --shared out"),
        (["talker", "--host", "0.0.0.0", "--no-key"], 2, "only this machine may ask"),
        (["talker", "--key-file", "missing"], 2, "can't be read"),
        (["talker@sha256:" + "a" * 64], 2, "name the version"),
        (["talker", "--allow-host", "a b"], 2, "is no host"),
    ],
)
def test_bad_input_is_refused_before_an_engine_starts(
    place: CommandLine, arguments: list[str], status: int, sentence: str
) -> None:
    assert sentence in place.refused(status, "serve", *arguments, "--port", str(processes.free_port()))

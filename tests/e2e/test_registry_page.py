"""What docs/registry.md shows runs as printed, by an admin of a served registry; so do the commands of servers on other pages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import blocks, pages, processes, registries
from support.command_line import CommandLine
from support.registries import World
from support.seeded_versions import Maker

from registry.principal import Role

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

NAME = "team/code-review"


class Admin(CommandLine):
    """Somebody with an admin's token, who also has the settings of the server."""

    def __init__(self, world: World, folder: Path) -> None:
        super().__init__(
            folder,
            url=world.url,
            token=world.token(Role.ADMIN),
            cwd=folder,
            REGISTRY_DATABASE_URL=f"sqlite:///{world.folder / 'registry.sqlite3'}",
            REGISTRY_STORAGE_URL=(world.folder / "artifacts").as_uri(),
            PATH=f"{processes.BIN}:/usr/bin:/bin",
        )
        self.world = world

    def follow(self, name: str, *, page: str = "registry.md", **changed: str) -> list[str]:
        """Run the lines of a block, each of which must end well; return what they printed. `changed` is written otherwise here."""
        printed = []
        for line in blocks.lines_of(pages.block(page, name)):
            for written, here in changed.items():
                line = line.replace(written, here)
            program, *words = blocks.words_of(line)
            done = processes.run(program, *words, env=self.env, cwd=self.folder)
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
            assert "Traceback" not in done.stderr
            printed.append(done.stdout)
        return printed


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    """An admin of a registry with three versions, the second of which is in production, and the third staged."""
    folder = tmp_path_factory.mktemp("page")
    with registries.served(folder / "served") as world:
        maker = Maker(world, folder, layers=1)
        for _ in range(2):
            maker.pushed(NAME)
        maker.trained(NAME, steps=3)
        admin = Admin(world, folder)
        world.admin.set_alias(NAME, "production", version=2)
        world.admin.set_alias(NAME, "staging", version=3)
        yield admin


def test_aliases_move_and_go_back(admin: Admin) -> None:
    *_, history, protected = admin.follow("aliases")
    assert "beats v2 on heldout.jsonl" in history
    assert "v3 repeats itself" in history
    assert "team/*" in protected + admin.ok("alias", "protected")


def test_tokens_are_made_replaced_and_revoked(admin: Admin) -> None:
    doomed = admin.world.admin.tokens.create("doomed", grants={"team": Role.READER})
    printed = admin.follow("tokens", **{"9f86d081884c7d65": doomed.id})
    assert "gateway" in printed[5]
    states = {
        line.split("\t")[1]: line.split("\t")[3] for line in admin.ok("token", "list", "--no-header").splitlines()
    }
    # `gpu-1` may work everywhere, so it is not one of the namespace.
    assert {name: states[name] for name in ("doomed", "ci", "gateway", "gpu-1")} == {
        "doomed": "revoked", "ci": "revoked", "gateway": "revoked", "gpu-1": "active",
    }  # fmt: skip


def test_quotas_audit_and_retention(admin: Admin) -> None:
    *_, shown = admin.follow("quotas")
    assert "50" in shown
    moves, about = admin.follow("audit")
    assert "alias.set" in moves
    assert {entry["subject"] for entry in json.loads(about)} >= {f"{NAME}@v1"}
    *_, swept = admin.follow("retention")
    assert json.loads(swept)["blobs_without_row"] is not None


def test_read_only_is_switched_on_and_off(admin: Admin) -> None:
    _, shown, _ = admin.follow("read-only")
    assert "moving the database" in shown


def test_a_job_s_events_are_streamed(admin: Admin) -> None:
    (job,) = admin.world.writer.jobs()
    text = (
        pages.block("jobs.md", "stream").replace("https://registry.example", admin.url).replace("3f1c2a9b7d20", job.id)
    )
    done = processes.finished("bash", "-euc", text, env=admin.env)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^event: (\w+)$", done.stdout, re.MULTILINE)[-1] == "end"


def test_a_server_starts_as_both_pages_say(admin: Admin) -> None:
    # A database of its own, in which nobody has a token yet.
    env = admin.env | {"REGISTRY_DATABASE_URL": f"sqlite:///{admin.folder / 'new.sqlite3'}"}
    for text in (_readme(), pages.block("registry.md", "serve")):
        *before, serve = blocks.lines_of(text)
        assert serve == "adapter-registry serve --host 0.0.0.0 --port 8080 --workers 2"
        for line in before:
            done = processes.finished("bash", "-euc", line, env=env)
            assert done.returncode == 0, f"{line}\n{done.stderr}"
    # The store is tried as artifacts.md says.
    (doctor,) = pages.commands("artifacts.md", "doctor")
    assert processes.run(*doctor, env=env).returncode == 0
    port, log = processes.free_port(), admin.folder / "serve.log"
    env["REGISTRY_PUBLIC_URL"] = "https://registry.example"
    # One process, which is a fork, says the same as the two of the page.
    with processes.serving(port, env=env, log=log):
        processes.wait_until_healthy(f"http://127.0.0.1:{port}", log=log)


def _readme() -> str:
    (text,) = re.findall(r"<!-- run: server -->\n```sh\n(.*?)```", (blocks.ROOT / "README.md").read_text(), re.DOTALL)
    return str(text)

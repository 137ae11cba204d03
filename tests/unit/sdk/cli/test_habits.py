"""What hands are used to: other programs' names of options, names that are nearly right, `help`, `version`, `logout`, `config show`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.adapters import base_registration, save_adapter

from sdk.cli import COMMANDS, GROUPS, cli
from sdk.cli.completing.names_file import NamesFile
from sdk.cli.support.failures import translated
from sdk.cli.support.other_names import other_names
from sdk.client import Client
from sdk.config import Config, write_profile
from sdk.errors import AdapterctlError

Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("URL", "TOKEN", "INSECURE", "SIGNING_KEY", "KEEP_WARM", "DEBUG"):
        monkeypatch.delenv(f"ADAPTERCTL_{variable}", raising=False)
    monkeypatch.setenv("ADAPTERCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def refused(*args: str) -> str:
    """Run a command that fails; return the message that leaves the program."""
    result = CliRunner().invoke(cli, args, standalone_mode=False)
    assert isinstance(result.exception, Exception), result.output
    return translated(result.exception).message


def shown(*args: str) -> str:
    """Run a command that works; return what it prints."""
    result = CliRunner().invoke(cli, args, standalone_mode=False, catch_exceptions=False)
    return result.stdout


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A registry with two versions of `code-review`, of which `production` names the first."""
    url = f"local:{tmp_path / 'home'}"
    monkeypatch.setenv("ADAPTERCTL_URL", url)
    client = Client(url)
    client.bases.register(base_registration())
    for seed in (1, 2):
        client.push(save_adapter(tmp_path / f"adapter-{seed}", seed), "code-review", base="tiny")
    client.set_alias("code-review", "production", 1)
    return client


def test_nearest_name_is_suggested(registry: Client) -> None:
    assert refused("show", "code-reviw") == "there is no adapter 'code-reviw'; did you mean code-review?"
    assert refused("show", "code-review@prodction").endswith("did you mean code-review@production?")
    assert refused("show", "code-review@2").endswith("did you mean code-review@v2?")
    assert refused("alias", "rm", "code-review", "prodction", "--yes").endswith("did you mean code-review@production?")
    assert refused("base", "show", "tyny") == "there is no base 'tyny'; did you mean tiny?"
    assert refused("show", "code-review:v2") == "'code-review:v2' is not a ref: write code-review@v2"
    for far in ("nothing-like-it", "code-review@7", "code-review@zzz"):
        assert "did you mean" not in refused("show", far)
    registry.close()


def test_options_of_other_programs_are_recognised() -> None:
    for other, ours in {"--learning-rate": "--lr", "--lora_alpha": "--alpha", "--num-train-epochs": "--epochs"}.items():
        told = refused("train", "x", other, "1")
        assert told == f"there is no option '{other}'; here it is {ours}"
    assert "here it is" not in refused("list", "--learning-rate", "1")


def test_our_names_of_options_are_those_of_commands() -> None:
    contexts = [cli.get_command(None, name) for name in ("train", "sweep", "generate", "pull", "gc", "list")]  # type: ignore[arg-type]
    known = {flag for command in contexts if command for param in command.params for flag in param.opts}
    known |= {
        flag
        for command in contexts
        for each in [getattr(command, "begins", None)]
        if each
        for param in each.params
        for flag in param.opts
    }
    assert {ours.split()[0] for ours in other_names().values()} <= known
    assert not {*other_names()} & known


def test_each_command_stands_in_one_group_of_the_help() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert len(grouped) == len({*grouped})
    assert {*COMMANDS} <= {*grouped}
    told = shown("--help")
    assert all(f"\n{title}:\n" in told for title in GROUPS)
    assert all(f"\n  {name} " in told for name in COMMANDS)


def test_help_shows_what_the_option_shows() -> None:
    assert shown("help") == shown("--help")
    assert shown("help", "jobs", "watch") == shown("jobs", "watch", "--help")
    assert "there is no command 'jobs nothing'; see: " in refused("help", "jobs", "nothing")


def test_version_names_the_command_for_versions_of_an_adapter() -> None:
    assert shown("version") == shown("--version")
    assert refused("version", "code-review").endswith("see: adapterctl versions code-review")


def test_logout_forgets_token_and_names(tmp_path: Path) -> None:
    config = Config("https://registry.example", "actl_secret")
    profile = write_profile(config)
    names = NamesFile(config)
    names.add([("adapter", "code-review")])
    document = json.loads(shown("logout", "--format", "json"))
    assert document == {"url": config.url, "profile": str(profile), "removed": True}
    assert not profile.exists()
    assert not names.path.exists()
    assert json.loads(shown("logout", "--format", "json"))["removed"] is False


def test_config_says_where_each_value_is_from(monkeypatch: pytest.MonkeyPatch) -> None:
    def sources() -> dict[str, tuple[str, str]]:
        text = shown("config", "show", "--format", "json")
        assert "actl_secret" not in text
        return {row["setting"]: (row["value"], row["source"].split()[0]) for row in json.loads(text)}

    assert (sources()["url"], sources()["token"]) == (("local:~/.adapterctl", "default"), ("none", "default"))
    write_profile(Config("https://registry.example", "actl_secret"))
    assert (sources()["url"], sources()["token"]) == (("https://registry.example", "profile"), ("set", "profile"))
    # A profile's token is for its own registry alone.
    monkeypatch.setenv("ADAPTERCTL_URL", "https://other.example")
    assert (sources()["url"], sources()["token"]) == (("https://other.example", "ADAPTERCTL_URL"), ("none", "default"))
    monkeypatch.setenv("ADAPTERCTL_TOKEN", "actl_secret")
    assert sources()["token"] == ("set", "ADAPTERCTL_TOKEN")
    assert sources()["cache"][1] == "ADAPTERCTL_CACHE"


def test_verbose_says_what_was_asked(registry: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.close()
    # It is set by the option, and put back afterwards.
    monkeypatch.setenv("ADAPTERCTL_DEBUG", "")
    result = CliRunner().invoke(cli, ["--verbose", "list"], standalone_mode=False)
    assert "/adapters" in result.stderr
    assert "/adapters" not in result.stdout


def test_unknown_error_is_still_one_of_ours() -> None:
    assert isinstance(translated(RuntimeError("x")), AdapterctlError)

"""What a caller says of a sweep: the command line has every option of a training, and its commands are not names of adapters."""

from __future__ import annotations

from typing import Any

import click
import pytest

from sdk.cli import cli
from sdk.errors import InvalidInput, InvalidName, NotFound
from sdk.names import check_sweep_id
from sdk.schemas.option_types import options_of
from sdk.schemas.sweep_axes import Range, Values
from sdk.schemas.sweeps import COMMANDS, SweepFields
from sdk.submitting.sweep_options import check_swept, divided


def parsed(*args: str) -> dict[str, Any]:
    """What the command line `adapterctl sweep …` is read as, of what is given."""
    group = cli.get_command(click.Context(cli), "sweep")
    assert group is not None
    context = group.make_context("sweep", list(args))
    return {name: value for name, value in context.params.items() if value not in (None, (), False)}


def command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def test_every_option_of_a_training_is_one_of_a_sweep() -> None:
    alone = {"like", "from_checkpoint", "dry_run"}
    train = {param.name for param in command("train").params}
    sweep = {param.name for param in command("sweep").make_context("sweep", ["sql"]).command.params}
    assert train - sweep == alone
    assert sweep - train == {*options_of(SweepFields), "max_time"}


def test_its_commands_are_those_that_no_adapter_of_a_sweep_may_be_called() -> None:
    group = command("sweep")
    assert isinstance(group, click.Group)
    assert set(group.commands) == set(COMMANDS)
    for name in COMMANDS:
        with pytest.raises(InvalidName, match=f"'{name}' is a command, adapterctl sweep {name}"):
            check_swept(name)
        assert check_swept(f"team/{name}")


def test_a_name_that_is_a_command_is_refused_where_a_sweep_was_meant() -> None:
    with pytest.raises(InvalidName, match="so no adapter of that name can be swept"):
        parsed("list", "--base", "./b", "--data", "rows.jsonl", "--rank", "1,2")


def test_options_come_before_or_after_the_name() -> None:
    assert parsed("sql", "--rank", "1,2") == parsed("--rank", "1,2", "sql")


def test_a_flag_alone_is_one_value_and_may_vary_after_a_sign() -> None:
    given = parsed("sql", "--use-dora", "--no-double-quant")
    assert (given["use_dora"], given["double_quant"]) == ("true", "false")
    assert parsed("sql", "--use-dora=true,false")["use_dora"] == "true,false"
    options = divided({"use_dora": "true,false", "double_quant": "false"})
    assert options.settings == {"use_dora": Values(values=[True, False])}
    assert options.fixed == {"double_quant": False, "keep": "best"}


def test_help_has_the_sweep_and_its_commands() -> None:
    for args in (["--help"], ["sql", "--help"]):
        with pytest.raises(click.exceptions.Exit):
            command("sweep").make_context("adapterctl sweep", args)
    group = command("sweep")
    text = group.get_help(click.Context(group, info_name="sweep"))
    assert "--stop-early" in text
    assert "\nCommands:\n" in text
    assert "adapterctl sweep sql --base ./b" in text


def test_python_s_lists_are_values_and_texts_may_be_ranges() -> None:
    found = divided({"rank": [1, 2, 4], "lr": "1e-4..1e-3:log[5]", "targets": "v_proj,q_proj", "seeds": 3})
    assert found.settings == {"rank": Values(values=[1, 2, 4]), "lr": Range(low=1e-4, high=1e-3, log=True, count=5)}
    assert found.fixed == {"targets": "q_proj,v_proj", "keep": "best"}
    assert found.fields.seeds == 3
    assert found.of_training == {"targets": "q_proj,v_proj", "keep": "best", "rank": 1, "lr": 1e-4}


def test_members_keep_their_best_look_unless_asked_and_are_judged_so() -> None:
    asked = divided({"rank": "1,2", "min_delta": 0.01})
    assert asked.ahead("sql", eval_data="held.jsonl").training.spec.keep == "best"
    assert divided({"rank": "1,2", "keep": "last"}).fixed["keep"] == "last"
    group = command("sweep")
    assert "[default: best]" in " ".join(group.get_help(click.Context(group, info_name="sweep")).split())


def test_a_list_that_is_one_value_of_a_training_says_how_many_it_is_of_a_sweep() -> None:
    for name, given in {"targets": ["q_proj", "v_proj"], "layers_to_transform": (0, 3), "exclude": ["a", "b"]}.items():
        with pytest.raises(InvalidInput, match=f"^{name}: .*for one value, or .* for 2$") as refused:
            divided({"rank": "1,2", name: given})
    assert refused.value.message.endswith('write [[a, b]] for one value, or "a;b" for 2')
    nested = divided({"targets": [["q_proj", "v_proj"], "all-linear"], "layers_to_transform": [[0, 3]]}).settings
    assert nested["targets"] == Values(values=["q_proj,v_proj", "all-linear"])
    assert nested["layers_to_transform"] == Values(values=["0,3"])


def test_lists_of_options_that_can_t_vary_are_a_training_s() -> None:
    given = {"report_to": ["mlflow", "trackio"], "add_tokens": ["<red>", "<blue>"]}
    spec = divided({"rank": "1,2", **given}).ahead("sql", eval_data="held.jsonl").training.spec
    assert (spec.report_to, spec.add_tokens) == ("mlflow,trackio", "<red>\n<blue>\n")


def test_a_text_of_an_option_that_can_t_vary_is_one_value_whatever_is_in_it() -> None:
    template = "{% for m in messages %}{{ m['content'] }}; {% endfor %}"
    assert divided({"rank": "1,2", "chat_template": template}).fixed["chat_template"] == template


def test_a_time_is_written_as_people_do() -> None:
    assert divided({"rank": "1,2"}, max_time="2h").fields.max_time_s == 7200
    with pytest.raises(InvalidInput) as refused:
        divided({"rank": "1,2"}, max_time="soon")
    assert refused.value.param == "max_time"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("a/b", "there is no sweep 'a/b'; see: adapterctl sweep list"),
        ("sweep:3f1c2a9b7d20/3", "is a member of a sweep, and no sweep; see: adapterctl show sweep:3f1c2a9b7d20/3"),
        ("3f1c2a9b7d20/3", "see: adapterctl show sweep:3f1c2a9b7d20/3"),
    ],
)
def test_what_is_no_sweep_is_said_to_be_none(given: str, says: str) -> None:
    with pytest.raises(NotFound) as refused:
        check_sweep_id(given)
    assert refused.value.message.endswith(says)
    assert check_sweep_id("sweep:3f1c2a9b7d20") == "3f1c2a9b7d20"

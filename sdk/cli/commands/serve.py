"""`adapterctl serve`: a gateway in front of an inference engine, in the foreground."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from sdk.cli.completing.kinds import REF
from sdk.cli.support.output import say
from sdk.cli.support.session import open_client
from sdk.config import user_path
from sdk.errors import Unavailable

if TYPE_CHECKING:
    from sdk.gateway.chosen_engine import EngineChoice, EngineName

_LIBRARIES = ("uvicorn", "starlette", "httptools", "jinja2", "tokenizers")


@click.command(name="serve")
@click.argument("refs", type=REF, nargs=-1, required=True, metavar="REF|NAME…")
@click.option(
    "--engine",
    type=click.Choice(["local", "llama.cpp", "vllm"]),
    default="local",
    show_default=True,
    help="What computes: our own engine, llama.cpp, or a vLLM server that runs already.",
)
@click.option("--at", metavar="URL", help="Where vLLM answers.")
@click.option("--shared", metavar="DIR[=PATH]", help="A folder that vLLM sees too, there as PATH.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", type=click.IntRange(1, 65535), default=8011, show_default=True)
@click.option(
    "--allow-host", "allowed_hosts", multiple=True, metavar="NAME", help="Answer for this host too; repeatable."
)
@click.option(
    "--key-file", type=click.Path(path_type=Path), help="A file with the key that callers send. [default: one is made]"
)
@click.option("--no-key", "has_no_key", is_flag=True, help="Let everybody on this machine ask.")
@click.option("--unprobed", is_flag=True, help="Also serve versions without a record of their answers.")
@click.option(
    "--drain",
    "drain_s",
    type=click.FloatRange(0, 3600),
    default=30,
    show_default=True,
    help="Seconds that running requests have when it ends.",
)
def serve_command(
    refs: tuple[str, ...],
    engine: str,
    at: str | None,
    shared: str | None,
    host: str,
    port: int,
    allowed_hosts: tuple[str, ...],
    key_file: Path | None,
    has_no_key: bool,
    unprobed: bool,
    drain_s: float,
) -> None:
    """Serve versions to OpenAI's clients, and follow their aliases without an interruption.

    A request names its model: NAME, NAME@ALIAS, NAME@vN, or the base as /v1/models has it. NAME keeps the newest version and those of all
    aliases loaded; other versions of the same adapters are loaded when they are asked for. When an alias moves, the new
    version is fetched, loaded and proved by its record before any request gets it. A request keeps its version until it
    ends. The registry's tokens are keys as well, if this command's own token has the role server.

    It prints its URL, and the key if it made one, when the first versions are loaded; then a line for each move. Ctrl-C
    or SIGTERM ends it.

    It needs more than the SDK: pip install 'adapterctl[local]', or 'adapterctl[gateway]' in front of vLLM

    \b
    Examples:
      adapterctl serve code-review
      adapterctl serve code-review@production sql --engine llama.cpp --port 8012
      adapterctl serve sql --engine vllm --at http://gpu:8000 --shared /srv/loras
    """
    _require_libraries()
    from sdk.gateway.serving import ServeOptions, read_key, serve

    if key_file is not None and has_no_key:
        raise click.UsageError("--key-file and --no-key can't be combined; give one of them")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stderr)
    options = ServeOptions(
        refs=refs,
        engine=_engine(cast("EngineName", engine), at, shared),
        host=host,
        port=port,
        key=None if key_file is None else read_key(user_path(key_file)),
        has_no_key=has_no_key,
        unprobed=unprobed,
        drain_s=drain_s,
        allowed_hosts=allowed_hosts,
    )

    def ready(url: str, key: str | None) -> None:
        click.echo(url)
        if key is not None:
            click.echo(key)
            say("the second line is the key, which is shown only once; callers send it as Authorization: Bearer KEY")

    with open_client() as client:
        serve(client, options, say=say, on_ready=ready)


def _engine(name: EngineName, at: str | None, shared: str | None) -> EngineChoice:
    from sdk.gateway.chosen_engine import EngineChoice

    here, _equals, there = (shared or "").partition("=")
    return EngineChoice(name, at, user_path(here).absolute() if here else None, there or None)


def _require_libraries() -> None:
    if missing := [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]:
        raise Unavailable(
            f"serving needs {' and '.join(missing)}, which this Python lacks; run: pip install 'adapterctl[gateway]'"
        )

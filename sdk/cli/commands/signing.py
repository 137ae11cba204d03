"""`adapterctl sign`, and the key that `push --sign` takes."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from sdk import config
from sdk.cli.completing.kinds import FILE, REF_OR_FOLDER
from sdk.cli.support.output import format_option, print_made, say
from sdk.cli.support.session import open_client
from sdk.formats.refs import is_folder
from sdk.names import parse_ref
from sdk.signing import is_protected


def ask_password(key: str | None) -> str | None:
    """Return what opens the private key `key`, asked for on a terminal; None if it needs none or the environment has
    it.
    """
    path = config.signing_key() if key is None else config.user_path(key)
    if path is None or config.signing_password() is not None or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    if not path.is_file() or not is_protected(path):
        return None
    return str(click.prompt(f"password of {path}", hide_input=True, err=True))


@click.command(name="sign")
@click.argument("ref", type=REF_OR_FOLDER)
@click.option("--key", type=FILE, help="A PEM file with an EC private key. [default: ADAPTERCTL_SIGNING_KEY]")
@format_option
def sign_command(ref: str, key: str | None, style: str) -> None:
    """Sign the version that REF names: its files by digest, and the base that they belong to.

    You vouch for whatever the registry shows for REF, so name what you have looked at by NAME@sha256:DIGEST. For a pulled folder
    (./DIR), sign its claims: where it is pushed, a registry that lists the key takes them into its record.
    The key's password is asked for, or taken from ADAPTERCTL_SIGNING_PASSWORD. Prints the key's id.

    \b
    Examples:
      openssl ecparam -name prime256v1 -genkey -noout -out KEY.pem
      openssl ec -in KEY.pem -pubout -out KEY.pub.pem
      adapterctl sign code-review@v3 --key KEY.pem
      adapterctl sign ./adapter --key KEY.pem
    """
    password = ask_password(key)
    if is_folder(ref) or Path(ref).is_dir():
        from sdk.pushing.claims import sign_about

        file, signed = sign_about(config.user_path(ref), key, password=password)
        say(
            f"the claims of {ref} about {file.about.ref}, by {file.registry}, are signed; the next push of the folder sends them"
        )
        print_made(style, {"ref": file.about.ref, "digest": file.about.digest, "key_id": signed.key_id}, signed.key_id)
        return
    with open_client() as client:
        version = client.get(str(parse_ref(ref)))
        exact = f"{version.info.adapter}@sha256:{version.digest}"
        signature = client.signatures.sign(exact, key, password=password)
    say(f"{version.ref} is signed; verify it with: adapterctl verify {version.ref} --verify-with KEY.pub.pem")
    document = {"ref": version.ref, "digest": version.digest, "key_id": signature.key_id}
    print_made(style, document, signature.key_id)

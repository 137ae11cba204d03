"""Where the registry is, which token it gets, and where the cache is: read here and nowhere else.

`ADAPTERCTL_URL` and `ADAPTERCTL_TOKEN` take precedence over the profile that `adapterctl login` writes;
`ADAPTERCTL_CACHE` is the cache's folder. What is pushed is signed with the key in the file `ADAPTERCTL_SIGNING_KEY`,
whose password is `ADAPTERCTL_SIGNING_PASSWORD`. `ADAPTERCTL_INSECURE=1` accepts plain http to another machine.
`ADAPTERCTL_HELPER=0` lets no command over a folder use or leave a helper, and `ADAPTERCTL_HELPER=1` lets scripts use one.
`ADAPTERCTL_KEEP_WARM` is for how many seconds an engine program waits for the next question, 0 for none.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from sdk.allowed_locations import Reach
from sdk.errors import InvalidInput, disk_explained
from sdk.whole_files import write_whole

DEFAULT_URL = "local:~/.adapterctl"
_VISIBLE = re.compile(r"[!-~]+")
_KEEP_WARM_S, _LONGEST_WARM_S = 300.0, 86_400.0
_YES = ("1", "true", "yes", "on")


@dataclass(frozen=True)
class Config:
    """How to reach a registry."""

    #: `https://…`, `http://…`, or `local:DIR`.
    url: str
    #: Never shown.
    token: str | None = field(default=None, repr=False)
    #: Whether plain http to another machine was accepted.
    insecure: bool = False

    @property
    def home(self) -> Path | None:
        """The folder of an embedded registry; None for a remote one."""
        if not self.url.startswith("local:"):
            return None
        return user_path(self.url.removeprefix("local:")).absolute()

    @property
    def reach(self) -> Reach:
        """The places that this registry may name."""
        return Reach(self.url, self.insecure)


def user_path(given: str | Path) -> Path:
    """Return a path as a user wrote it, with `~` expanded; `~name` stays as it is if there is no such user."""
    path = Path(given)
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def profile_path() -> Path:
    """Where the profile is."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "adapterctl" / "profile.json"


def cache_path() -> Path:
    """Where the cache is."""
    given = os.environ.get("ADAPTERCTL_CACHE")
    if given:
        return user_path(given).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "adapterctl"


def signing_key() -> Path | None:
    """The private key that versions are signed with; None if they are not signed."""
    given = os.environ.get("ADAPTERCTL_SIGNING_KEY")
    return user_path(given).absolute() if given else None


def signing_password() -> str | None:
    """The password of a private key that is protected by one."""
    return os.environ.get("ADAPTERCTL_SIGNING_PASSWORD") or None


def keep_warm_s() -> float:
    """For how long an engine program that was started to answer a question waits for the next one; 0: it ends at once.

    Raises InvalidInput.
    """
    given = os.environ.get("ADAPTERCTL_KEEP_WARM")
    if not given:
        return _KEEP_WARM_S
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    # Also false for NaN.
    if not 0 <= seconds <= _LONGEST_WARM_S:
        raise InvalidInput(
            f"ADAPTERCTL_KEEP_WARM is {given[:80]!a}; set it to seconds from 0 to {_LONGEST_WARM_S:.0f}",
            param="ADAPTERCTL_KEEP_WARM",
        )
    return seconds


def wants_helper(*, by_default: bool) -> bool:
    """Whether the helper of a folder is asked: 0 and 1 in `ADAPTERCTL_HELPER` say so, and else commands ask it, scripts don't.

    Raises InvalidInput.
    """
    given = os.environ.get("ADAPTERCTL_HELPER", "")
    if given not in ("", "0", "1"):
        raise InvalidInput(f"ADAPTERCTL_HELPER is {given[:80]!a}; set it to 0 or 1", param="ADAPTERCTL_HELPER")
    return by_default if not given else given == "1"


def load(url: str | None = None, token: str | None = None, *, insecure: bool = False) -> Config:
    """Return the configuration: arguments, then environment, then profile, then the default.

    The profile's token, and whether it accepts plain http, apply only to the profile's own URL. Raises InvalidInput for
    a URL or token that can't be one, and for a profile that can't be read unless `url` is given.
    """
    try:
        profile = _read_profile()
    except InvalidInput:
        if url is None:
            raise
        # `login` writes it anew.
        profile = Config("")
    chosen = check_url(url or os.environ.get("ADAPTERCTL_URL") or profile.url or DEFAULT_URL)
    own = profile.url.rstrip("/") == chosen
    token = token or os.environ.get("ADAPTERCTL_TOKEN") or (profile.token if own else None)
    insecure = insecure or os.environ.get("ADAPTERCTL_INSECURE", "").lower() in _YES or (own and profile.insecure)
    return Config(url=chosen, token=None if token is None else check_token(token), insecure=insecure)


def explained() -> list[tuple[str, str, str]]:
    """Return each setting as its name, its value as it may be shown, and where that is from. Raises what `load` does."""
    configured, profile = load(), _read_profile()
    of_profile = f"profile {profile_path()}"
    own = bool(profile.url) and profile.url.rstrip("/") == configured.url

    def source(variable: str, in_profile: object) -> str:
        return variable if os.environ.get(variable) else of_profile if in_profile else "default"

    key, cache = signing_key(), source("ADAPTERCTL_CACHE", False)
    if cache == "default" and os.environ.get("XDG_CACHE_HOME"):
        cache = "XDG_CACHE_HOME"
    return [
        ("url", configured.url, source("ADAPTERCTL_URL", profile.url)),
        ("token", "set" if configured.token else "none", source("ADAPTERCTL_TOKEN", own and profile.token)),
        ("insecure", str(configured.insecure).lower(), source("ADAPTERCTL_INSECURE", own and profile.insecure)),
        ("cache", str(cache_path()), cache),
        ("signing_key", str(key or "none"), source("ADAPTERCTL_SIGNING_KEY", False)),
        ("keep_warm_s", f"{keep_warm_s():g}", source("ADAPTERCTL_KEEP_WARM", False)),
    ]


def url_is_default() -> bool:
    """Whether neither the environment nor a profile says which registry is meant. Raises InvalidInput for a profile that can't be
    read.
    """
    return not os.environ.get("ADAPTERCTL_URL") and not _read_profile().url


def accept_plain_http() -> None:
    """Accept plain http to other machines, in this process and those that it starts."""
    os.environ["ADAPTERCTL_INSECURE"] = "1"


def show_details() -> None:
    """Show details in this process and those that it starts: what the registry is asked, and errors in full."""
    os.environ["ADAPTERCTL_DEBUG"] = "1"


def shows_details() -> bool:
    """Whether details are shown."""
    return bool(os.environ.get("ADAPTERCTL_DEBUG"))


def remove_profile() -> bool:
    """Remove the profile; return whether there was one. Raises OSError."""
    path = profile_path()
    existed = path.exists()
    path.unlink(missing_ok=True)
    return existed


def check_url(url: str) -> str:
    """Return `url` without a trailing slash if it can name a registry. Raises InvalidInput."""
    if url.startswith("local:") and url != "local:":
        return url
    try:
        parts = urlsplit(url)
        # Reading the port raises ValueError for a bad one.
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        raise _no_registry(url) from None
    # Checked before the URL is shown, since this part of it may be a secret.
    if "@" in parts.netloc:
        raise InvalidInput(
            "a registry's URL must not contain a password; put the token into ADAPTERCTL_TOKEN", param="url"
        )
    if not usable or parts.query or parts.fragment or not _VISIBLE.fullmatch(url):
        raise _no_registry(url)
    return url.rstrip("/")


def _no_registry(url: str) -> InvalidInput:
    shown = ascii(url if "@" not in url else url.rpartition("@")[2])
    return InvalidInput(
        f"{shown} doesn't name a registry; write https://host, http://host:port or local:DIR", param="url"
    )


def check_token(token: str) -> str:
    """Return `token` if it can travel in a header. Raises InvalidInput, which does not show it."""
    if not _VISIBLE.fullmatch(token):
        raise InvalidInput(
            "the token has a space, a line feed or another character that tokens never have; copy all of it again",
            param="token",
        )
    return token


def _read_profile() -> Config:
    """What `adapterctl login` wrote; an empty URL if it wrote nothing."""
    try:
        found = json.loads(profile_path().read_text())
    except FileNotFoundError:
        return Config("")
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"the profile {profile_path()} can't be read; write a new one with: adapterctl login URL"
        ) from error
    if not isinstance(found, dict):
        return Config("")
    url, token = found.get("url"), found.get("token")
    return Config(
        url=url if isinstance(url, str) else "",
        token=token if isinstance(token, str) else None,
        insecure=found.get("insecure") is True,
    )


def write_profile(config: Config) -> Path:
    """Write the profile, readable by its owner only; return its path."""
    path = profile_path()
    with disk_explained("writing the profile"):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        accepted = {"insecure": True} if config.insecure else {}
        profile = json.dumps({"url": config.url, "token": config.token, **accepted})
        write_whole(path, profile, durable=True, mode=0o600)
    return path

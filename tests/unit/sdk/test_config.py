"""Where the registry is and with which token: environment before profile before default."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from sdk import config
from sdk.config import Config
from sdk.errors import InvalidInput


@pytest.fixture(autouse=True)
def _clean_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("ADAPTERCTL_URL", "ADAPTERCTL_TOKEN", "ADAPTERCTL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_word_it_is_a_folder_at_home(tmp_path: Path) -> None:
    found = config.load()
    assert (found.url, found.token) == ("local:~/.adapterctl", None)
    assert found.home == tmp_path / "home/.adapterctl"
    assert config.cache_path() == tmp_path / "home/.cache/adapterctl"


def test_arguments_go_before_the_environment_before_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_profile(Config("https://profile.example", "profile-token"))
    assert config.load() == Config("https://profile.example", "profile-token")
    monkeypatch.setenv("ADAPTERCTL_URL", "https://environment.example")
    monkeypatch.setenv("ADAPTERCTL_TOKEN", "environment-token")
    assert config.load() == Config("https://environment.example", "environment-token")
    assert config.load("https://argument.example", "argument-token") == Config(
        "https://argument.example", "argument-token"
    )


def test_the_profiles_token_goes_to_its_own_registry_only(monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_profile(Config("https://profile.example", "profile-token"))
    assert config.load("https://other.example").token is None
    assert config.load("https://profile.example.evil.example").token is None
    assert config.load("http://profile.example").token is None
    monkeypatch.setenv("ADAPTERCTL_URL", "https://other.example")
    assert config.load().token is None
    monkeypatch.setenv("ADAPTERCTL_URL", "https://profile.example/")
    assert config.load().token == "profile-token"


def test_only_the_owner_can_read_the_profile() -> None:
    path = config.write_profile(Config("https://profile.example", "one"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    config.write_profile(Config("https://profile.example", "two"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert json.loads(path.read_text()) == {"url": "https://profile.example", "token": "two"}
    assert [entry.name for entry in path.parent.iterdir()] == ["profile.json"]


def test_a_token_is_never_shown() -> None:
    found = Config("https://registry.example", "s3cret-token")
    assert "s3cret" not in repr(found)
    assert "s3cret" not in str(found)
    with pytest.raises(InvalidInput) as caught:
        config.load("https://registry.example", "s3cret token")
    assert "s3cret" not in caught.value.as_json()


@pytest.mark.parametrize("token", ["two words", "line\nfeed", "caf\u00e9", "\x1b[0m", "a\r\nX-Admin: yes"])
def test_a_token_that_no_header_can_carry_is_refused(token: str) -> None:
    with pytest.raises(InvalidInput, match="copy all of it again") as caught:
        config.load("https://registry.example", token)
    assert caught.value.param == "token"


@pytest.mark.parametrize(
    "url",
    [
        "registry.example",
        "ftp://registry.example",
        "https://",
        "local:",
        "https:registry.example",
        "http://[::1",
        "http://host:99999",
        "http://host:port",
        "http://host/?token=x",
        "http://host/#x",
        "http://ho st",
        "http://host\n",
        "http://h\u00f6st",
        "//host",
    ],
)
def test_what_names_no_registry_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="doesn't name a registry; write https://host") as caught:
        config.load(url)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("url", ["https://me:s3cret@host", "https://s3cret@host", "https://:s3cret@host:99999"])
def test_a_password_in_a_url_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        config.load(url)
    assert "s3cret" not in caught.value.message


@pytest.mark.parametrize("url", ["https://host", "http://127.0.0.1:8000", "http://[::1]:8000", "https://host/registry"])
def test_urls_are_kept_without_the_slash_at_their_end(url: str) -> None:
    assert config.check_url(f"{url}/") == url == config.check_url(url)


def test_a_home_that_nobody_has_is_a_name_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert config.load("local:~nobody-of-that-name/x").home == tmp_path / "~nobody-of-that-name/x"
    assert config.load("local:~/x").home == tmp_path / "home/x"
    assert config.load("local:x").home == tmp_path / "x"


@pytest.mark.parametrize("content", ["{", "\xff", '{"url": "https://x'])
def test_a_damaged_profile_is_named_with_what_mends_it(content: str) -> None:
    path = config.profile_path()
    path.parent.mkdir(parents=True)
    path.write_text(content)
    # With a registry of its own, as `login` is given one, it is not asked.
    assert config.load("https://registry.example", "token").token == "token"
    with pytest.raises(InvalidInput, match=r"profile\.json can't be read; write a new one with: adapterctl login"):
        config.load()


@pytest.mark.parametrize("content", ["[]", "null", '{"url": 7, "token": ["x"]}'])
def test_a_profile_of_another_shape_counts_for_nothing(content: str) -> None:
    path = config.profile_path()
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert config.load() == Config(config.DEFAULT_URL)


def test_a_key_to_sign_with_and_what_opens_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ADAPTERCTL_SIGNING_KEY", "ADAPTERCTL_SIGNING_PASSWORD"):
        monkeypatch.setenv(name, "")
    assert (config.signing_key(), config.signing_password()) == (None, None)
    monkeypatch.setenv("ADAPTERCTL_SIGNING_KEY", "~/key.pem")
    monkeypatch.setenv("ADAPTERCTL_SIGNING_PASSWORD", "secret")
    assert (config.signing_key(), config.signing_password()) == (tmp_path / "home/key.pem", "secret")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADAPTERCTL_SIGNING_KEY", "key.pem")
    assert config.signing_key() == tmp_path / "key.pem"


@pytest.mark.parametrize(
    ("given", "seconds"), [(None, 300.0), ("", 300.0), ("0", 0.0), ("1.5", 1.5), ("86400", 86400.0)]
)
def test_programs_stay_for_as_long_as_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, given: str | None, seconds: float
) -> None:
    monkeypatch.delenv("ADAPTERCTL_KEEP_WARM", raising=False)
    if given is not None:
        monkeypatch.setenv("ADAPTERCTL_KEEP_WARM", given)
    assert config.keep_warm_s() == seconds


@pytest.mark.parametrize("given", ["-1", "nan", "inf", "5m", "86401"])
def test_a_time_to_stay_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("ADAPTERCTL_KEEP_WARM", given)
    with pytest.raises(InvalidInput, match=r"ADAPTERCTL_KEEP_WARM is .* set it to seconds"):
        config.keep_warm_s()

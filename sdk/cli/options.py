"""Values that more than one command reads from its options."""

from __future__ import annotations

from collections.abc import Iterable

import click


def parse_tags(pairs: Iterable[str]) -> dict[str, str]:
    """Return tags from `KEY=VALUE`. Raises BadParameter for a pair without '='."""
    tags = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise click.BadParameter(f"{pair[:80]!a} is no tag; write KEY=VALUE", param_hint="--tag")
        tags[key] = value
    return tags

"""Fixtures of every test: real servers from wheels, started when a test first asks."""

from __future__ import annotations

pytest_plugins = ["support.fixtures"]

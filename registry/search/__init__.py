"""The room of search: a small language of filters over versions."""

"""Adapters and models as files of other programs: GGUF, for llama.cpp. Needs numpy and gguf; no torch."""

"""An adapter or a model in the form of another program: GGUF, as llama.cpp reads it. Needs numpy and gguf; no torch."""

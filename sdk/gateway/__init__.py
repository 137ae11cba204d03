"""An OpenAI-compatible gateway in front of an inference engine: it resolves aliases, proves what it loads, and keeps each request on
its version.
"""

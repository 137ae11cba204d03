"""The registry's HTTP API, over HTTP or in process: one file a noun, one typed function a route.

Each function sends one request and returns what the registry answers; it raises what the registry refuses, and
Unavailable where nothing answers. Values are checked by who calls it.
"""

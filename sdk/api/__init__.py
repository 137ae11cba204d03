"""The registry's HTTP API, over HTTP or in process: one file per subject, one typed call per route.

Each function sends one request and returns the registry's answer. It raises the error with which the registry refuses,
and Unavailable if nothing answers. Callers check the values.
"""

"""From a ref to a folder. Light to import: a pull can be done before pydantic would even be imported.

The room is not called `pull`, because `sdk.pull` is the function.
"""

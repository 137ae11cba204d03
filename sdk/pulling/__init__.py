"""From a ref to a folder: light to import, so that a pull is done before pydantic would be imported.

The room is not called `pull`, because `sdk.pull` is the function.
"""

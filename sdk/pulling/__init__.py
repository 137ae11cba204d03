"""From a ref to a folder: light to import, so that a pull is over before pydantic would be there.

The room is not called `pull`, because `sdk.pull` is the function.
"""

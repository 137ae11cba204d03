"""From a folder to a version: packed, checked, and sent.

The room is not called `push`, because `sdk.push` is the function.
"""

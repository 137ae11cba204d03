"""Facts about versions, derived from their records and files: which engines can serve them, their effect, how two
differ.
"""

"""What `adapterctl example` writes: for each example its rows, a training's options, and a page whose commands run.

The rows are functions of the Python standard library, under the licence of Python (PSF-2.0); all else is ours.
`examples/rows.py` in the repository has made them.
"""

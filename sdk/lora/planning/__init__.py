"""What a training will take, before it is started: parameters, bytes on disk, memory by part, cards, and which options
to choose.

Everything here is arithmetic on the shapes of a base: no weights, no GPU, no torch.
"""

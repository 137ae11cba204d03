"""What a training takes before it is started: parameters, bytes on disk, memory by part, cards, and what to choose.

Everything here is arithmetic on the shapes of a base: no weights, no card, no torch.
"""

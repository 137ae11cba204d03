"""Combining adapters of one base, ΔW = Σ wᵢ·ΔWᵢ."""

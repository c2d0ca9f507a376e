"""Iterated distillation and amplification: rounds of correcting a model's answers and learning from that."""

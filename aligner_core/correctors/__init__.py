"""Correctors: whatever maps a question and an answer to a correction, from a trained Aligner to a plain refusal."""

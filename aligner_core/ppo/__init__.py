"""Proximal policy optimization of a language model: rollouts, advantages, losses, and the loop that joins them."""

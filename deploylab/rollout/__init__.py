"""Rollouts: what they are made of, how they go on, and who judges them."""

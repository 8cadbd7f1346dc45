"""Checkpoints, found, opened or made of random weights. Imports model and storage."""

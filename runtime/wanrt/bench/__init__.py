"""Engines measured in rounds beside their baseline. Imports backends, results and what is below."""

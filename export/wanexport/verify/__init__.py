"""Outputs of an engine against diffusers' model. Imports weights and what is below."""

"""Engines on TensorRT and TensorRT-RTX. Imports engine and what is below."""

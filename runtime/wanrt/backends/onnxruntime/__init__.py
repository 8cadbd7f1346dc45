"""Engines on ONNX Runtime. Imports engine and what is below."""

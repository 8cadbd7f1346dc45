"""The DiT traced without weights, and the passes over its graph. Imports model and storage."""

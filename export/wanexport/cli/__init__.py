"""The command `wanexport`: flags in, text out. Imports everything, and nothing imports it."""

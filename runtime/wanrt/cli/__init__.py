"""The command `wanrt`: flags in, text out. Imports everything, and nothing imports it."""

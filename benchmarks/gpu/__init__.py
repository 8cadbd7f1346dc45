"""Every number that a GPU can give, in one command: `make bench-gpu`."""

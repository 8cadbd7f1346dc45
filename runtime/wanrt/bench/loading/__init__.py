"""What a bench loads, here or in a process of its own. Imports backends and what is below."""

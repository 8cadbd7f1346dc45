"""What executes an engine. Imports engine and what is below, `load` alone names the backends."""

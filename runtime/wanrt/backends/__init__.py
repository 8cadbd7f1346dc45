"""What executes an engine. Imports engine and what is below; only `load` names the backends."""

"""A long attack on both commands: kills at random times and generated bad inputs, counted."""

"""Whether wanexport works with the oldest and the newest versions that pyproject.toml allows."""

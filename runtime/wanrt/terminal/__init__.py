"""What a terminal shows: units, wrapped lines and progress. Imports only errors."""

"""What a terminal shows: units, wrapped lines and progress. Imports nothing of wanrt."""

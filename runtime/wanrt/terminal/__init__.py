"""What a terminal shows: units and progress. Imports nothing of wanrt."""

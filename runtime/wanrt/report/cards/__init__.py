"""What several cards found, as text, Markdown, CSV and JSON."""

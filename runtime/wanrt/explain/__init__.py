"""What a builder made of a graph, read as data. Imports storage and errors."""

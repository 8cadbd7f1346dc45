"""What a builder made of a graph, read from its plan. Imports storage and errors."""

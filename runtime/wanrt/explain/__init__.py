"""What became of a graph, read from its plan or its profile. Imports backends and what is below."""

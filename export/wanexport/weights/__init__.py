"""A graph's weights: linked, pooled or written. Imports lora, graph, model, storage."""

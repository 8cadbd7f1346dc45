"""TensorRT plans built in a process of their own. Imports graph, model and storage."""

"""Forms of a finished graph that TensorRT's builder can fuse; imports `graph.rewrite` alone."""

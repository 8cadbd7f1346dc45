"""One `wanexport build`: from a request to engine folders. Imports every package but cli."""

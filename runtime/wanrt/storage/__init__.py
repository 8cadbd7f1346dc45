"""Files, JSON, dtypes and hub paths as bytes and names. Imports only errors."""

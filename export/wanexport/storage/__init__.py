"""Bytes on disk: files, hashes, links, locks; knows no model and imports only errors."""

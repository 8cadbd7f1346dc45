"""LoRA files of every dialect, resolved key by key; canonical adapters. Imports model, storage."""

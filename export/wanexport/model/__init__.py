"""What a Wan2.1 DiT is: sizes, parameter names, configurations; no torch. Imports storage."""

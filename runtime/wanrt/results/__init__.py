"""What a bench measured and what may be claimed of it. Imports machine and storage."""

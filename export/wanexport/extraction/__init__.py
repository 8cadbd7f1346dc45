"""LoRAs out of a full fine-tune, of every rank at once; and LoRA files at smaller ranks."""

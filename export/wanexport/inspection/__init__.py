"""What a LoRA or checkpoint file holds, and what of it would be applied where."""

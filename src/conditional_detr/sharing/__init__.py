"""Push a model with its card to the Hugging Face Hub."""

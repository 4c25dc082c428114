"""What executes models: `torch`, and `python` for models without tensors."""

"""Pretrained text encoders: found by name, read without running foreign code, run on ragged batches.

`settings` has what a user may ask for and imports nothing heavy. `loading.load_backbone` finds and reads a backbone,
`encoder.TextEncoder` runs it, `adapters` puts LoRA weights on it.
"""

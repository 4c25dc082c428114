"""Text encoders: found by name and read without running foreign code, or made from scratch, and run on ragged batches.

`settings` has what a user may ask for and imports nothing heavy. `loading.load_backbone` finds and reads a backbone,
`from_scratch.new_backbone` makes one without pretrained weights, `encoder.TextEncoder` runs it, `adapters` puts LoRA weights on
it.
"""

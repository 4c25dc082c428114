"""Image classification: the labels of a JPEG, PNG or WebP file."""

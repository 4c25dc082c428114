"""What executes models: `torch`, `onnx` and `openvino`, and `python` for models without tensors."""

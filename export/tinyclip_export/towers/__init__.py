"""open_clip's encoders as modules that torch.onnx exports cleanly."""

"""What an export leaves behind and an Engine reads: `.onnx` files, plans and their sidecars."""

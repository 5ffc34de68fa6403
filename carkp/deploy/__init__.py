"""Float and int8 ONNX files and their execution."""

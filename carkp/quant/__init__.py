"""Post-training quantisation, quantisation-aware training, the int8 program and its integer simulator."""

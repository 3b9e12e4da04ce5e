"""Packed networks in the forms of other programs: StableHLO, ONNX and C."""

"""What the functions of a device compute, behind one protocol: `model.FunctionModel`."""

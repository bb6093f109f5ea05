"""What the code means: names, values, loops, gradient mode, dataflow, knowledge of torch and its frameworks."""

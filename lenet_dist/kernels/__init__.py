"""LeNet-5 on a CPU in C++: its source, how it is compiled, and its front in Python."""

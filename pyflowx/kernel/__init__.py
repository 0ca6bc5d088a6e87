"""IO with the kernel: compile, load, attach, and maps as arrays."""

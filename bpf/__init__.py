"""The C sources of the BPF programs, as data files."""

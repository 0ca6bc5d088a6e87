"""IO: UDP sockets in batches and capture files."""

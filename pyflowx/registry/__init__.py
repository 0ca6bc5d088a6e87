"""The registry of Information Elements: data files, read by pyflowx.elements."""

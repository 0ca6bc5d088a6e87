"""The Textual application. Its modules import each other relatively: the folder is installed as ``pyflowx_tui``."""

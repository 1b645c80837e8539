"""A process supervisor that understands GPUs."""

__version__ = "0.1.0"

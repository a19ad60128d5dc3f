"""daxmend: recovery from media errors in persistent memory and memory-mapped files."""

__version__ = "0.1.0"

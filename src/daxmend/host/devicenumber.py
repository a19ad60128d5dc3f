"""Device numbers as 32-bit fields of kernel structures have them (`new_encode_dev`)."""

import os


def encode_device(number: int) -> int:
    """What the kernel calls the device of that number (st_dev, st_rdev)."""
    major, minor = os.major(number), os.minor(number)
    return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12


def decode_device(encoded: int) -> int:
    """The number of the device that the kernel calls so."""
    return os.makedev(encoded >> 8 & 0xFFF, encoded & 0xFF | encoded >> 12 & 0xFFF00)

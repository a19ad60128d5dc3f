"""What a file loses when somebody else changes it, so that nobody's bytes run with its rights."""

import stat

CAPABILITY_NAME = b"security.capability"  # the xattr that goes, too


def without_privileges(mode: int) -> int:
    """The mode of a regular file without suid, and without sgid where its group may run it.

    Without that right of the group, sgid marked mandatory locks, and stays.
    """
    kept = mode & ~stat.S_ISUID
    return kept & ~stat.S_ISGID if mode & stat.S_IXGRP else kept

"""What is made in a folder in which a group may write is that group's as well, whatever umask and group its maker has.

So the agent and the tasks of a host may be different users who have a group in common: each reads, moves and replaces
what the others made. In any other folder, as ours are made, nothing is anybody else's.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import Union

__all__ = ["share"]


def share(made: Union[int, str], folder: str) -> None:
    """Give what was made its folder's group, and the rights that the group has there.

    Args:
        made: descriptor of the file, or path of the folder.
        folder: path of the folder that it is in.

    Raises:
        OSError: the folder is gone, or its file system does not know such rights.
    """
    outer = os.stat(folder)
    if not outer.st_mode & stat.S_IWGRP:
        return
    inner = os.stat(made)
    if inner.st_uid != os.geteuid():
        return  # somebody else has made it
    if inner.st_gid != outer.st_gid:
        # Who is not in that group is in the folder by another right, and so may others be.
        with suppress(PermissionError):
            os.chown(made, -1, outer.st_gid)
    mode = outer.st_mode & 0o7777 if stat.S_ISDIR(inner.st_mode) else 0o600 | outer.st_mode & 0o060
    if inner.st_mode & 0o7777 != mode:
        os.chmod(made, mode)

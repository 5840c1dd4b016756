"""Which file system a path is on."""

import re
from pathlib import Path

_MOUNTS = Path("/proc/self/mounts")
"""Linux's list; other systems have none, and nothing is known there."""
_NETWORK = {
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.gcsfuse", "fuse.glusterfs",
    "fuse.s3fs", "fuse.sshfs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "orangefs",
    "panfs", "pvfs2", "smb3", "smbfs", "wekafs",
}  # fmt: skip
"""Names, as Linux has them, of file systems whose locks SQLite cannot rely on."""


def network_file_system(path: Path) -> str | None:
    """Return the name of the network file system a path is on; None if it is on none."""
    try:
        lines = _MOUNTS.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None
    place, found, longest = path.resolve(), "", -1
    for line in lines:
        _, point, kind, *_ = line.split(" ")
        mounted = Path(_plain(point))
        # Of several at one place the last one counts: it hides the others.
        if place.is_relative_to(mounted) and len(mounted.parts) >= longest:
            found, longest = kind, len(mounted.parts)
    return found if found in _NETWORK else None


def _plain(text: str) -> str:
    """Undo the kernel's way of writing spaces, as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)

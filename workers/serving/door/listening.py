"""The socket of an engine program: only its owner can connect, and only one program listens."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from workers.serving.door.refusals import RequestRefused

#: What Linux allows of a path (unix(7)), with the zero at its end.
_MOST_PATH_BYTES = 107
_WAITING = 128


class ListeningSocket:
    """A socket at a path, which is free again when this is closed."""

    def __init__(self, path: Path) -> None:
        """Bind it; nobody can connect before `listen`. Raises RequestRefused if the path can't be used safely."""
        self.path = path
        if len(os.fsencode(path)) > _MOST_PATH_BYTES:
            raise _unusable(f"has more than {_MOST_PATH_BYTES} bytes; choose a shorter one")
        _require_private(path.parent)
        _remove_dead(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            self.socket.bind(os.fspath(path))
        except OSError as error:
            self.socket.close()
            raise _unusable(f"can't be made ({error.strerror}); choose another one") from error
        finally:
            os.umask(before)
        self._inode = path.stat().st_ino

    def listen(self) -> None:
        """Let clients connect."""
        self.socket.listen(_WAITING)

    def close(self) -> None:
        """Close it, and remove its path unless another program has taken it."""
        self.socket.close()
        try:
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        except FileNotFoundError:
            return


def _require_private(folder: Path) -> None:
    try:
        found = folder.stat()
    except OSError as error:
        raise _unusable(f"lies in a folder that can't be entered ({error.strerror}); make it first") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise _unusable("must lie in a folder of this user that nobody else can enter; run: chmod 700 on it")


def _remove_dead(path: Path) -> None:
    """Remove the socket of a program that has ended."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            if stat.S_ISSOCK(path.lstat().st_mode):
                path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise _unusable(f"can't be looked at ({error.strerror}); choose another one") from error
    raise _unusable("is that of a program that runs; end it, or choose another one")


def _unusable(what: str) -> RequestRefused:
    return RequestRefused(409, "socket", f"the path of the socket {what}")

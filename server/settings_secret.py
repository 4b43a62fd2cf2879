"""The signing secret of a server that was given none: made once, kept in a file of its own."""

import logging
import os
import secrets
import stat
import tempfile
from pathlib import Path

from server.settings_load import Problem, SettingsError
from server.settings_rules import SECRET_BYTES

FILE_NAME = "auth.secret"

_log = logging.getLogger(__name__)


def load_or_create_secret(directory: Path) -> str:
    """The secret in `auth.secret` of a directory; the first call makes both (32 random bytes, mode 0600).

    Processes that start together get the same one. Raises `SettingsError` if the file cannot be made or used.
    """
    path = directory / FILE_NAME
    try:
        if not path.exists():
            _create(path)
        secret = _read(path)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise _error(f"none is given, and {path} cannot be used: {reason}") from None
    if len(secret.encode()) < SECRET_BYTES:
        raise _error(f"{path} has less than {SECRET_BYTES} bytes: remove it, and a new one is made")
    return secret


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written aside (mkstemp is O_EXCL and 0600), then linked: the name shows the whole secret or nothing, and
    # the first link wins.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{FILE_NAME}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(SECRET_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
        _log.warning("auth.secret is not set: made a random one in %s", path)
    except FileExistsError:
        pass
    finally:
        Path(temporary).unlink()


def _read(path: Path) -> str:
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if os.name == "posix" and mode & 0o077:
            os.fchmod(file.fileno(), 0o600)
            _log.warning("%s could be read by others (mode %o): it is 0600 now", path, mode)
        return file.read(4096).decode().strip()


def _error(message: str) -> SettingsError:
    return SettingsError([Problem(key="auth.secret", message=f"{message}; or set TERTULIA_AUTH__SECRET")])

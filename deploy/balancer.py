"""`nginx.conf` for a balancer of one's own: with other addresses, and all that it writes in one folder."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

TEMPLATE = Path(__file__).parent / "nginx.conf"
# What nginx keeps files in; where it was built to keep them, only root may write.
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
_LISTEN = "listen 80;"
_SERVERS = ("server 127.0.0.1:8081 max_fails=0;", "server 127.0.0.1:8082 max_fails=0;")


def find_nginx() -> str | None:
    """The program: on the PATH, or where Debian keeps it, which is not on the PATH of all."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def configure(folder: Path, *, listen: str, servers: Sequence[str]) -> Path:
    """Write the file; `listen` and `servers` are HOST:PORT. The rest is as it is delivered.

    Raises ValueError if `nginx.conf` no longer holds what is replaced here.
    """
    temporary = "".join(f"\n    {each}_temp_path {folder}/{each};" for each in _TEMPORARY)
    text = TEMPLATE.read_text(encoding="utf-8")
    for old, new in (
        ("pid /run/nginx.pid;", f"pid {folder}/nginx.pid;"),
        ("/var/log/nginx/", f"{folder}/"),
        ("\nhttp {", f"\nhttp {{{temporary}"),
        (f"\n        {_LISTEN}", f"\n        listen {listen};"),
        (_SERVERS[0], "\n        ".join(f"server {each} max_fails=0;" for each in servers)),
        (f"\n        {_SERVERS[1]}", ""),
    ):
        if old not in text:
            raise ValueError(f"{TEMPLATE.name} has no {old.strip()!r}")
        text = text.replace(old, new)
    path = folder / "nginx.conf"
    path.write_text(text, encoding="utf-8")
    return path


def command(nginx: str, config: Path) -> list[str]:
    """How to start it in the foreground; SIGTERM ends it, SIGHUP has it read its file again."""
    # Only root may choose a user, and a worker of another one could not write to the folder.
    directives = "daemon off; user root;" if os.geteuid() == 0 else "daemon off;"
    # -e: what is wrong before the file is read.
    return [nginx, "-e", "stderr", "-p", str(config.parent), "-c", str(config), "-g", directives]

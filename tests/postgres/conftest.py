"""A PostgreSQL server of the tests' own, on a free port, with its data in a temporary folder."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import pytest

REQUIRED = bool(os.environ.get("LMO_TRANSFER_REQUIRE_POSTGRES"))
"""Whether a machine without the server fails the tests, as in continuous integration."""
_DEBIAN = "/usr/lib/postgresql"
PASSWORD = "s3cret-{0}%/@:ö"
"""With everything that a URL, or Optuna's template of one, could stumble over."""


class Server:
    """Starts and stops one server; it refuses to be run by root, so `postgres` runs it then."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder = programs, folder
        self._as = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def make(self) -> None:
        """Make the server's files."""
        secret = self._folder / "secret"
        secret.write_text(PASSWORD, "utf-8")
        if self._as:
            for path in (self._folder, secret):
                shutil.chown(path, "postgres")
        options = ["-U", "lmo", "-A", "scram-sha-256", "--no-sync", "-E", "UTF8", "--locale=C"]
        self._do("initdb", "-D", self._data(), "--pwfile", str(secret), *options)
        secret.unlink()

    def start(self) -> None:
        """Return when the server answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c fsync=off"
        options += f" -c unix_socket_directories={self._folder}"
        log = str(self._folder / "log")
        self._do("pg_ctl", "-D", self._data(), "-w", "-l", log, "-o", options, "start")

    def stop(self) -> None:
        """End the server, with all that is connected, as if it were killed."""
        self._do("pg_ctl", "-D", self._data(), "-w", "-m", "immediate", "stop")

    def runs(self) -> bool:
        """Whether it was started and not stopped."""
        return (self._folder / "data" / "postmaster.pid").exists()

    def url(self, password: str = PASSWORD) -> str:
        """Return what a user would put into the environment."""
        secret = quote(password, safe="")
        return f"postgresql://lmo:{secret}@127.0.0.1:{self.port}/postgres"

    def _data(self) -> str:
        return str(self._folder / "data")

    def _do(self, program: str, *arguments: str) -> None:
        command = [*self._as, str(self._programs / program), *arguments]
        out = self._folder.with_name(self._folder.name + ".out")
        with out.open("wb") as file:  # no pipe: the server would keep it open
            code = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd="/", timeout=60
            ).returncode
        words = out.read_text("utf-8", "replace")
        out.unlink()
        assert code == 0, f"{program}: {words}"


def _programs() -> Path | None:
    """Return the folder of the newest server's programs."""
    found = sorted(Path(_DEBIAN).glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    there = shutil.which("initdb")
    return Path(there).resolve().parent if there else None


def _lacking() -> str | None:
    """Say what these tests lack here."""
    if _programs() is None:
        return f"no PostgreSQL server: no initdb on PATH or below {_DEBIAN}"
    if find_spec("psycopg") is None:
        return "psycopg is not installed: pip install 'lmo-transfer[postgres]'"
    if os.getuid() == 0 and shutil.which("runuser") is None:
        return "PostgreSQL refuses root, and there is no runuser"
    return None


@pytest.fixture(scope="session")
def _server() -> Iterator[Server]:
    reason = _lacking()
    if reason is not None:
        (pytest.fail if REQUIRED else pytest.skip)(reason)
    programs = _programs()
    assert programs is not None
    # Not below pytest's folders, which are closed to other users.
    folder = Path(tempfile.mkdtemp(prefix="lmo-postgres-"))
    server = Server(programs, folder)
    try:
        server.make()
        server.start()
        yield server
    finally:
        if server.runs():
            server.stop()
        shutil.rmtree(folder)


@pytest.fixture
def server(_server: Server) -> Server:
    """The server, running, whatever the test before did to it."""
    if not _server.runs():
        _server.start()
    return _server

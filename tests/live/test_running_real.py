"""run() with programs as they are installed: servers, interpreters, pools."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from oracle import targets
from pytest_pmaps import Run, run

PATIENCE = 60.0


def need(program: str, package: str) -> str:
    """Where a program is; skips where it is not."""
    found = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"needs {program}, of Debian's package {package}")
    return found


def is_whole(result: Run) -> None:
    """Captured at both ends, and nothing moved at the last."""
    assert result.at["exec"].verdict.complete
    assert result.at["exit"].verdict.complete
    assert not result.at["exit"].verdict.raced
    assert result.peak_rss >= result.at["exit"].rss.bytes.bounds[0] // 4096
    assert result.notes == ()


def free_port() -> int:
    """One that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def while_it_runs(talk: Callable[[], Any], *args: Any, **options: Any) -> tuple[Run, Any]:
    """Run a server in a thread, and talk to it from here."""
    results: list[Run | BaseException] = []

    def serve() -> None:
        try:
            results.append(run(*args, timeout=PATIENCE, **options))
        except BaseException as exc:
            results.append(exc)

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        said = talk()
    finally:
        serving.join(PATIENCE * 2)
    (result,) = results
    if isinstance(result, BaseException):
        raise result
    return result, said


def connected(port: int) -> socket.socket:
    """To a server, as soon as it listens."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with suppress(OSError):
            return socket.create_connection(("127.0.0.1", port), 10)
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_sqlite():
    """Its answer, its status, its memory."""
    sqlite = need("sqlite3", "sqlite3")
    query = "create table t(x); insert into t values(6*7); select x from t;"
    result = run([sqlite, ":memory:"], input=query, text=True, capture_output=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "42\n", "")
    is_whole(result)
    assert result.at["exit"]["libc"].rss > 0


def test_node():
    """Many threads, ended all at once."""
    node = need("node", "nodejs")
    code = "const kept = Buffer.alloc(20 << 20, 1); setTimeout(() => process.exit(kept[5]), 20)"
    result = run([node, "-e", code], timeout=PATIENCE)
    assert result.returncode == 1
    is_whole(result)
    assert result.at["exit"].anonymous >= "20 MiB"
    assert result.peak_rss >= "20 MiB"


def test_redis_saves_in_the_background(tmp_path: Path):
    """The child that saves shares its parent's pages, and both are seen to their ends."""
    redis = need("redis-server", "redis-server")
    port = free_port()

    def talk() -> list[bytes]:
        said = []
        with connected(port) as server:
            file = server.makefile("rwb")
            for command in (b"DEBUG POPULATE 20000 key 100", b"BGSAVE"):
                file.write(command + b"\r\n")
                file.flush()
                said.append(file.readline())
            while True:
                file.write(b"LASTSAVE\r\nINFO persistence\r\n")
                file.flush()
                file.readline()
                length = int(file.readline()[1:])
                info = file.read(length + 2)
                if b"rdb_bgsave_in_progress:0" in info and b"rdb_saves:1" in info:
                    break
                time.sleep(0.01)
            said.append(info)
            file.write(b"SHUTDOWN NOSAVE\r\n")
            file.flush()
        return said

    args = [redis, "--port", str(port), "--save", "", "--dir", str(tmp_path)]
    args += ["--enable-debug-command", "yes", "--bind", "127.0.0.1"]
    result, said = while_it_runs(talk, args, follow=True, stdout=subprocess.DEVNULL)
    assert said[1].startswith(b"+Background")
    assert b"rdb_last_bgsave_status:ok" in said[2]
    assert result.returncode == 0
    is_whole(result)
    saver = next(child for child in result.children if child.ppid == result.pid)
    assert saver.returncode == 0
    assert saver.at["exit"].verdict.complete
    # What was written since the fork is few; the rest is its parent's still.
    assert saver.at["exit"].shared >= saver.at["exit"].private_dirty


def test_nginx_and_its_workers(tmp_path: Path):
    """Master and workers, each at its end, after they have served."""
    nginx = need("nginx", "nginx-light")
    port = free_port()
    conf = tmp_path / "nginx.conf"
    conf.write_text(
        f"daemon off; worker_processes 2; pid {tmp_path}/pid; error_log {tmp_path}/log;\n"
        + ("user root;\n" if os.geteuid() == 0 else "")
        + "events {} http { access_log off; server { "
        + f"listen 127.0.0.1:{port}; return 204; }} }}\n"
    )

    def talk() -> bytes:
        with connected(port) as server:
            server.sendall(b"GET / HTTP/1.0\r\n\r\n")
            said = server.recv(100)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGQUIT)
        return said

    args = [nginx, "-p", str(tmp_path), "-c", str(conf), "-e", str(tmp_path / "log")]
    result, said = while_it_runs(talk, args, follow=True)
    assert b"204" in said
    assert result.returncode == 0
    is_whole(result)
    assert [child.returncode for child in result.children] == [0, 0]
    for worker in result.children:
        assert worker.at["exit"]["nginx.text"].rss > 0


def test_postgres_makes_a_cluster():
    """initdb with all that it starts, as an ordinary user."""
    initdb = need("initdb", "postgresql")
    own: dict[str, Any] = {}
    with targets.public_dir() as folder:
        if os.geteuid() == 0:
            own = {"user": targets.NOBODY, "group": targets.NOBODY, "extra_groups": []}
            os.chown(folder, targets.NOBODY, targets.NOBODY)
        args = [initdb, "-D", str(folder / "cluster"), "-N", "-U", "postgres"]
        plain = subprocess.run(
            [*args[:2], str(folder / "x"), *args[3:]], capture_output=True, **own
        )
        if plain.returncode:
            pytest.skip(f"needs an initdb that works here: {plain.stderr[-200:]!r}")
        result = run(args, follow=True, depth="mappings", capture_output=True, **own)
    assert result.returncode == 0, result.stderr
    names = {os.path.basename(child.args[0]) for child in result.children if child.args}
    assert "postgres" in names
    assert all(child.returncode is not None for child in result.children)


POOL = """
import json, multiprocessing, os, sys
def work(n):
    kept = bytearray(n << 20)
    return os.getpid()
if __name__ == "__main__":
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        pids = pool.map(work, [4] * 8, chunksize=1)
        pool.close()
        pool.join()
    print(json.dumps(sorted(set(pids))))
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_pool(tmp_path: Path, method: str):
    """Of workers that do as they always do; each is seen at its end."""
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    args = [sys.executable, str(script), method]
    result = run(args, follow=True, stdout=subprocess.PIPE, timeout=PATIENCE)
    assert result.returncode == 0
    is_whole(result)
    workers = [c for c in result.children if c.pid in json.loads(result.stdout)]
    assert workers
    for worker in workers:
        assert worker.returncode == 0
        assert worker.at["exit"].verdict.complete
        assert worker.peak_rss >= "4 MiB"

"""Servers that fork: what their workers share, before and after."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oracle import reader, targets
from pytest_pmaps import Snapshot, Tree, tree

_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])


def need(name: str) -> str:
    """A program of this host."""
    path = shutil.which(name, path=_PATH)
    if path is None:
        pytest.skip(f"{name} is not installed here")
    return path


@contextmanager
def serving(command: list[str], **how: object) -> Iterator[subprocess.Popen[bytes]]:
    """A server in the foreground, in a process group of its own that is ended with it."""
    null = subprocess.DEVNULL
    with subprocess.Popen(
        command, stdin=null, stdout=null, stderr=null, process_group=0, cwd="/", **how
    ) as process:
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def until(found: Callable[[], object], seconds: float = 20) -> None:
    """Wait for something to be so."""
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def sees_frames() -> bool:
    """Whether the independent reader can tell one page from another."""
    try:
        reader.require_frames()
    except reader.Unavailable:
        return False
    return True


def still(root: object) -> Tree:
    """A tree that held still, or the last that was tried."""
    for _ in range(20):
        taken = tree(root)
        if not taken.verdict.raced:
            break
        time.sleep(0.05)
    return taken


def check_reconciles(taken: Tree) -> None:
    """The whole is made of its members, and each of what the kernel says of it."""
    for each in taken:
        assert each.verdict.reconciled, each.verdict.reasons
        assert each.rss.bytes.exact
    assert taken.sum_rss == sum((each.rss for each in taken), start=0)
    lo, hi = taken.unique_rss.bytes.bounds
    assert lo is not None
    assert hi is not None
    assert lo <= (taken.sum_rss.bytes.bounds[0] or 0)
    if sees_frames() and not taken.verdict.raced:
        frames = {
            page.frame
            for each in taken
            for mapping in reader.read(each.pid).mappings
            for page in mapping.pages
            if page.normal
        }
        assert lo <= len(frames) * reader.PAGE <= hi


def talk(path: Path, *words: str) -> bytes:
    """Say something to redis; its first answer."""
    text = "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(path))
        sock.sendall(f"*{len(words)}\r\n{text}".encode())
        return sock.recv(4096)


def redis_child(process: subprocess.Popen[bytes]) -> Snapshot | None:
    """The process that saves in the background."""
    children = tree(process).children
    return children[0] if children else None


def test_redis_saves_in_the_background(public: Path):
    """The child shares the data set with its parent, and less of it once that was written to."""
    reader.require_frames()
    sock = public / "redis.sock"
    command = [need("redis-server"), "--port", "0", "--unixsocket", str(sock), "--save", ""]
    command += ["--dir", str(public), "--rdb-key-save-delay", "2000", "--enable-debug-command"]
    with serving([*command, "yes"]) as process:
        until(sock.exists)
        until(lambda: talk(sock, "PING").startswith(b"+PONG"))
        talk(sock, "DEBUG", "POPULATE", "20000", "key", "400")
        assert len(still(process)) == 1
        assert b"Background saving started" in talk(sock, "BGSAVE")
        until(lambda: redis_child(process))
        before = tree(process)
        (saver,) = before.children
        anonymous = before.root.anonymous
        assert anonymous >= "8 MiB"
        assert saver.shared_with(before.root) >= 0.8
        for n in range(0, 20000, 4):
            if n % 1000 == 0:
                talk(sock, "EVAL", _REWRITE, "0", str(n))
        after = tree(process)
        change = after - before
        assert change.stayed == (process.pid, saver.pid)
        # What the parent wrote it had to copy: the child keeps the old pages, now its own.
        copied = change[process.pid].uss
        assert copied >= "1 MiB"
        left = after.children[0].shared_with(after.root)
        assert left < saver.shared_with(before.root)
        check_reconciles(still(process))
        talk(sock, "SHUTDOWN", "NOSAVE", "FORCE")


_REWRITE = """
for i = tonumber(ARGV[1]), tonumber(ARGV[1]) + 999 do
    redis.call('SETRANGE', 'key:' .. i, 0, 'written')
end
return 1
"""


def test_nginx_and_its_workers(public: Path):
    """A master that reads its configuration, and workers that are forked of it."""
    nginx = need("nginx")
    site = public / "nginx"
    site.mkdir(exist_ok=True)
    config = site / "nginx.conf"
    config.write_text(
        f"daemon off; worker_processes 3; pid {site}/pid; error_log {site}/error.log;\n"
        "events { worker_connections 64; }\n"
        f"http {{ access_log off; client_body_temp_path {site}/a; proxy_temp_path {site}/b;\n"
        f"fastcgi_temp_path {site}/c; uwsgi_temp_path {site}/d; scgi_temp_path {site}/e;\n"
        f"server {{ listen unix:{site}/sock; return 200 ok; }} }}\n"
    )
    with serving([nginx, "-e", str(site / "error.log"), "-p", str(site), "-c", str(config)]) as it:
        until(lambda: len(tree(it).children) == 3)
        for each in (it.pid, *(child.pid for child in tree(it).children)):
            targets.wait_idle(each)
        taken = still(it)
        assert len(taken) == 4
        check_reconciles(taken)
        for worker in taken.children:
            assert taken.parent_of(worker) is taken.root
            text = worker["nginx.text"]
            assert text.dirty == 0
            if sees_frames():
                assert worker["[heap]"].shared_with(taken.root) >= 0.1
        assert taken["nginx"].unique_rss < taken["nginx"].sum_rss


def test_postgres_and_its_processes(public: Path):
    """Shared buffers count once, however many map them."""
    need("postgres")
    programs = {p.name: p for p in targets.real_programs(public)}
    if "postgres" not in programs:
        pytest.skip("no database cluster can be made here (initdb, as another user than root)")
    data = public / "pgdata"
    command = [*targets.as_user(targets.NOBODY), need("postgres"), "-D", str(data)]
    command += ["-c", "listen_addresses=", "-c", f"unix_socket_directories={data}"]
    with serving([*command, "-c", "shared_buffers=64MB"]) as it:
        until(lambda: len(tree(it).children) >= 3)
        for each in tree(it):
            targets.wait_idle(each.pid)
        taken = still(it)
        check_reconciles(taken)
        assert taken["postgres"].unique_rss < taken["postgres"].sum_rss


def test_node_and_a_child():
    """A runtime with threads, and a program that it started."""
    code = "require('child_process').spawn('cat', {stdio: ['pipe', 'ignore', 'ignore']})"
    with serving([need("node"), "-e", code]) as it:
        until(lambda: len(tree(it).children) == 1)
        for each in tree(it):
            targets.wait_idle(each.pid)
        taken = still(it)
        assert [each.comm for each in taken] == ["node", "cat"]
        check_reconciles(taken)
        assert taken.root["[anon]"].rss > taken.children[0].rss

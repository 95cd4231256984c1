"""``run()``: a program run to its end, and captured at the moments that matter."""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from numbers import Real
from typing import Any, Unpack, overload

from .capture import DepthName, depth_of
from .checkpoints import VARIABLE
from .following import Follower
from .launching import (
    Args,
    Command,
    Environment,
    Launched,
    Options,
    Path,
    check_privilege,
    pinned,
    readable,
)
from .model import Depth
from .moments import TRACED, Moments, Run, Runs
from .stopping import may_trace_all
from .watching import Listener, Watch

__all__ = ["run"]


@overload
def run(
    args: Args,
    *,
    at: Iterable[str] | None = None,
    every: float | None = None,
    follow: bool = False,
    trace: bool = True,
    depth: Depth | DepthName = "full",
    sample_depth: Depth | DepthName = "totals",
    timeout: float | None = None,
    check: bool = False,
    input: Any = None,
    capture_output: bool = False,
    env: Environment | None = None,
    shell: bool = False,
    executable: Path | None = None,
    aslr: bool | None = None,
    pin: bool | Mapping[str, str] = False,
    repeat: None = None,
    **options: Unpack[Options],
) -> Run: ...
@overload
def run(
    args: Args,
    *,
    at: Iterable[str] | None = None,
    every: float | None = None,
    follow: bool = False,
    trace: bool = True,
    depth: Depth | DepthName = "full",
    sample_depth: Depth | DepthName = "totals",
    timeout: float | None = None,
    check: bool = False,
    input: Any = None,
    capture_output: bool = False,
    env: Environment | None = None,
    shell: bool = False,
    executable: Path | None = None,
    aslr: bool | None = None,
    pin: bool | Mapping[str, str] = False,
    repeat: int,
    **options: Unpack[Options],
) -> Runs: ...
def run(
    args: Args,
    *,
    at: Iterable[str] | None = None,
    every: float | None = None,
    follow: bool = False,
    trace: bool = True,
    depth: Depth | DepthName = "full",
    sample_depth: Depth | DepthName = "totals",
    timeout: float | None = None,
    check: bool = False,
    input: Any = None,  # noqa: A002  # subprocess calls it so
    capture_output: bool = False,
    env: Environment | None = None,
    shell: bool = False,
    executable: Path | None = None,
    aslr: bool | None = None,
    pin: bool | Mapping[str, str] = False,
    repeat: int | None = None,
    **options: Unpack[Options],
) -> Run | Runs:
    """Run a program to its end, and capture it on the way.

    Descriptors, environment, folder, session, user, ``input``, ``text``, ``timeout`` and
    ``check`` are ``subprocess.run``'s, as are the exceptions, which have what was seen until then
    as ``.run``.  The program is our own child, and its exit status is as it always was.

    ``at`` names moments: ``"exec"``, before the program has run its first instruction, after each
    exec, and ``"exit"``, right before its end, also by a signal or ``_exit``.  Names of
    checkpoints may be among them: those that never came raise then when they are looked up.
    Whatever calls :func:`~pytest_pmaps.checkpoint` is captured, named or not.
    ``every`` captures every so many seconds, at ``sample_depth``, while the program runs.
    ``follow`` captures its descendants as well.  ``depth`` is that of
    :func:`~pytest_pmaps.snapshot`.

    Being held needs ptrace.  ``trace=False`` does without, where that is refused or unwelcome:
    there is no "exec" or "exit" then, and ``peak_rss`` has no upper end.

    ``aslr=False`` asks for addresses that are not randomised; what was granted is in ``.aslr``.
    ``pin`` sets what makes memory differ from run to run: malloc's arenas and thresholds, glibc's
    tunables, PYTHONHASHSEED, no transparent huge pages, and no ASLR unless ``aslr`` says
    otherwise; a mapping changes or adds variables.  ``repeat=N`` gives N fresh runs.

    Raises AccessDenied or Unsupported where the program may not be followed, ValueError for
    options that make no sense, and what ``subprocess.run`` raises.
    """
    __tracebackhide__ = True
    if repeat is not None and repeat < 1:
        raise ValueError(f"repeat={repeat}: at least one run")
    _check_every(every)
    if capture_output and (options.get("stdout"), options.get("stderr")) != (None, None):
        raise ValueError("stdout and stderr arguments may not be used with capture_output.")
    if input is not None and options.get("stdin") is not None:
        raise ValueError("stdin and input arguments may not both be used.")
    if capture_output:
        options = {**options, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if input is not None:
        options = {**options, "stdin": subprocess.PIPE}
    names = _names(at, trace, follow)
    pins = pinned(env, pin)
    randomised = False if pin and aslr is None else aslr
    one = _One(
        args=args,
        command=Command.of(args, shell, executable, env),
        at=names,
        every=every,
        follow=follow,
        trace=trace,
        depths=(depth_of(depth), depth_of(sample_depth)),
        env={**(os.environ if env is None else readable(env)), **pins},
        how=("a" if randomised is False else "") + ("t" if pin else ""),
        pins=pins,
        options=options,
    )
    runs = [one.run(input, timeout, check) for _ in range(repeat or 1)]
    return runs[0] if repeat is None else Runs(runs)


def _names(at: Iterable[str] | None, trace: bool, follow: bool) -> tuple[str, ...]:
    __tracebackhide__ = True
    if at is None:
        return TRACED if trace else ()
    names = (at,) if isinstance(at, str) else tuple(at)
    _check_names(names)
    held = [name for name in TRACED if name in names]
    if held and not trace:
        raise ValueError(f"trace=False has no moment {held[0]!r}: the program is held by ptrace")
    return names


def _check_names(names: tuple[object, ...]) -> None:
    __tracebackhide__ = True
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"at is names of moments, and {name!r} is none")


def _check_every(every: object) -> None:
    __tracebackhide__ = True
    if every is None:
        return
    if not isinstance(every, Real):
        raise TypeError(f"every is a number of seconds, not {every!r}")
    if not 0 < float(every) < math.inf:
        raise ValueError(f"every={every}: seconds, more than 0")


class _One:
    """What to run, and how."""

    def __init__(
        self,
        *,
        args: Args,
        command: Command,
        at: tuple[str, ...],
        every: float | None,
        follow: bool,
        trace: bool,
        depths: tuple[Depth, Depth],
        env: dict[str, str],
        how: str,
        pins: dict[str, str],
        options: Options,
    ) -> None:
        __tracebackhide__ = True
        if follow and not trace:
            raise ValueError("follow=True is done by ptrace: not with trace=False")
        self._args, self._command = args, command
        self._at, self._every, self._follow, self._trace = at, every, follow, trace
        self._depths, self._env, self._how, self._pins = depths, env, how, pins
        self._options = options
        if trace:
            check_privilege(command, options.get("cwd"), may_trace_all=may_trace_all())

    def run(self, stdin: Any, timeout: float | None, check: bool) -> Run:
        __tracebackhide__ = True
        listener, launched = Listener(), Launched(self._command)
        follower = Follower() if self._trace else None
        watch = Watch(
            at=self._at,
            every=self._every,
            depth=self._depths[0],
            sample_depth=self._depths[1],
            follower=follower,
            listener=listener,
        )
        # A signal's handler may raise at any time, and none of them is started yet.  They end in
        # this order: only what nobody holds can be waited for.
        ends = [launched.kill, watch.end, launched.reap, listener.close]
        if follower:
            ends.insert(2, follower.close)
        with ExitStack() as stack:
            for end in reversed(ends):
                stack.callback(end)
            listener.open()
            self._start(launched, follower, listener)
            watch.begin(launched.process.pid, launched.personality)
            launched.go()
            return self._wait(launched, watch, stdin, timeout, check)

    def _start(self, launched: Launched, follower: Follower | None, listener: Listener) -> None:
        __tracebackhide__ = True
        env = {**self._env, VARIABLE: listener.path}
        if follower:
            follower.start()
        launched.start(env, self._how, follower.pid if follower else 0, self._options)
        if follower:
            follower.follow(launched.process.pid, tree=self._follow)

    def _wait(
        self,
        launched: Launched,
        watch: Watch,
        stdin: Any,
        timeout: float | None,
        check: bool,
    ) -> Run:
        """As subprocess.run does."""
        __tracebackhide__ = True
        process = launched.process
        try:
            stdout, stderr = process.communicate(stdin, timeout=timeout)
        except subprocess.TimeoutExpired as exc:
            process.kill()
            process.wait()
            watch.end()
            watch.check()
            exc.cmd = self._args
            exc.run = self._made(process, watch, exc.stdout, exc.stderr)  # type: ignore[attr-defined]  # ours to add
            raise
        watch.end()
        watch.check()
        launched.check()
        run = self._made(process, watch, stdout, stderr)
        if check:
            run.check_returncode()
        return run

    def _made(self, process: subprocess.Popen[Any], watch: Watch, stdout: Any, stderr: Any) -> Run:
        root = watch.root
        own = sorted(
            {id(m): m for m in [*root.moments, *watch.checkpoints]}.values(),
            key=lambda moment: moment.seconds,
        )
        missed = {name: self._why_missed(name) for name in self._at} | root.missed
        why = "let it be held at its exit: without trace=False, and undisturbed"
        return Run(
            args=self._args,
            pid=process.pid,
            returncode=process.returncode,
            stdout=stdout,
            stderr=stderr,
            at=Moments(own, missed),
            moments=tuple(watch.moments),
            samples=tuple(watch.samples),
            peak_rss=root.peak.count(why),
            children=tuple(child.child(why) for child in watch.processes),
            aslr=watch.aslr,
            pinned=self._pins,
            notes=tuple(watch.notes),
        )

    @staticmethod
    def _why_missed(name: str) -> str:
        if name in TRACED:
            return "the program ended before it was seen there"
        return "the program never reached this checkpoint"

"""Where run.json and saved maps go."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

__all__ = ["Directory"]


class Directory:
    """The folder of this session: as asked for, else in pytest's temporary folder.

    It is made when something is written.  Workers of pytest-xdist share the session's.
    """

    def __init__(self, given: Path | None, is_worker: bool) -> None:
        self._path = given
        self._is_worker = is_worker

    def find(self, request: pytest.FixtureRequest) -> None:
        """Learn where pytest's temporary folder is: only a fixture may ask."""
        if self._path is not None:
            return
        try:
            factory: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
        except pytest.FixtureLookupError:  # -p no:tmpdir
            return
        base = factory.getbasetemp()
        self._path = (base.parent if self._is_worker else base) / "pmaps"

    def tell(self, path: str) -> None:
        """A worker's folder, unless this knows better."""
        self._path = self._path or Path(path)

    @property
    def known(self) -> str:
        """Where it is, or ``""`` as long as nobody needed to know."""
        return str(self._path or "")

    def made(self) -> Path:
        """The folder, there to be written to."""
        if self._path is None:
            self._path = Path(tempfile.mkdtemp(prefix="pytest-pmaps-"))
        self._path.mkdir(parents=True, exist_ok=True)
        return self._path

    def reserve(self, stem: str) -> Path:
        """A name in ``maps/`` that no other process and no earlier run uses, made as an empty
        ``.pmaps`` file; the same stem with another suffix is free too.
        """
        folder = self.made() / "maps"
        folder.mkdir(exist_ok=True)
        for number in range(1, 10_000):
            path = folder / f"{stem}{f'-{number}' if number > 1 else ''}.pmaps"
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            except FileExistsError:
                continue
            return path
        raise FileExistsError(f"{folder} is full of maps called {stem}")

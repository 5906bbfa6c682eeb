"""Rounds that wait in a folder until they have arrived: each is there whole or not at all, in the order of making.

<root>/<training>/run.json               where they belong
                  000003_epoch_0010/     one round: files/ and numbers.json
                  report.html            the newest page; in sending/ while it is being sent
                  lock                   held by the process that fills or sends them
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_explain.errors import InputError, without_secrets
from keras_explain.tracking.protocol import round_name

FOLDER = "explanations-spool"
_ABOUT = "run.json"
_PAGE = "report.html"
_SENDING = "sending/report.html"
_BEGINS, _ENDS = b"<!DOCTYPE html>", b"</html>"
_REMEMBERED = 30 * 24 * 3600.0  # seconds
_KNOWN = {"tracking_uri", "run_id", "ours", "experiment_id", "experiment_name", "source", "command"}
_KNOWN |= {"status", "asked", "goes_on", "join_before", "interrupted", "tags"}


@dataclass(frozen=True)
class Waiting:
    """One round that has not arrived yet."""

    place: Path
    step: int
    time: int  # milliseconds, when it was made
    numbers: dict[str, float]

    @property
    def files(self) -> Path:
        """Its pictures, arrays and settings."""
        return self.place / "files"

    @property
    def tried(self) -> bool:
        """Whether sending it was begun before."""
        return (self.place / "tried").exists()

    def begin(self) -> None:
        """Sending begins."""
        (self.place / "tried").touch()

    def remove(self) -> None:
        """Take it out; it has arrived."""
        gone = self.place.with_name(f".{self.place.name}.sent")  # no longer whole from here on
        shutil.rmtree(gone, ignore_errors=True)  # what a process has left that died while it removed it
        self.place.rename(gone)
        shutil.rmtree(gone)


class Spool:
    """The waiting rounds of one training.

    Args:
        place: its folder, which exists.
    """

    def __init__(self, place: Path):
        from filelock import FileLock

        self.place = place.absolute()
        self._lock = FileLock(str(place / "lock"), thread_local=False)
        self._writing = threading.Lock()

    @classmethod
    def new(cls, root: Path, about: Mapping[str, Any]) -> Spool:
        """A spool for a training that begins, held by this process.

        Args:
            root: folder of all spools, created if needed.
            about: where rounds belong: `tracking_uri`, `run_id` or None, `experiment_id` or None, and `ours`, whether
                the run is to be ended with the training.
        """
        for gone in [*root.glob(".*.sent"), *(spool.place for spool in cls.whole(root) if spool.is_forgotten())]:
            shutil.rmtree(gone, ignore_errors=True)  # of a process that died, which no training will go on from
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:8]}"
        partial = root / f".{name}.partial"
        partial.mkdir(parents=True)
        unset: dict[str, Any] = {"status": None, "asked": False, "goes_on": False, "join_before": 0}
        unset |= {"interrupted": "", "tags": {}}
        (partial / _ABOUT).write_text(json.dumps({"command": command(), **unset, **about}, indent=1), "utf-8")
        partial.rename(root / name)
        spool = cls(root / name)
        spool.take()
        return spool

    @classmethod
    def all(cls, root: Path) -> list[Spool]:
        """All spools of a folder, oldest first; the folder may be that of one."""
        if (root / _ABOUT).is_file():
            return [cls(root)]
        return [cls(path.parent) for path in sorted(root.glob(f"[!.]*/{_ABOUT}"))]

    @classmethod
    def whole(cls, root: Path) -> list[Spool]:
        """Those of which everything can be read."""
        found = []
        for spool in cls.all(root):
            try:
                spool.waiting()
                if spool.about:
                    found.append(spool)
            except InputError:
                continue
        return found

    @classmethod
    def left(cls, root: Path, address: str, run_id: str | None) -> Spool | None:
        """The newest spool that an earlier process has left of the same training, now held by this one.

        Args:
            root: folder of all spools.
            address: of the tracking server, as it is written down.
            run_id: of the run that goes on; None is that of the same command, if a tracker has made it.
        """
        for spool in reversed(cls.whole(root)):
            about = spool.about
            same = about["run_id"] == run_id if run_id else about["ours"] and about["command"] == command()
            if same and about["tracking_uri"] == address and spool.take():
                return spool
        return None

    def take(self) -> bool:
        """Hold it against other processes; False if one holds it already."""
        from filelock import Timeout

        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        return True

    def release(self) -> None:
        """Let other processes have it."""
        self._lock.release(force=True)

    @property
    def about(self) -> dict[str, Any]:
        """Where rounds belong, and how far it has come with the run.

        Raises:
            InputError: damaged.
        """
        try:
            found = json.loads((self.place / _ABOUT).read_text("utf-8"))
            missing = _KNOWN - found.keys()
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(f"{self.place / _ABOUT} cannot be read: {error}") from None
        if missing:
            raise InputError(f"{self.place / _ABOUT} says nothing of {', '.join(sorted(missing))}.")
        return dict(found)

    def tell(self, **changes: Any) -> None:
        """Change what is known of the run."""
        with self._writing:
            self._tell({**self.about, **changes})

    def put_tags(self, tags: Mapping[str, str]) -> None:
        """Add tags for the run."""
        with self._writing:
            about = self.about
            self._tell({**about, "tags": {**about["tags"], **tags}})

    def remove_tags(self, tags: Mapping[str, str]) -> None:
        """Take tags out; they have arrived."""
        with self._writing:
            about = self.about
            self._tell({**about, "tags": {k: v for k, v in about["tags"].items() if tags.get(k) != v}})

    def _tell(self, about: Mapping[str, Any]) -> None:
        partial = self.place / f".{_ABOUT}.partial"
        partial.write_text(json.dumps(about, indent=1), "utf-8")
        partial.replace(self.place / _ABOUT)

    def put(self, step: int, folder: Path, numbers: Mapping[str, float]) -> None:
        """Add a round.

        Args:
            step: its epoch.
            folder: whose files are copied.
            numbers: by name.
        """
        last = max((int(path.name.split("_")[0]) for path in self._rounds()), default=0)
        name = f"{last + 1:06d}_{round_name(step)}"
        partial = self.place / f".{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            shutil.copytree(folder, partial / "files")
            known = {"step": step, "time": int(time.time() * 1000), "numbers": dict(numbers)}
            (partial / "numbers.json").write_text(json.dumps(known), "utf-8")
            partial.rename(self.place / name)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    def _rounds(self) -> list[Path]:
        return sorted(path for path in self.place.glob("[0-9]*_epoch_*") if path.is_dir())

    def waiting(self) -> list[Waiting]:
        """The rounds that wait, oldest first.

        Raises:
            InputError: a damaged one.
        """
        found = []
        for place in self._rounds():
            try:
                known = json.loads((place / "numbers.json").read_text("utf-8"))
                numbers = {str(name): float(value) for name, value in known["numbers"].items()}
                found.append(Waiting(place, int(known["step"]), int(known["time"]), numbers))
            except FileNotFoundError:
                continue  # it has arrived in the meantime
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                raise InputError(f"{place / 'numbers.json'} cannot be read: {error}") from None
        return found

    def is_forgotten(self) -> bool:
        """Whether it only waits for its training to go on, and has for a long time."""
        age = time.time() - (self.place / _ABOUT).stat().st_mtime
        if age < _REMEMBERED or not self.is_empty() or not self.take():
            return False
        self.release()
        return True

    def is_empty(self) -> bool:
        """Whether nothing waits, neither rounds nor a page nor tags."""
        return not self.waiting() and not self.has_page() and not self.about["tags"]

    def put_page(self, file: Path) -> None:
        """Keep a copy of the newest page."""
        partial = self.place / f".{_PAGE}.partial"
        shutil.copyfile(file, partial)
        partial.replace(self.place / _PAGE)

    def has_page(self) -> bool:
        """Whether a page waits."""
        return any((self.place / name).is_file() for name in (_PAGE, _SENDING))

    def page(self) -> str:
        """The page that waits, "" if there is none."""
        for name in (_PAGE, _SENDING):
            try:
                return (self.place / name).read_text("utf-8", errors="replace")
            except FileNotFoundError:  # there is none, or it has just been sent
                continue
        return ""

    def page_to_send(self) -> Path | None:
        """The page that waits, as a file that no newer one replaces; it is to be removed when it has arrived.

        Raises:
            InputError: damaged.
        """
        newest, sending = self.place / _PAGE, self.place / _SENDING
        if newest.is_file():
            sending.parent.mkdir(exist_ok=True)
            newest.replace(sending)
        if not sending.is_file():
            return None
        with sending.open("rb") as file:
            begins = file.read(len(_BEGINS))
            file.seek(max(0, sending.stat().st_size - len(_ENDS)))
            ends = file.read()
        if (begins, ends) != (_BEGINS, _ENDS):
            raise InputError(f"{sending} is damaged; remove it to keep the page that the run has.")
        return sending

    def remove(self) -> None:
        """Take it away, and the folder of all spools if nothing else is in it."""
        gone = self.place.with_name(f".{self.place.name}.sent")
        self.release()
        self.place.rename(gone)
        shutil.rmtree(gone)
        try:
            self.place.parent.rmdir()
        except OSError:  # others are there
            return

    def __repr__(self) -> str:
        return f"Spool({os.fspath(self.place)!r})"


def command() -> str:
    """By which this process was started, without passwords."""
    return without_secrets(shlex.join(sys.orig_argv))

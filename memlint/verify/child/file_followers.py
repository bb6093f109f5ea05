"""What a watched line writes into files, and what it reads from them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from memlint.verify.child.following import Follower, wrap
from memlint.verify.child.reachable import reach
from memlint.verify.observations import HostLoad


class Serialised(Follower):
    """Tensors that are saved: ``torch.save`` writes their storages, of which they may be a small part."""

    def install(self) -> None:
        """Look at what is saved."""
        wrap(torch, "save", self._saved)

    def _saved(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.is_running and not self.is_elsewhere:
            found = reach(args[0] if args else kwargs.get("obj"))
            written = found.bytes_of(found.held)
            self.note(written - sum(found.views[key] for key in found.held), written)
        return original(*args, **kwargs)


class Loaded(Follower):
    """What ``torch.load`` restores while the line runs, and to which location it goes.

    Locations are those that the file names, or those that ``map_location`` makes of them. They are seen even where
    the device is missing, so that the load fails.
    """

    def install(self) -> None:
        """Look at each load, and at each storage that it restores."""
        self._began = time.time()
        self._host = HostLoad.FILE
        wrap(torch, "load", self._loads)
        wrap(torch.serialization, "default_restore_location", self._restores)

    def _loads(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.is_running and not self.is_elsewhere:
            path = args[0] if args else kwargs.get("f")
            mapped = (args[1] if len(args) > 1 else kwargs.get("map_location")) is not None
            made = isinstance(path, (str, os.PathLike)) and Path(path).stat().st_mtime >= self._began
            self._host = HostLoad.MAPPED if mapped else HostLoad.OWN if made else HostLoad.FILE
        return original(*args, **kwargs)

    def _restores(self, original: Callable[..., Any], storage: Any, location: Any) -> Any:
        if self.is_running and not self.is_elsewhere:
            host = torch.device(str(location)).type == "cpu"
            self.note(storage.nbytes(), what=self._host.value if host else str(location))
        return original(storage, location)

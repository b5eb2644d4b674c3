"""What native code prints on stderr while it decodes: broken pictures often come back without any other sign."""

from __future__ import annotations

import os
import re

ADDRESS = re.compile(r" @ 0x[0-9a-f]+\]")
MOST = 200  # characters of a complaint that are kept


class Complaints:
    """Stands in for stderr as a pipe that never blocks its writer; what doesn't fit into it is lost, the first lines never."""

    def __init__(self) -> None:
        self.stderr = os.dup(2)
        self.reading, writing = os.pipe()
        os.set_blocking(self.reading, False)
        os.set_blocking(writing, False)
        os.dup2(writing, 2)
        os.close(writing)

    def first(self) -> str | None:
        """The first line since the last call, without the addresses that differ from run to run; forgets the others."""
        text = self._taken().decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return ADDRESS.sub("]", lines[0])[:MOST] if lines else None

    def _taken(self) -> bytes:
        parts = []
        try:
            while part := os.read(self.reading, 1 << 16):
                parts.append(part)
        except BlockingIOError:
            pass
        return b"".join(parts)

    def give_back(self) -> None:
        os.dup2(self.stderr, 2)

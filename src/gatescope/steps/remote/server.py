"""Where jobs go, and how patiently."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

import httpx
import nnsight

from gatescope.core.errors import GatescopeError


@dataclass(frozen=True)
class Server:
    """Where jobs are sent, and how long to wait for them.

    Attributes:
        host: "http://host:port"; None is NDIF, or what nnsight's config says.
        in_flight: jobs submitted and not yet finished, at most.
        pause: seconds between two looks at a job, at first; it grows to 20 times that.
        patience: seconds for which a server that does not answer is asked again.
        lost_after: seconds after which a job the server knows nothing of is submitted again.
        attempts: how often a piece is submitted, at most, when its jobs are lost or evicted.
    """

    host: str | None = None
    in_flight: int = 4
    pause: float = 0.5
    patience: float = 900.0
    lost_after: float = 60.0
    attempts: int = 5

    @classmethod
    def of(cls, remote: bool | str | Server) -> Server:
        """What `remote=` stands for: True is nnsight's configured host, a string is an address.

        Raises:
            GatescopeError: for anything else.
        """
        if isinstance(remote, Server):
            return remote
        if remote is True:
            return cls()
        if isinstance(remote, str) and remote.startswith(("http://", "https://")):
            return cls(remote.rstrip("/"))
        raise GatescopeError(
            f"remote={remote!r} is no server: give True for NDIF, or an address such as 'http://localhost:8001'."
        )

    @property
    def address(self) -> str:
        """The address jobs are sent to."""
        return self.host or nnsight.CONFIG.API.HOST


def greet(server: Server) -> None:
    """Refuse a server whose nnsight cannot read our requests. One that does not say is given the benefit of the doubt."""
    try:
        answer = httpx.get(f"{server.address}/env", timeout=10.0)
        # An older server has no such address.
        theirs = answer.json()["packages"]["nnsight"] if answer.status_code == 200 else ""
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return
    ours = version("nnsight")
    # Major and minor only: patches keep the format of requests.
    if theirs and theirs.split(".")[:2] != ours.split(".")[:2]:
        raise GatescopeError(
            f"{server.address} runs nnsight {theirs}; this machine has nnsight {ours}, and the two do not read each other's "
            f"requests. Install the server's: pip install 'nnsight=={theirs}'."
        )

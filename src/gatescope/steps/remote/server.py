"""Where jobs go, and how patiently; and what a message must never repeat."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import httpx
import nnsight

from gatescope.core.errors import GatescopeError

_USER = re.compile(r"(?<=//)[^/@\s'\"]*@")  # what stands before the host in an address: a name, a password, a key
_SHORTEST = 4  # of a secret: a shorter one is no secret, and would be found in every other word


@dataclass(frozen=True)
class Server:
    """Where jobs are sent, and how long to wait for them.

    Attributes:
        host: "http://host:port"; None is NDIF, or what nnsight's config says. A name and a password may stand before the
            host, and are in no message and no file.
        in_flight: jobs submitted and not yet finished, at most.
        pause: seconds between two looks at a job, at first; it grows to 20 times that.
        patience: seconds for which a server that does not answer is asked again, if it has answered before.
        lost_after: seconds after which a job the server knows nothing of is submitted again.
        attempts: how often a piece is submitted, at most, when its jobs are lost or evicted.
    """

    host: str | None = field(default=None, repr=False)
    in_flight: int = 4
    pause: float = 0.5
    patience: float = 900.0
    lost_after: float = 60.0
    attempts: int = 5

    def __post_init__(self) -> None:
        if self.host is not None:
            _check(self.host)

    @classmethod
    def of(cls, remote: bool | str | Server) -> Server:
        """What `remote=` stands for: True is nnsight's configured host, a string is an address.

        Raises:
            GatescopeError: for anything else.
        """
        if isinstance(remote, Server):
            return remote
        if remote is True:
            _check(nnsight.CONFIG.API.HOST)
            return cls()
        _check(remote)
        return cls(str(remote).rstrip("/"))

    @property
    def address(self) -> str:
        """The address jobs are sent to, as it may be printed and kept: without a name or a password."""
        parts = urlsplit(self._url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")

    @property
    def login(self) -> tuple[str, str] | None:
        """The name and the password of the address."""
        parts = urlsplit(self._url)
        return (unquote(parts.username or ""), unquote(parts.password or "")) if "@" in parts.netloc else None

    @property
    def key(self) -> str:
        """The API key; empty if there is none.

        Raises:
            GatescopeError: if it cannot be sent.
        """
        key = str(nnsight.CONFIG.API.APIKEY or "").strip()
        # Else the library that sends it says what it could not send.
        if not (key.isascii() and key.isprintable()) and key:
            raise GatescopeError(
                "The API key holds characters that no key has, such as a line break or an accent. Set the environment variable "
                "NDIF_API_KEY to yours, or run `nnsight login`."
            )
        return key

    @property
    def _url(self) -> str:
        return self.host or str(nnsight.CONFIG.API.HOST)

    def masked(self, text: str) -> str:
        """A text without the API key and without what stands before the host in an address: a server, or a library, may
        repeat them.
        """
        netloc = urlsplit(self._url).netloc
        name, _, password = netloc.rpartition("@")[0].partition(":")
        key = str(nnsight.CONFIG.API.APIKEY or "")
        # A name without a password is a key.
        text = hidden(text)
        for secret in (key, key.strip(), password or name, unquote(password or name)):
            text = text.replace(secret, "(your key)") if len(secret) >= _SHORTEST else text
        return text


def hidden(text: str) -> str:
    """A text without the names and passwords in its addresses.

    >>> hidden("no answer from http://me:secret@host:80/env")
    'no answer from http://host:80/env'
    """
    return _USER.sub("", text)


def _check(address: object) -> None:
    """Refuse what is no address of a server.

    Raises:
        GatescopeError: saying what is wrong with it.
    """
    if wrong := wrong_address(address):
        # Without what stands before an @: it may be a key, also where the rest is no address.
        shown = re.sub(r"[^/@\s'\"]*@", "", repr(address))
        raise GatescopeError(
            f"remote={shown} is no server ({wrong}): give True for NDIF ('ndif' on the command line), or an address such as "
            f"'http://localhost:8001'."
        )


def wrong_address(address: object, *, signed: bool = False) -> str:
    """What is wrong with an address; empty if nothing is.

    Args:
        address: what is said to be one.
        signed: whether it may end with a signature.
    """
    if not isinstance(address, str) or not address.startswith(("http://", "https://")):
        return "it does not begin with http:// or https://"
    try:
        parts = urlsplit(address)
        port = parts.port
        httpx.URL(address)
    except (ValueError, httpx.InvalidURL) as error:
        return hidden(str(error)).rstrip(".") or "it cannot be read"
    if not parts.hostname or not address.isprintable() or " " in address:
        return "it has no name of a host, or a space"
    if port == 0 or (not signed and (parts.query or parts.fragment)):
        return "it must end with a port or a path"
    return ""

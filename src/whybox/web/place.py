"""Where a local server listens, and by which names and with which token it may be asked."""

import hmac
import secrets
import socket
from dataclasses import dataclass
from ipaddress import ip_address

from whybox.errors import WhyboxError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""The names of this machine that no other machine can reach."""

PORT = 8765


@dataclass(frozen=True)
class Place:
    """Where a server listens.

    Attributes:
        host: A name or an address; "0.0.0.0" and "::" are all of this machine's.
        port: The port; 0: any that is free.
        token: What a browser has to know; "": nothing, for loopback alone.
    """

    host: str = "127.0.0.1"
    port: int = PORT
    token: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise WhyboxError(f"the port must lie between 0 and 65535, got {self.port}")
        if not self.loopback and len(self.token) < 16:
            raise WhyboxError(f"{self.host} can be reached by others: a server there needs a token of at least 16 characters")

    @property
    def loopback(self) -> bool:
        """Whether this machine alone can reach it."""
        return self.host in LOOPBACK

    @property
    def url(self) -> str:
        """The address to open, with the token."""
        # A browser cannot open "all addresses": this machine's name stands for them.
        host = socket.gethostname() if self.host in ("0.0.0.0", "::") else self.host
        address = f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"
        return f"{address}?token={self.token}" if self.token else address

    def answers_to(self, host: str) -> bool:
        """Whether a request with this Host header is meant for the server.

        A page of another site can have its own name lead to this machine (DNS rebinding), and would then be of one origin with
        the server; an address, which no one else can give a meaning to, cannot be used so.

        Args:
            host: The header, with or without a port.
        """
        name = _without_port(host.lower())
        if self.loopback:
            return name in LOOPBACK
        return name in (self.host.lower(), *LOOPBACK, socket.gethostname().lower()) or _is_address(name)

    def knows(self, token: str) -> bool:
        """Whether this is the token; how long the answer takes does not tell how much of it is right."""
        return not self.token or hmac.compare_digest(token.encode(), self.token.encode())


def choose_place(host: str | None = None, port: int | None = None) -> Place:
    """A place to listen, with a new token where others can reach it.

    Args:
        host: A name or an address; None: loopback.
        port: The port; None: the usual one.
    """
    host = host or LOOPBACK[0]
    return Place(host, PORT if port is None else port, "" if host in LOOPBACK else secrets.token_urlsafe(24))


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True

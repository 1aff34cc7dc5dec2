"""Connections of the server: uvicorn's, with the bounds that uvicorn has no options for.

uvicorn 0.54 bounds idle connections and the size of an incomplete head. It has no time limit for a head or for an
answer that nobody reads, counts connections only when a request has come, and parses all that it has read in one go.
Other servers would need additions too: Hypercorn 0.18 has no limit of connections, Granian 2.8 no time limit for
bodies, and neither limits chunks.
"""

import asyncio
import contextlib
import errno
import resource
import socket
import sys
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.flow_control import CLOSE_HEADER, service_unavailable
from uvicorn.protocols.http.h11_impl import H11Protocol

from hillstart.serve.batching import SHARE

HEAD_SECONDS, IDLE_SECONDS, REQUEST_SECONDS = 10, 60, 120
"""Timeouts: for a whole header, between an answer and the next header, from a header to the end of its answer."""
STAY_SECONDS = 1
"""Timeout for a silent client while the server shuts down."""
HEAD_BYTES = 16 << 10
"""Largest header of a request, or trailers of a body."""
PARTS, BYTES_PER_PART = 256, 512
"""Chunks of any size allowed in a body; those beyond them must hold so many bytes on average."""
CONNECTIONS = 1024

_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def most_connections() -> int:
    """Return the limit of open connections: half of the files that may be open, so that accepting never fails."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return CONNECTIONS if files == resource.RLIM_INFINITY else max(1, min(CONNECTIONS, files // 2))


class Parser(h11.Connection):
    """h11's parser, with a bound on the work that one call does and without requests that could be read in two ways.

    Attributes:
        reason: why a request was refused here; empty if none was.
    """

    def __init__(self) -> None:
        super().__init__(h11.SERVER, HEAD_BYTES)
        self.reason = ""
        self._unparsed = bytearray()
        self._chunks = self._chunked_bytes = 0

    def receive_data(self, data: bytes) -> None:
        self._unparsed += data

    def next_event(self) -> Any:
        event = super().next_event()
        while event is h11.NEED_DATA and self._unparsed:  # in pieces, as h11 measures only incomplete heads
            super().receive_data(bytes(self._unparsed[:HEAD_BYTES]))
            del self._unparsed[:HEAD_BYTES]
            event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._chunked_bytes = 0
            names = {name for name, _ in event.headers}
            if b"transfer-encoding" in names and (b"content-length" in names or event.http_version < b"1.1"):
                self._refuse("Transfer-Encoding beside Content-Length, or in HTTP/1.0: send one of them.")
        elif isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._chunked_bytes += len(event.data)
            if self._chunks > PARTS + self._chunked_bytes // BYTES_PER_PART:
                self._refuse(f"The chunks are too small: send at least {BYTES_PER_PART} bytes in each.")
        return event

    def _refuse(self, reason: str) -> None:
        self.reason = reason
        raise h11.RemoteProtocolError(reason)


class Connection(H11Protocol):
    """A connection that is closed when its client takes too long, or when it is silent and others need its place."""

    def __init__(self, *options: Any, **named: Any):
        super().__init__(*options, **named)
        self.conn: Parser = Parser()
        self.connections: set[Any]
        self._ending = self._idle = False
        self._last_heard = self.loop.time()
        self._until = self._last_heard + HEAD_SECONDS

    @property
    def address(self) -> str:
        """The client's address; its connections together have a share."""
        return self.client[0] if self.client else ""

    @property
    def in_flight(self) -> bool:
        """True while a request whose head has come is not yet answered."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def waits(self) -> bool:
        """True if the server waits for the client: for a header, a body, or for an answer to be read."""
        return not self.in_flight or self.cycle.more_body or self.flow.write_paused

    def overdue(self, now: float) -> bool:
        """True if the client has taken too long."""
        return now > self._until or (self._ending and self.waits and now > self._last_heard + STAY_SECONDS)

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        most = most_connections()
        crowd = [other for other in self.connections if not other.transport.is_closing()]
        if len(crowd) <= most:
            crowd = [other for other in crowd if other.address == self.address]
            if len(crowd) <= SHARE * most:
                return
        # As in nginx: whoever has been silent for longest makes room. Connections that wait for the server are fewer,
        # as the service refuses requests when too many are unanswered.
        silent = [other for other in crowd if other.waits and other is not self]
        if silent:
            min(silent, key=lambda other: other._last_heard).transport.abort()
        else:
            self.app = service_unavailable

    def data_received(self, data: bytes) -> None:
        self._last_heard = self.loop.time()
        if self._idle:
            self._idle, self._until = False, self._last_heard + HEAD_SECONDS
        super().data_received(data)

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._until = self.loop.time() + REQUEST_SECONDS
            self._close_after_answer()

    def on_response_complete(self) -> None:
        self._idle = True
        self._until = self.loop.time() + (HEAD_SECONDS if self.transport.is_closing() else IDLE_SECONDS)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        if self.cycle is not None:  # so that the application does not answer as well
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(self.conn.reason or msg)
        else:
            self.transport.close()

    def shutdown(self) -> None:
        """Answer a request that is under way, and close the connection after it or after a short silence."""
        if not self._ending:
            self._ending, self._last_heard = True, self.loop.time()
            self._close_after_answer()

    def _close_after_answer(self) -> None:
        if self._ending and self.in_flight:
            self.cycle.keep_alive = False
            self.cycle.default_headers = [*self.cycle.default_headers, CLOSE_HEADER]  # or the client would ask on


class Server(uvicorn.Server):
    """uvicorn's server; it closes overdue connections, and answers pending requests however many signals come."""

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._last_report = float("-inf")
        asyncio.get_running_loop().set_exception_handler(self._report_once_a_minute)
        closing = asyncio.create_task(self._close_overdue())
        try:
            await super().serve(sockets)
        finally:
            closing.cancel()

    async def _close_overdue(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            for connection in list[Any](self.server_state.connections):
                if self.should_exit:  # again at each turn, as connections are accepted until the end
                    connection.shutdown()
                if connection.overdue(loop.time()):
                    connection.transport.abort()
            await asyncio.sleep(0.1)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or []:
            listening.listen(CONNECTIONS)  # the kernel may queue more than asyncio accepts at once

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down as uvicorn does, after accepting the connections that the kernel has made: it would reset them."""
        state, loop = self.server_state, asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            for listening in sockets or []:
                for _ in range(CONNECTIONS):
                    accepted, _ = listening.accept()
                    accepted.setblocking(False)
                    await loop.connect_accepted_socket(lambda: Connection(self.config, state, {}), accepted)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # uvicorn drops what is in flight at a second Ctrl-C, which launchers that pass on the first one also send.
        if not self.should_exit:
            super().handle_exit(sig, frame)

    def _report_once_a_minute(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Print once a minute that no connection can be accepted; asyncio would report every attempt, one a second."""
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in _NO_ROOM):
            loop.default_exception_handler(context)
        elif loop.time() > self._last_report + 60:
            self._last_report = loop.time()
            print(f"hillstart: no connection can be accepted ({error.strerror}); trying again.", file=sys.stderr)

"""One client's byte stream: whole packets in, bytes out, both bounded."""

import asyncio
from typing import Final

from broker.server.errors import Cause, Dropped
from broker.server.limits import Limits
from broker.server.packets import Frame

BACKLOG_BYTES: Final = 64 * 1024
"""Written and not yet taken by the network, above which we wait."""
_LENGTH_BYTES_MAX: Final = 4


class Link:
    """The TCP connection to one client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: Limits) -> None:
        self._reader = reader
        self._writer = writer
        self._limits = limits
        peer = writer.get_extra_info("peername")
        self.address: str = peer[0] if peer else "?"

    async def read_frame(self) -> Frame:
        """The next packet, whole. Raises Dropped: gone, malformed, or too big - told by its length, before it is read."""
        try:
            first = (await self._reader.readexactly(1))[0]
            length = await self._read_length()
            if length > self._limits.max_packet_bytes:
                raise Dropped(Cause.TOO_BIG, f"a packet of {length} bytes")
            body = await self._reader.readexactly(length) if length else b""
        except (asyncio.IncompleteReadError, OSError) as exc:
            raise Dropped(Cause.GONE, "the connection was closed") from exc
        return Frame(first >> 4, first & 0x0F, body)

    async def _read_length(self) -> int:
        """The remaining length, seven bits a byte (MQTT-2.2.3)."""
        length = 0
        for index in range(_LENGTH_BYTES_MAX):
            byte = (await self._reader.readexactly(1))[0]
            length |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:  # noqa: PLR2004 - the bit that says "more"
                return length
        raise Dropped(Cause.MALFORMED, "a length of more than four bytes")

    def write(self, data: bytes) -> None:
        """Send without waiting; nothing happens once the connection is closing."""
        if not self._writer.is_closing():
            self._writer.write(data)

    @property
    def congested(self) -> bool:
        """Whether the peer reads more slowly than we write."""
        return self._writer.transport.get_write_buffer_size() > BACKLOG_BYTES

    async def drain(self) -> None:
        """Wait until the peer has taken what was written. Raises Dropped if it is gone."""
        try:
            await self._writer.drain()
        except OSError as exc:
            raise Dropped(Cause.GONE, "the connection was closed") from exc

    def abort(self) -> None:
        """Close at once; what is unsent is lost, and whoever reads or drains wakes up."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Send what is left and close, but do not wait long for a peer that does not read."""
        try:
            async with asyncio.timeout(self._limits.close_timeout_s):
                self._writer.close()
                await self._writer.wait_closed()
        except OSError:
            pass  # it broke, or a TimeoutError: reset below
        finally:
            self.abort()

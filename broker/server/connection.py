"""One client's connection, from its first byte to its last."""

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import Final

from broker.server import codec
from broker.server.authorize import ClientIdentity, Gate
from broker.server.counters import Counters
from broker.server.errors import Cause, Dropped
from broker.server.limits import Limits
from broker.server.packets import (
    Acknowledgement,
    Connack,
    Connect,
    Disconnect,
    Kind,
    Packet,
    Ping,
    Publish,
    Subscribe,
    Unsubscribe,
)
from broker.server.router import Router
from broker.server.sessions import Session, Sessions
from broker.server.streams import BACKLOG_BYTES, Link

log = logging.getLogger(__name__)

KEEP_ALIVE_FACTOR: Final = 1.5
"""[MQTT-3.1.2-24]"""
PACKETS_AT_A_TIME: Final = 16
"""Read from one client before the others have their turn."""


@dataclass(frozen=True)
class Hub:
    """What all connections share."""

    limits: Limits
    counters: Counters
    gate: Gate
    sessions: Sessions
    router: Router


class Connection:
    """Reads a client's packets, answers them, and sends what waits in its session."""

    def __init__(self, link: Link, hub: Hub) -> None:
        self._link = link
        self._hub = hub
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._heard = self._loop.time()
        self._watch: asyncio.TimerHandle | None = None
        self._connect: Connect | None = None
        self._session: Session | None = None
        self._cut: Dropped | None = None

    async def run(self) -> None:
        """Serve the client until it leaves or has to. Cancelled, it ends without a last will: the broker is stopping."""
        pump: asyncio.Task[None] | None = None
        try:
            session = await self._open()
            pump = asyncio.create_task(self._send_what_waits(session))
            await self._read_packets(session)
        except Dropped as why:
            self._end(self._cut or why)
        except asyncio.CancelledError:
            self._leave(with_will=False)
            raise
        finally:
            self._leave(with_will=True)
            await self._stop(pump)

    async def _stop(self, pump: asyncio.Task[None] | None) -> None:
        if pump is not None:
            pump.cancel()
        try:
            if pump is not None:
                with contextlib.suppress(asyncio.CancelledError):
                    await pump  # and hear of a fault of its own
        finally:
            await self._link.close()

    # --- Wire: what sessions and router use -------------------------------------------------------------------------
    def wake(self) -> None:
        """There is something to send."""
        self._wake.set()

    def displace(self) -> None:
        """The same client id connected again (MQTT-3.1.4-2)."""
        self._close_because(Cause.TAKEN_OVER, "the same client id connected again")
        self._leave(with_will=True)

    # --- the beginning ----------------------------------------------------------------------------------------------
    async def _open(self) -> Session:
        try:
            async with asyncio.timeout(self._hub.limits.connect_timeout_s):
                connect = await self._read_connect()
                # A login belongs here, awaited: nothing of the client's session has been touched yet.
        except TimeoutError:
            raise Dropped(Cause.CONNECT_TIMEOUT, "no CONNECT in time") from None
        identity = ClientIdentity(connect.client_id, connect.username, self._link.address)
        if connect.will is not None and not self._hub.gate.may_publish(identity, connect.will.topic):
            raise self._refuse(Connack.NOT_AUTHORIZED, "its last will is not allowed")
        session, present = self._hub.sessions.admit(connect, identity, self)
        self._connect, self._session = connect, session
        self._hub.counters.accepted += 1
        log.debug("%r connected from %s", identity.client_id, identity.address)
        self._link.write(codec.connack(Connack.ACCEPTED, session_present=present))
        self._wake.set()
        if connect.keep_alive_s:
            self._watch_keep_alive(connect.keep_alive_s * KEEP_ALIVE_FACTOR)
        return session

    async def _read_connect(self) -> Connect:
        frame = await self._link.read_frame()
        try:
            connect, anonymous = await codec.decode_connect(frame)
        except codec.WrongProtocol as exc:
            raise self._refuse(Connack.BAD_PROTOCOL, str(exc)) from exc  # [MQTT-3.1.2-2]
        if anonymous and not connect.clean_session:
            raise self._refuse(Connack.BAD_CLIENT_ID, "no client id for a persistent session")  # [MQTT-3.1.3-8]
        return connect

    def _refuse(self, code: Connack, reason: str) -> Dropped:
        self._link.write(codec.connack(code))
        return Dropped(Cause.REFUSED, reason)

    def _watch_keep_alive(self, limit_s: float) -> None:
        quiet_s = self._loop.time() - self._heard
        if quiet_s >= limit_s:
            self._close_because(Cause.KEEP_ALIVE, f"silent for {quiet_s:.1f} s")
        else:
            self._watch = self._loop.call_later(limit_s - quiet_s, self._watch_keep_alive, limit_s)

    # --- the end ----------------------------------------------------------------------------------------------------
    def _close_because(self, cause: Cause, detail: str) -> None:
        """End the connection from outside its own task: whoever reads or writes on it wakes up."""
        if self._cut is None:
            self._cut = Dropped(cause, detail)
        self._link.abort()

    def _end(self, why: Dropped) -> None:
        counters = self._hub.counters
        if why.cause is not Cause.TAKEN_OVER:  # counted where it happened
            setattr(counters, why.cause, getattr(counters, why.cause) + 1)
        who = repr(self._connect.client_id) if self._connect else "a client"
        log.info("dropped %s (%s): %s", who, self._link.address, why)
        self._leave(with_will=True)

    def _leave(self, *, with_will: bool) -> None:
        """Give the session up, once; the will goes out after it, so that the client's own session may queue it."""
        if self._watch is not None:
            self._watch.cancel()
        session, connect = self._session, self._connect
        if session is None or connect is None:
            return
        self._session = None
        self._hub.sessions.leave(session)
        if with_will and connect.will is not None:
            identity = ClientIdentity(connect.client_id, connect.username, self._link.address)
            self._hub.router.publish(identity, connect.will, retain=connect.will_retain)

    # --- reading ----------------------------------------------------------------------------------------------------
    async def _read_packets(self, session: Session) -> None:
        count = 0
        while True:
            frame = await self._link.read_frame()
            self._heard = self._loop.time()
            packet = await codec.decode(frame)
            if self._session is None:
                raise Dropped(Cause.GONE, "it no longer has the session")
            if isinstance(packet, Disconnect):
                log.debug("%r disconnected", session.identity.client_id)
                self._leave(with_will=False)  # [MQTT-3.14.4-3]
                return
            self._take(session, packet)
            if self._link.congested:  # it does not read our answers: neither do we read on
                await self._link.drain()
            count += 1
            if count % PACKETS_AT_A_TIME == 0:
                await asyncio.sleep(0)

    def _take(self, session: Session, packet: Packet) -> None:
        match packet:
            case Publish():
                self._take_publish(session, packet)
            case Acknowledgement():
                self._take_acknowledgement(session, packet)
            case Ping():
                self._link.write(codec.pingresp())
            case Subscribe():
                granted = [self._hub.router.subscribe(session, name, qos) for name, qos in packet.filters]
                self._link.write(codec.suback(packet.packet_id, granted))
                self._wake.set()
            case Unsubscribe():
                for name in packet.filters:
                    self._hub.router.unsubscribe(session, name)
                self._link.write(codec.unsuback(packet.packet_id))

    def _take_publish(self, session: Session, packet: Publish) -> None:
        message, packet_id = packet.message, packet.packet_id
        exactly_once = message.qos == 2  # noqa: PLR2004 - the level's number
        if exactly_once and packet_id in session.open_exchanges:
            self._link.write(codec.acknowledge(Kind.PUBREC, packet_id))  # sent again: it was routed already
            return
        if exactly_once and len(session.open_exchanges) >= self._hub.limits.max_ingress:
            raise codec.malformed("too many QoS 2 exchanges left open")
        self._hub.router.publish(session.identity, message, retain=packet.retain)
        if exactly_once:
            session.open_exchanges.add(packet_id)
            self._link.write(codec.acknowledge(Kind.PUBREC, packet_id))
        elif message.qos:
            self._link.write(codec.acknowledge(Kind.PUBACK, packet_id))

    def _take_acknowledgement(self, session: Session, packet: Acknowledgement) -> None:
        if packet.kind is Kind.PUBREL:
            session.open_exchanges.discard(packet.packet_id)
            self._link.write(codec.acknowledge(Kind.PUBCOMP, packet.packet_id))
            return
        answer = session.outbox.acknowledged(packet.kind, packet.packet_id)
        if answer is not None:
            self._link.write(answer)
        self._wake.set()

    # --- writing ----------------------------------------------------------------------------------------------------
    async def _send_what_waits(self, session: Session) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while chunk := session.outbox.take(BACKLOG_BYTES):
                    self._link.write(chunk)
                    await self._link.drain()
                    await asyncio.sleep(0)
        except Dropped:
            pass  # the reader sees the same end, and tells
        except Exception:
            self._link.abort()  # a fault of ours: better no connection than one that has gone deaf
            raise

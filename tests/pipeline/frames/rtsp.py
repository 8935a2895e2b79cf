"""A camera that speaks RTSP (RFC 2326) over TCP, and loses its connection after a number of pictures."""

from __future__ import annotations

import socketserver
import struct
import threading
from fractions import Fraction
from typing import Any

import av

from tests.pipeline.frames.videos import grainy_frame

PAYLOAD_TYPE = 32
"""MPEG video, which needs no parameters in the description (RFC 3551)."""

SDP = f"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP {PAYLOAD_TYPE}\r\na=control:track\r\n"

FPS = 25


class Packets:
    """A file that keeps each write, which for FFmpeg's RTP muxer is one packet."""

    def __init__(self) -> None:
        self.packets: list[bytes] = []

    def write(self, data: bytes) -> int:
        self.packets.append(bytes(data))
        return len(data)


def packetised(count: int) -> list[bytes]:
    """RTP and RTCP packets of `count` plain pictures."""
    out = Packets()
    with av.open(out, "w", format="rtp", options={"packetsize": "1200"}) as container:
        stream: Any = container.add_stream("mpeg2video", rate=Fraction(FPS))
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(count):
            container.mux(stream.encode(grainy_frame(number)))
        container.mux(stream.encode(None))
    return out.packets


class RtspCamera(socketserver.ThreadingTCPServer):
    """Plays the same pictures to each who connects, then drops the connection."""

    allow_reuse_address = True
    daemon_threads = False

    def __init__(self, pictures: int) -> None:
        super().__init__(("127.0.0.1", 0), _Session)
        self.packets = packetised(pictures)
        self.sessions = 0
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def address(self) -> str:
        return f"rtsp://127.0.0.1:{self.server_address[1]}/stream"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Session(socketserver.StreamRequestHandler):
    server: RtspCamera

    def handle(self) -> None:
        while request := self._request():
            method, url, sequence = request
            if method == "DESCRIBE":
                self._answer(sequence, f"Content-Base: {url}/\r\nContent-Type: application/sdp", SDP)
            elif method == "SETUP":
                self._answer(sequence, "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1")
            elif method == "PLAY":
                self._answer(sequence, "Session: 1")
                self.server.sessions += 1
                for packet in self.server.packets:
                    is_rtcp = 200 <= packet[1] <= 204
                    self.wfile.write(struct.pack(">cBH", b"$", int(is_rtcp), len(packet)) + packet)
                return
            else:
                self._answer(sequence, "Public: OPTIONS, DESCRIBE, SETUP, PLAY")

    def _request(self) -> tuple[str, str, str] | None:
        first = self.rfile.readline().decode().split()
        if len(first) < 2:
            return None
        sequence = "0"
        while (line := self.rfile.readline().decode().strip()) != "":
            name, _, value = line.partition(":")
            if name.lower() == "cseq":
                sequence = value.strip()
        return first[0], first[1], sequence

    def _answer(self, sequence: str, headers: str, body: str = "") -> None:
        head = f"RTSP/1.0 200 OK\r\nCSeq: {sequence}\r\n{headers}\r\nContent-Length: {len(body)}\r\n\r\n"
        self.wfile.write((head + body).encode())

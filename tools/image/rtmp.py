"""An RTMP server on loopback that plays an FLV file to whoever asks: as much of the protocol as a player needs. One thread a connection."""
import socketserver
import struct
import threading
import time

CHUNK = 60_000  # what is sent in one piece
SET_CHUNK_SIZE, COMMAND = 1, 20


def tags(flv):
    """Kind, time in milliseconds, payload."""
    at, found = 13, []
    while at + 11 <= len(flv):
        length = int.from_bytes(flv[at + 1:at + 4], "big")
        moment = int.from_bytes(flv[at + 4:at + 7], "big") | flv[at + 7] << 24
        found.append((flv[at], moment, flv[at + 11:at + 11 + length]))
        at += 11 + length + 4
    return found


def text(value):
    return b"\x02" + struct.pack(">H", len(value)) + value.encode()


def number(value):
    return b"\x00" + struct.pack(">d", value)


def fields(**values):
    return b"\x03" + b"".join(text(name)[1:] + text(value) for name, value in values.items()) + b"\x00\x00\x09"


def status(code):
    return fields(level="status", code=code, description="x")


class Player(socketserver.StreamRequestHandler):
    played = ()

    def tell(self, kind, moment, stream, payload):
        data = bytearray(b"\x03" + moment.to_bytes(4, "big")[1:] + len(payload).to_bytes(3, "big") + bytes([kind]) + struct.pack("<I", stream))
        for at in range(0, len(payload), CHUNK):
            data += (b"\xc3" if at else b"") + payload[at:at + CHUNK]
        self.wfile.write(data)

    def take(self, length):
        data = self.rfile.read(length)
        if len(data) < length:
            raise EOFError
        return data

    def messages(self):
        """What the client says: kind and payload of each whole message."""
        size, known = 128, {}
        while True:
            first = self.take(1)[0]
            shape, channel = first >> 6, first & 63
            header = self.take((11, 7, 3, 0)[shape])
            message = known.setdefault(channel, [0, 0, b""])
            if len(header) >= 7:
                message[0], message[1] = int.from_bytes(header[3:6], "big"), header[6]
            message[2] += self.take(min(size, message[0] - len(message[2])))
            if len(message[2]) == message[0]:
                kind, payload, message[2] = message[1], message[2], b""
                if kind == SET_CHUNK_SIZE:
                    size = int.from_bytes(payload[:4], "big")
                yield kind, payload

    def handle(self):
        try:
            self.talk()
        except (OSError, EOFError):
            pass  # the client has gone

    def talk(self):
        hello = self.take(1537)
        self.wfile.write(b"\x03" + bytes(1536) + hello[1:])
        self.take(1536)
        self.tell(SET_CHUNK_SIZE, 0, 0, struct.pack(">I", CHUNK))
        for kind, payload in self.messages():
            if kind != COMMAND:
                continue
            length = struct.unpack(">H", payload[1:3])[0]
            name = payload[3:3 + length].decode(errors="replace")
            transaction = struct.unpack(">d", payload[4 + length:12 + length])[0]
            if name == "connect":
                self.tell(COMMAND, 0, 0, text("_result") + number(transaction) + fields(fmsVer="FMS/3,0,1,123") + status("NetConnection.Connect.Success"))
            elif name == "createStream":
                self.tell(COMMAND, 0, 0, text("_result") + number(transaction) + b"\x05" + number(1))
            elif name == "play":
                self.tell(COMMAND, 0, 1, text("onStatus") + number(0) + b"\x05" + status("NetStream.Play.Start"))
                begun = time.monotonic()
                for sent, moment, data in self.played:
                    time.sleep(max(0, moment / 1000 - (time.monotonic() - begun)))
                    self.tell(sent, moment, 1, data)
                return


def serve(flv):
    """Starts the server; its address."""
    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    server = Server(("127.0.0.1", 0), type("Played", (Player,), {"played": tags(flv)}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"rtmp://127.0.0.1:{server.server_address[1]}/live/clip"

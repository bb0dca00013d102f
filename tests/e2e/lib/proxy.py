"""A server that says it is older than it is: what stands between is real, only server_version is changed."""

import socket
import struct
import threading

NO_SSL = {80877103, 80877104}


def read(s, count):
    data = b""
    while len(data) < count:
        more = s.recv(count - len(data))
        if not more:
            raise ConnectionError
        data += more
    return data


class OldServer:
    """Listens on a port of its own and passes everything on to a real server."""

    def __init__(self, port, version):
        self.target, self.version = port, version
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def close(self):
        self.listener.close()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        try:
            with client, socket.create_connection(("127.0.0.1", self.target)) as server:
                while True:
                    length, code = struct.unpack("!II", head := read(client, 8))
                    if code not in NO_SSL:
                        break
                    client.sendall(b"N")
                server.sendall(head + read(client, length - 8))
                threading.Thread(target=self.copy, args=(client, server), daemon=True).start()
                self.answer(server, client)
        except OSError:
            pass

    @staticmethod
    def copy(source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def answer(self, server, client):
        kind = b""
        while kind != b"Z":  # up to the first ReadyForQuery
            kind = read(server, 1)
            body = read(server, struct.unpack("!I", read(server, 4))[0] - 4)
            if kind == b"S" and body.startswith(b"server_version\0"):
                body = b"server_version\0" + self.version.encode() + b"\0"
            client.sendall(kind + struct.pack("!I", len(body) + 4) + body)
        self.copy(server, client)

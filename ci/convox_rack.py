"""What the Convox scripts share: requests, websocket frames, sources, without anything beyond Python itself."""

import base64
import http.client
import io
import json
import os
import socket
import struct
import tarfile
import time
import urllib.parse

EXIT_MARK = "F1E49A85-0AD7-4AEF-A618-C249C6E6568D:"

SERVER = '''
import base64, hashlib, http.server, os, signal, threading
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def shout(self):
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self.close_connection = True
        while len(head := self.rfile.read(2)) == 2:
            mask = self.rfile.read(4)
            text = bytes(b ^ mask[i % 4] for i, b in enumerate(self.rfile.read(head[1] & 127)))
            self.wfile.write(bytes([0x81, len(text)]) + text.upper())
    def do_GET(self):
        if self.path == "/shout":
            return self.shout()
        text = "%s %s %s\\n" % (os.environ["RELEASE"], os.environ.get("GREETING", "-"), os.uname().nodename)
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())
    def log_message(self, *a): pass
s = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), H)
signal.signal(signal.SIGTERM, lambda *a: threading.Thread(target=s.shutdown).start())
print("serving", os.environ["RELEASE"], flush=True)
s.serve_forever()
'''

DOCKERFILE = """FROM boxrig/base
WORKDIR /app
COPY server.py .
RUN echo built > mark
CMD ["python3", "server.py"]
"""


def source(files):
    """A gzip tar of these files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


class Rack:
    """A rack by its URL and password."""

    def __init__(self, url, password, mark=""):
        self.url = urllib.parse.urlsplit(url)
        self.password = password
        self.mark = mark

    def headers(self, more=None):
        token = base64.b64encode(f"convox:{self.password}".encode()).decode()
        return {"Authorization": f"Basic {token}", "X-Boxrig-Test": self.mark, **(more or {})}

    def ask(self, method, path, body=None, headers=None):
        """Status, headers and body of a request."""
        if isinstance(body, dict):
            body = urllib.parse.urlencode(body)
            headers = {"Content-Type": "application/x-www-form-urlencoded", **(headers or {})}
        connection = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=120)
        try:
            connection.request(method, path, body, self.headers(headers))
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def json(self, method, path, body=None, headers=None):
        """The JSON of a request that must succeed."""
        status, _, text = self.ask(method, path, body, headers)
        assert status == 200, f"{method} {path}: {status} {text!r}"
        return json.loads(text)

    def socket(self, path, headers=None):
        """Opens a websocket."""
        return Talk(self.url.hostname, self.url.port, path, self.headers(headers))

    def until(self, path, test, seconds=90):
        """Asks until the answer is as wanted."""
        end = time.monotonic() + seconds
        while True:
            now = self.json("GET", path)
            if test(now):
                return now
            assert time.monotonic() < end, f"{path} stays {now}"
            time.sleep(0.05)

    def build(self, app, files):
        """Uploads a source and builds it; gives the build when it has ended."""
        kept = self.json("POST", f"/apps/{app}/objects/tmp/s.tgz", source(files), {"Content-Type": "application/octet-stream"})
        made = self.json("POST", f"/apps/{app}/builds", {"url": kept["Url"]})
        return self.until(f"/apps/{app}/builds/{made['id']}", lambda b: b["status"] != "running", 180)

    def promote(self, app, release):
        """Promotes and waits for the end."""
        status, _, text = self.ask("POST", f"/apps/{app}/releases/{release}/promote", {})
        assert status == 200, text
        return self.until(f"/apps/{app}", lambda a: a["status"] == "running")

    def exec(self, app, process, command, **headers):
        """Output and exit code of a command."""
        talk = self.socket(f"/apps/{app}/processes/{process}/exec", {"command": command, "Tty": "false", **headers})
        frames = talk.frames()
        trailer = frames.pop().decode()
        assert trailer.startswith(EXIT_MARK) and trailer.endswith("\n"), (trailer, frames)
        return b"".join(frames).decode(errors="replace"), int(trailer[len(EXIT_MARK):])


class Talk:
    """A websocket, frame by frame."""

    def __init__(self, host, port, path, headers):
        self.io = socket.create_connection((host, port), timeout=60)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {path} HTTP/1.1", f"Host: {headers.pop('Host', f'{host}:{port}')}", "Upgrade: websocket", "Connection: Upgrade"]
        lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13"]
        lines += [f"{name}: {value}" for name, value in headers.items() if value != ""]
        self.io.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.buffer = self.io.makefile("rb")
        self.status = self.buffer.readline().decode()
        self.headers = http.client.parse_headers(self.buffer)
        assert " 101 " in self.status, self.status

    def send(self, payload, opcode=1):
        """Sends a frame; opcode 2 with nothing in it ends the input."""
        mask = os.urandom(4)
        size = len(payload)
        head = bytes([0x80 | opcode]) + (bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + struct.pack(">H", size))
        self.io.sendall(head + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload)))

    def frame(self):
        """Opcode and payload of the next frame; None at the end of the connection."""
        head = self.buffer.read(2)
        if len(head) < 2:
            return None
        size = head[1] & 127
        if size == 126:
            size = struct.unpack(">H", self.buffer.read(2))[0]
        elif size == 127:
            size = struct.unpack(">Q", self.buffer.read(8))[0]
        return head[0] & 15, self.buffer.read(size)

    def frames(self):
        """Data until the end mark, after which the connection ends without a close frame."""
        out = []
        while True:
            frame = self.frame()
            assert frame is not None, f"no end mark after {out}"
            opcode, payload = frame
            if opcode == 2:
                assert payload == b"", payload
                assert self.frame() is None
                return out
            if opcode == 1:
                out.append(payload)

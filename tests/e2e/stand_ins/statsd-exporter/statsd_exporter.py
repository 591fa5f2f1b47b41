"""Timers with tags, which come as `name,label=value:milliseconds|ms` by UDP, as summaries in seconds by HTTP."""

import re
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseRequestHandler, UDPServer
from threading import Thread

TIMER = re.compile(r"([\w.]+)((?:,\w+=[^,:]+)*):([\d.]+)\|ms")
totals: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0])  # by name and labels: count and sum


class Receive(BaseRequestHandler):
    def handle(self) -> None:
        for line in self.request[0].decode().splitlines():
            if found := TIMER.fullmatch(line):
                labels = ",".join(re.sub("=(.*)", r'="\1"', tag) for tag in found[2].split(",")[1:])
                total = totals[found[1].replace(".", "_"), labels]
                total[0] += 1
                total[1] += float(found[3]) / 1000


class Tell(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        for (name, labels), (count, seconds) in list(totals.items()):
            self.wfile.write(f"{name}_count{{{labels}}} {count}\n{name}_sum{{{labels}}} {seconds}\n".encode())


Thread(target=UDPServer(("", 9125), Receive).serve_forever, daemon=True).start()
ThreadingHTTPServer(("", 9102), Tell).serve_forever()

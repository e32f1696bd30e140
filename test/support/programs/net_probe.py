"""Measure a network path: `serve HOST` answers; `probe HOST COUNT MEGABYTES` prints JSON.

Round trips are UDP datagrams of 100 bytes, one at a time; bulk is TCP, receiver-confirmed.
"""

import json
import socket
import statistics
import sys
import threading
import time

UDP, TCP = 9901, 9902


def serve(host):
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((host, UDP))
    tcp = socket.create_server((host, TCP))

    def echo():
        while True:
            data, sender = udp.recvfrom(2048)
            udp.sendto(data, sender)

    threading.Thread(target=echo, daemon=True).start()
    print("ready", flush=True)
    while True:
        connection, _ = tcp.accept()
        wanted = int.from_bytes(connection.recv(8, socket.MSG_WAITALL), "little")
        while wanted > 0 and (got := connection.recv(1 << 20)):
            wanted -= len(got)
        connection.sendall(b"k")
        connection.close()


def probe(host, count, megabytes):
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.connect((host, UDP))
    udp.settimeout(0.5)
    times, lost = [], 0
    for i in range(count):
        started = time.perf_counter()
        udp.send(i.to_bytes(4, "little") + bytes(96))
        try:
            while int.from_bytes(udp.recv(2048)[:4], "little") != i:
                pass
            times.append((time.perf_counter() - started) * 1e3)
        except TimeoutError:
            lost += 1
    out = {"lost": lost, "median_ms": statistics.median(times) if times else None}
    if times:
        times.sort()
        out["p5_ms"], out["p95_ms"] = times[len(times) // 20], times[-1 - len(times) // 20]
    if megabytes:
        size = int(megabytes * 1e6)
        with socket.create_connection((host, TCP)) as tcp:
            started = time.perf_counter()
            tcp.sendall(size.to_bytes(8, "little"))
            tcp.sendall(bytes(size))
            tcp.recv(1)
            out["mbit"] = size * 8 / 1e6 / (time.perf_counter() - started)
    print(json.dumps(out))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        probe(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))

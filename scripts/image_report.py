"""Prints size, memory and time until ready beside their goals. Called by scripts/image-report, in the lab."""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time

RUNS, HOST, PORT = 15, "127.0.77.1", 8488
REQUEST = f"GET /ready HTTP/1.1\r\nHost: {HOST}:{PORT}\r\nConnection: close\r\n\r\n".encode()


def is_ready():
    try:
        with socket.create_connection((HOST, PORT), timeout=1) as connection:
            connection.sendall(REQUEST)
            return connection.recv(12).endswith(b"200")
    except OSError:
        return False


def memory(pid):
    """Resident memory in KiB: now, and at most."""
    with open(f"/proc/{pid}/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["VmRSS"].split()[0]), int(fields["VmHWM"].split()[0])


def ran(pid):
    """Clock ticks of processor time so far."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def wait_idle(pid):
    """Until it has not run for half a second."""
    before, since = ran(pid), time.monotonic()
    while time.monotonic() - since < 0.5:
        time.sleep(0.05)
        if ran(pid) != before:
            before, since = ran(pid), time.monotonic()


def measure(binary):
    """Milliseconds from exec to ready, and the memory when idle."""
    with tempfile.TemporaryDirectory() as volume:
        variables = {
            "GMSA_DIR": volume,
            "GMSA_LISTEN": f"{HOST}:{PORT}",
            "GMSA_CREDENTIAL_SPECS": f"arn:aws:s3:::{os.environ['LAB_BUCKET']}/webapp01.json",
            "AWS_REGION": os.environ["LAB_AWS_REGION"],
            "AWS_ENDPOINT_URL": os.environ["LAB_AWS_ENDPOINT"],
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
        }
        start = time.perf_counter()
        process = subprocess.Popen([binary, "run"], env=variables, stderr=subprocess.DEVNULL)
        try:
            while not is_ready():
                if process.poll() is not None or time.perf_counter() - start > 60:
                    sys.exit("image-report: the sidecar does not get ready in the lab")
                time.sleep(0.001)
            took = (time.perf_counter() - start) * 1000
            wait_idle(process.pid)
            return took, *memory(process.pid)
        finally:
            process.terminate()
            process.wait()


def main():
    binary, size = sys.argv[1], int(sys.argv[2])
    runs = [measure(binary) for _ in range(RUNS)]
    took, resident, peak = zip(*runs)
    rows = [
        ("image, uncompressed", f"{size / 1e6:.2f} MB", "9 MB", size <= 9e6),
        ("of it the binary", f"{os.path.getsize(binary) / 1e6:.2f} MB", "", None),
        ("memory, idle with one ticket", f"{max(resident) / 1024:.1f} MiB", "10 MiB", max(resident) <= 10 * 1024),
        ("memory, at most", f"{max(peak) / 1024:.1f} MiB", "", None),
        ("ready after exec, median", f"{statistics.median(took):.0f} ms", "150 ms", statistics.median(took) <= 150),
        ("ready after exec, fastest", f"{min(took):.0f} ms", "", None),
        ("ready after exec, slowest", f"{max(took):.0f} ms", "", None),
    ]
    print(f"{'':30} {'measured':>10} {'goal':>8}   ({RUNS} starts)")
    for name, measured, goal, met in rows:
        print(f"{name:30} {measured:>10} {goal:>8}   {'' if met is None else 'met' if met else 'MISSED'}".rstrip())


main()

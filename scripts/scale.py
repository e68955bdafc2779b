#!/usr/bin/python3
"""scale.py BINARY PLOT LEASES...: what scripts/bench-scale runs inside the lab.

For each number of leases one sidecar with that many gMSAs of one login, in CredSpecs of at most fifty: three starts, of
which the medians are told, and one more under strace, from which the messages are counted.
"""

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

if {"-h", "--help"} & set(sys.argv) or len(sys.argv) < 4:
    sys.exit(__doc__)

LAB = {name: value for name, value in os.environ.items() if name.startswith("LAB_")}
BINARY, PLOT, SIZES = os.path.abspath(sys.argv[1]), sys.argv[2], [int(size) for size in sys.argv[3:]]
ARN = json.loads(Path(LAB["LAB_ARNS"]).read_text())["gmsa/login"]
LISTEN, RUNS, PATIENCE, TOGETHER = "127.0.0.1:8489", 3, 300, 50


class Run:
    """A sidecar from its start until every lease holds a ticket, and a second of rest."""

    def __init__(self, leases, wrapper=()):
        self.folder = Path(tempfile.mkdtemp())
        names = [f"Scale{number:03}" for number in range(1, leases + 1)]
        specs = [self.credspec(names[at:at + TOGETHER]) for at in range(0, leases, TOGETHER)]
        environment = {
            "PATH": os.environ["PATH"], "GMSA_DIR": f"{self.folder}/volume", "GMSA_LISTEN": LISTEN, "GMSA_LOG": "warn",
            "GMSA_CREDENTIAL_SPECS": " ".join(specs), "GMSA_DOMAIN_CONTROLLERS": LAB["LAB_DC1"],
            "AWS_ENDPOINT_URL": LAB["LAB_AWS_ENDPOINT"], "AWS_REGION": LAB["LAB_AWS_REGION"],
            "AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench",
            "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt",
        }
        os.mkdir(environment["GMSA_DIR"])
        start = time.monotonic()
        process = subprocess.Popen([*wrapper, BINARY, "run"], env=environment, stdin=subprocess.DEVNULL)
        try:
            while not self.ready():
                if process.poll() is not None or time.monotonic() - start > PATIENCE:
                    sys.exit(f"{leases} leases: not ready")
                time.sleep(0.005)
            self.wall = time.monotonic() - start
            if not wrapper:
                stat = Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2].split()
                self.cpu = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
                time.sleep(1)
                status = Path(f"/proc/{process.pid}/status").read_text()
                self.memory = {name: int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) for name in ("VmRSS", "VmHWM")}
        finally:
            # strace passes no signal on.
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(children[0]) if wrapper else process.pid, signal.SIGTERM)
            process.wait()
        written = sum(1 for _ in Path(environment["GMSA_DIR"]).glob("*/krb5cc"))
        if written != leases:
            sys.exit(f"{leases} leases, {written} tickets")
        shutil.rmtree(self.folder)

    def credspec(self, names):
        path = self.folder / f"{names[0]}.json"
        path.write_text(json.dumps({
            "CmsPlugins": ["ActiveDirectory"],
            "DomainJoinConfig": {"DnsName": LAB["LAB_DOMAIN"], "NetBiosName": LAB["LAB_NETBIOS"], "MachineAccountName": names[0]},
            "ActiveDirectoryConfig": {
                "GroupManagedServiceAccounts": [{"Name": name, "Scope": LAB["LAB_DOMAIN"]} for name in names],
                "HostAccountConfig": {"PluginInput": {"CredentialArn": ARN}},
            },
        }))
        return f"file://{path}"

    def ready(self):
        try:
            urllib.request.urlopen(f"http://{LISTEN}/gate", timeout=5).close()
            return True
        except (urllib.error.HTTPError, OSError):
            return False


def messages(leases):
    """How often one run writes to the KDC and to LDAP, and how many connections it makes to them."""
    with tempfile.NamedTemporaryFile("r", errors="replace") as trace:
        calls = "trace=connect,sendto,sendmsg,write,writev"
        Run(leases, ["strace", "-f", "-y", "-qq", "-s0", "-e", calls, "-o", trace.name])
        ports, sent, made = {}, {88: 0, 389: 0}, {88: 0, 389: 0}
        for line in trace:
            call = re.match(r"\d+ +(\w+)\(\d+<socket:\[(\d+)\]>", line)
            if not call:
                continue
            if port := re.search(r"sin_port=htons\((88|389)\)", line):
                ports[call[2]] = int(port[1])
                made[int(port[1])] += 1
            elif call[2] in ports:
                sent[ports[call[2]]] += 1
    return sent, made


def plot(rows):
    """Time and memory over the leases, both logarithmic."""
    from math import log10
    width, height, left, bottom = 640, 300, 60, 40
    low, high = 0, log10(max(rows)) or 1
    x = lambda leases: left + (width - left - 20) * (log10(leases) - low) / (high - low)
    series = [("#1c7c54", "ms to all ready", {n: row["wall"] * 1e3 for n, row in rows.items()}),
              ("#a35a00", "ms of CPU until then", {n: row["cpu"] * 1e3 for n, row in rows.items()}),
              ("#3355aa", "kB resident", {n: row["rss"] for n, row in rows.items()})]
    top = max(log10(max(value, 1)) for *_, values in series for value in values.values())
    top = int(top) + 1
    y = lambda value: 20 + (height - bottom - 20) * (1 - log10(max(value, 1)) / top)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="white"/>']
    for power in range(top + 1):
        at = y(10 ** power)
        out.append(f'<path d="M{left} {at:.1f}H{width - 20}" stroke="#ddd"/><text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{10 ** power}</text>')
    for leases in rows:
        out.append(f'<text x="{x(leases):.1f}" y="{height - 22}" text-anchor="middle">{leases}</text>')
    out.append(f'<text x="{(left + width) / 2}" y="{height - 6}" text-anchor="middle">leases</text>')
    for place, (colour, name, values) in enumerate(series):
        points = " ".join(f"{x(n):.1f},{y(value):.1f}" for n, value in values.items())
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{x(n):.1f}" cy="{y(value):.1f}" r="3" fill="{colour}"/>' for n, value in values.items()]
        out.append(f'<text x="{left + 10}" y="{36 + 16 * place}" fill="{colour}">{name}</text>')
    Path(PLOT).write_text("\n".join([*out, "</svg>", ""]))


print("| leases | until all are ready | CPU until then | CPU a lease | to the KDC | to LDAP | connections | resident | a lease |")
print("| --: | --: | --: | --: | --: | --: | --: | --: | --: |")
rows = {}
for size in SIZES:
    runs = [Run(size) for _ in range(RUNS)]
    sent, made = messages(size)
    middle = lambda value: statistics.median(map(value, runs))
    row = {"wall": middle(lambda run: run.wall), "cpu": middle(lambda run: run.cpu), "rss": middle(lambda run: run.memory["VmRSS"])}
    rows[size] = row
    more = (row["rss"] - rows[SIZES[0]]["rss"]) / (size - SIZES[0]) if size > SIZES[0] else None
    cells = [size, f"{row['wall'] * 1e3:.0f} ms", f"{row['cpu'] * 1e3:.0f} ms", f"{row['cpu'] * 1e3 / size:.1f} ms", sent[88], sent[389],
             sum(made.values()), f"{row['rss'] / 1024:.1f} MiB", "" if more is None else f"{more:.1f} KiB"]
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)
plot(rows)

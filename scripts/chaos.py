"""The part of scripts/chaos that runs inside the lab's network namespace. See there."""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from pathlib import Path

env = os.environ
ROOT = Path(__file__).resolve().parent.parent
DCS = {"dc1": env["LAB_DC1"], "dc2": env["LAB_DC2"]} if "LAB_DC1" in env else {}
SPECS, LOGIN = f"{env.get('LAB_BUCKET')}/chaos", "svc-chaos"
SECRET = f"gmsa/chaos-{int(time.time())}"  # a new one each time: its versions tell what was tried
PATIENCE = 120  # seconds for anything to become true; far more than it takes


def run(*command, check=True, **options):
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **options}
    done = subprocess.run([str(word) for word in command], **options)
    if check and done.returncode:
        raise RuntimeError(f"{command}: exit {done.returncode}: {(done.stderr or b'').decode()}")
    return done


def wait(what, condition, patience=PATIENCE):
    """Seconds until the condition holds."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > patience:
            raise TimeoutError(f"waited {patience} s in vain for {what}")
        time.sleep(0.05)
    return time.monotonic() - start


class Controllers:
    """The lab's two DCs."""

    def __init__(self):
        self.stopped, self.frozen = set(), []

    def shell(self, script):
        run("bash", "-c", f'set -euo pipefail; . lab/env.sh; . lab/parts/common.sh; . lab/parts/ad.sh; {script}', cwd=ROOT)

    def stop(self, dc):
        self.stopped.add(dc)
        self.shell(f"stop_dc {dc}")

    def start(self, dc):
        self.shell(f"start_dc {dc} {env['LAB_' + dc.upper() + '_IP']}")
        self.stopped.discard(dc)

    def processes(self, dc, task=None):
        """Those of a DC, by the session that lab/up started it in; or of one of its services."""
        leader = Path(env["LAB_STATE"], dc, "run/samba.pid").read_text().split()[0]
        listed = subprocess.run(["ps", "-eo", "pid=,sess=,args="], capture_output=True, text=True).stdout
        rows = (line.split(None, 2) for line in listed.splitlines())
        return [int(pid) for pid, session, title in rows if session == leader and (not task or f"task[{task}]" in title)]

    @contextlib.contextmanager
    def hung(self, *dcs, task=None):
        frozen = [pid for dc in dcs for pid in self.processes(dc, task)]
        assert frozen, f"no process {task} of {dcs}"
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in frozen:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def sam(self, dc):
        return Path(env["LAB_STATE"], dc, "private/sam.ldb")

    def look(self, dc, account, attribute):
        found = run("ldbsearch", "-H", self.sam(dc), f"(sAMAccountName={account})", attribute, stdout=subprocess.PIPE).stdout
        return next((line for line in found.decode().splitlines() if line.startswith(attribute)), None)

    def replicated(self, account, attribute):
        """Asks for it until it is: left to itself a DC that was gone may not be turned to for minutes."""

        def both():
            if self.look("dc1", account, attribute) == self.look("dc2", account, attribute) is not None:
                return True
            login = f"{env['LAB_ADMIN']}%{env['LAB_ADMIN_PW']}"
            words = ["drs", "replicate", env["LAB_DC2"], env["LAB_DC1"], env["LAB_BASEDN"], "-U", login, "-s", env["LAB_SMB_CONF"]]
            run("samba-tool", *words, check=False)
            return False

        return wait(f"{account} on dc2", both)


class Aws:
    """The stand-ins, and the proxy that breaks them."""

    def __init__(self):
        command = [ROOT / "lab/aws/fault_proxy.py", "--listen", "127.0.0.1:0", "--upstream", f"{env['LAB_AWS_IP']}:5000"]
        self.process = subprocess.Popen(["/usr/bin/python3", "-B", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.endpoint = "http://" + self.process.stdout.readline().split()[-1]

    def rules(self, *rules):
        request = urllib.request.Request(self.endpoint + "/__rules", json.dumps(rules).encode(), method="PUT")
        urllib.request.urlopen(request, timeout=10).close()

    def call(self, service, path, body, method, **headers):
        """Past the proxy. moto looks at the service's name in the credential only."""
        scope = f"chaos/20200101/{env['LAB_AWS_REGION']}/{service}/aws4_request"
        headers["Authorization"] = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"
        request = urllib.request.Request(env["LAB_AWS_ENDPOINT"] + path, body, headers, method=method)
        return urllib.request.urlopen(request, timeout=30).read()

    def secret(self, action, **arguments):
        headers = {"X-Amz-Target": f"secretsmanager.{action}", "Content-Type": "application/x-amz-json-1.1"}
        return json.loads(self.call("secretsmanager", "/", json.dumps(arguments).encode(), "POST", **headers))

    def put(self, key, document):
        self.call("s3", f"/{SPECS}/{key}", json.dumps(document).encode(), "PUT", **{"Content-Type": "application/json"})


class Sidecar:
    """The one under test. Its volume is a tmpfs so small that it can be filled."""

    def __init__(self, aws, accounts):
        self.volume = Path(tempfile.mkdtemp(prefix="gmsa-chaos-"))
        run("mount", "-t", "tmpfs", "-o", "size=512k,mode=755", "tmpfs", self.volume)
        self.clock, self.log = Path(tempfile.mkstemp()[1]), Path(env["LAB_STATE"], "log/chaos-sidecar.log")
        self.log.write_text("")
        self.shift(0)
        self.process, self.refreshed, self.accounts = None, 0, accounts
        self.binary = (ROOT / env["GMSA_SIDECAR_UNDER_TEST"]).resolve()
        headers = run("readelf", "-l", self.binary, stdout=subprocess.PIPE).stdout
        self.environment = {
            "PATH": env["PATH"], "GMSA_DIR": str(self.volume), "GMSA_LISTEN": "127.0.0.1:8488", "GMSA_TICKET_LIFETIME": "20m",
            "GMSA_CREDENTIAL_SPECS": ",".join(f"arn:aws:s3:::{SPECS}/{account}.json" for account in accounts),
            "AWS_ENDPOINT_URL": aws.endpoint, "AWS_REGION": env["LAB_AWS_REGION"], "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ACCESS_KEY_ID": "chaos", "AWS_SECRET_ACCESS_KEY": "chaos",
        }
        # The containers of a task have one clock, so the app shares it; a static binary knows nothing of libfaketime.
        self.moved_clock = {} if b"INTERP" not in headers else {
            "LD_PRELOAD": "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_TIMESTAMP_FILE": str(self.clock), "FAKETIME_NO_CACHE": "1",
        }
        self.start()

    def shift(self, seconds):
        self.clock.write_text(f"{seconds:+d}\n")

    def start(self, **changed):
        """With these variables changed, or unset where they are None."""
        own = self.environment | self.moved_clock | changed
        own = {name: value for name, value in own.items() if value is not None}
        with self.log.open("a") as log:
            self.process = subprocess.Popen([self.binary, "run"], env=own, stdin=subprocess.DEVNULL, stderr=log)
        self.refreshed = 0

    def kill(self):
        self.process.kill()
        self.process.wait()

    def ask(self, path, method="GET", patience=10):
        request = urllib.request.Request("http://127.0.0.1:8488" + path, method=method)
        try:
            with urllib.request.urlopen(request, timeout=patience) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return None, ""

    def ready(self):
        return self.ask("/ready")[0] == 200

    def renewals(self):
        """Successful renewals of each account since its start."""
        found = {account: 0 for account in self.accounts}
        for line in self.ask("/metrics")[1].splitlines():
            if line.startswith("gmsa_renewals_total") and 'result="success"' in line:
                found[line.split('account="')[1].split('"')[0]] = int(float(line.split()[-1]))
        return found

    def more_than(self, before):
        return all(count > before[account] for account, count in self.renewals().items())

    def serving(self):
        """The DC of the first lease's last ticket."""
        leases = json.loads(self.ask("/leases")[1] or '{"leases": [{}]}')["leases"]
        return next((dc for dc, name in DCS.items() if leases[0].get("dc") == name), "dc1")

    def may_refresh(self):
        time.sleep(max(0, self.refreshed + 10.5 - time.monotonic()))

    def refresh(self):
        wait("the refresh to be taken", lambda: self.ask("/refresh", "POST")[0] == 202)
        self.refreshed = time.monotonic()

    def last_lines(self):
        return self.log.read_text().splitlines()[-8:]

    def told(self, code, offset):
        return f'"code":"{code}"' in self.log.read_text()[offset:]


class App(threading.Thread):
    """Logs in to PostgreSQL every second, each account in turn, with a fresh copy of the cache, so that it has to get a
    service ticket with our TGT each time. A login is tried once more after a second, as a connection pool does. If it
    fails again while a DC is broken, another account's login tells whether any could have worked."""

    def __init__(self, world):
        super().__init__(daemon=True)
        self.world, self.over = world, threading.Event()
        self.under = "nothing"
        self.tried, self.failed, self.impossible = defaultdict(int), defaultdict(int), defaultdict(int)
        self.slowest_health, self.unhealthy, self.words = 0.0, 0, defaultdict(int)
        self.places = threading.Semaphore(8)
        self.others = os.path.join(tempfile.mkdtemp(), "reference")
        run("kinit", "-c", self.others, f"{LOGIN}@{env['LAB_REALM']}", stdin=None, input=(world.password + "\n").encode())

    def run(self):
        turn = 0
        while not self.over.wait(1):
            account, turn = self.world.accounts[turn % len(self.world.accounts)], turn + 1
            self.health()
            if self.places.acquire(blocking=False):
                threading.Thread(target=self.login, args=(account, self.under), daemon=True).start()

    def health(self):
        start, process = time.monotonic(), self.world.sidecar.process
        answered = self.world.sidecar.ask("/health", patience=5)[0] == 200
        if process is self.world.sidecar.process and process.poll() is None and self.world.started + 5 < start:
            self.slowest_health = max(self.slowest_health, time.monotonic() - start)
            self.unhealthy += not answered

    def login(self, account, under):
        self.tried[under] += 1
        try:
            why = self.attempt(account)
            if why and (self.over.wait(1) or (why := self.attempt(account))):
                if self.world.impaired and not self.possible():
                    self.impossible[under] += 1
                elif not self.over.is_set():
                    self.failed[under] += 1
                    self.words[f"{under}: {why}"] += 1
        finally:
            self.places.release()

    def attempt(self, account):
        """Nothing, or why it failed."""
        first = account == self.world.accounts[0]
        cache = self.world.sidecar.volume / ("krb5cc" if first else f"{account}/krb5cc")
        user = f"{account}$@{env['LAB_REALM']}"
        where = f"host={env['LAB_DB']} hostaddr={env['LAB_DB_IP']} user='{user}' dbname=app gssencmode=require connect_timeout=15"
        return self.with_copy(cache, "psql", where, "-tAc", "SELECT 1")

    def possible(self):
        return self.with_copy(self.others, "kvno", f"postgres/{env['LAB_DB']}") is None

    def with_copy(self, cache, *command):
        with tempfile.TemporaryDirectory() as folder:
            copy = os.path.join(folder, "krb5cc")
            try:
                shutil.copyfile(cache, copy)
                sidecar = self.world.sidecar
                own = {**env, **sidecar.moved_clock, "KRB5CCNAME": copy, "KRB5_CONFIG": str(sidecar.volume / "krb5.conf")}
                done = run(*command, check=False, env=own, timeout=30)
            except (OSError, subprocess.TimeoutExpired) as error:
                return str(error)
            return done.stderr.decode().strip() if done.returncode else None


class World:
    """All of it."""

    def __init__(self, rotations):
        self.dcs, self.aws = Controllers(), Aws()
        self.accounts = [f"Chaos{number}" for number in range(max(1, rotations))]
        self.fresh, self.impaired, self.version = list(self.accounts), False, 0
        self.make()
        self.sidecar, self.app = Sidecar(self.aws, self.accounts), App(self)
        self.started = time.monotonic()

    def make(self):
        """The login, the gMSAs (their names free from an earlier run), their CredSpecs, their roles in the database."""
        sam = ["-H", self.dcs.sam("dc1"), "-s", env["LAB_SMB_CONF"]]
        self.password = "Chaos-Passw0rd-0"
        if run("samba-tool", "user", "create", LOGIN, self.password, *sam, check=False).returncode:
            run("samba-tool", "user", "setpassword", LOGIN, f"--newpassword={self.password}", *sam)
        run("samba-tool", "group", "addmembers", env["LAB_GROUP"], LOGIN, *sam)
        arn = self.aws.secret("CreateSecret", Name=SECRET, SecretString=self.login())["ARN"]
        for account in self.accounts:
            run(ROOT / "lab/rotate", "del", account, check=False)
            run(ROOT / "lab/rotate", "new", account)
            role = f"CREATE ROLE \"{account}$@{env['LAB_REALM']}\" LOGIN"
            run("psql", "-h", env["LAB_PG"], "-U", "postgres", "-c", role, check=False)
            self.aws.put(f"{account}.json", {
                "CmsPlugins": ["ActiveDirectory"],
                "DomainJoinConfig": {"DnsName": env["LAB_DOMAIN"], "NetBiosName": env["LAB_NETBIOS"], "MachineAccountName": account},
                "ActiveDirectoryConfig": {
                    "GroupManagedServiceAccounts": [{"Name": account, "Scope": env["LAB_DOMAIN"]}],
                    "HostAccountConfig": {"PluginInput": {"CredentialArn": arn}},
                },
            })
        for account in self.accounts:
            for attribute in ("msDS-GroupMSAMembership", "userAccountControl"):
                self.dcs.replicated(f"{account}$", attribute)
        self.dcs.replicated(LOGIN, "pwdLastSet")

    def login(self):
        return json.dumps({"username": LOGIN, "password": self.password, "domainName": env["LAB_DOMAIN"]})

    def restart(self, **changed):
        self.sidecar.kill()
        self.started = time.monotonic()
        self.sidecar.start(**changed)

    def close(self):
        self.app.over.set()
        # It may be asking for /health this moment; a sidecar that ends does not answer.
        if self.app.is_alive():
            self.app.join(PATIENCE)
        self.sidecar.process.terminate()
        self.aws.process.terminate()
        run("umount", "-l", self.sidecar.volume)


# --- Faults. Each is a generator that injects, yields once, and heals. What it yields tells when the sidecar is over it:
# THROUGH  a renewal, asked for while the fault lasts, succeeds
# AFTER    it fails, and one succeeds by itself once the fault is healed
# or a function that says so

THROUGH, AFTER = "through", "after"
FAULTS = {}


def fault(name, impairs=False, hold=0):
    """`impairs`: a DC is broken, so the app's own Kerberos library may fail; `hold`: how long at least, in seconds."""

    def known(inject):
        inject.name, inject.impairs, inject.hold = name, impairs, hold
        FAULTS[name] = inject
        return inject

    return known


@fault("DC stopped", impairs=True)
def dc_stopped(world):
    dc = world.sidecar.serving()
    world.dcs.stop(dc)
    yield THROUGH
    world.dcs.start(dc)


@fault("DC hung", impairs=True)
def dc_hung(world):
    with world.dcs.hung(world.sidecar.serving()):
        yield THROUGH


@fault("KDC hung, LDAP works", impairs=True)
def kdc_hung(world):
    with world.dcs.hung(world.sidecar.serving(), task="kdc"):
        yield THROUGH


@fault("LDAP hung, KDC works", impairs=True)
def ldap_hung(world):
    with world.dcs.hung(world.sidecar.serving(), task="ldap"):
        world.restart()  # a kept key needs no LDAP
        yield THROUGH


@fault("both DCs hung", impairs=True, hold=10)
def both_hung(world):
    with world.dcs.hung(*DCS):
        yield AFTER


@fault("both DCs stopped", impairs=True, hold=10)
def both_stopped(world):
    for dc in DCS:
        world.dcs.stop(dc)
    yield AFTER
    for dc in DCS:
        world.dcs.start(dc)


@fault("DNS gone", impairs=True, hold=10)
def dns_gone(world):
    with world.dcs.hung(*DCS, task="dns"):
        world.restart()
        yield AFTER


@contextlib.contextmanager
def dropped(network):
    """Packets to these addresses vanish."""
    rule = ["INPUT", "-d", network, "-j", "DROP"]
    run("iptables", "-w", "-I", *rule)
    try:
        yield
    finally:
        run("iptables", "-w", "-D", *rule)


@fault("59 of 60 DCs dead", hold=5)
def most_dead(world):
    """The app's own library is not impaired: krb5.conf names those that answered first."""
    hosts = [f"127.66.60.{number}" for number in range(1, 60)] + [DCS["dc1"]]
    with dropped("127.66.60.0/24"):
        world.restart(GMSA_DOMAIN_CONTROLLERS=" ".join(hosts))
        yield lambda: world.sidecar.more_than({account: 0 for account in world.accounts})
    world.restart()


@fault("credentials endpoint: 503", hold=8)
def credentials_down(world):
    """The role's credentials instead of those in the environment; a start needs them."""
    path = "/latest/meta-data/iam/security-credentials/default-role"
    world.aws.rules({"path": path, "action": "status", "status": 503, "body": "not yet"})
    uri = world.aws.endpoint + path
    world.restart(AWS_CONTAINER_CREDENTIALS_FULL_URI=uri, AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)
    yield AFTER
    world.aws.rules()


ANSWERS = {
    "403": {"action": "status", "status": 403, "body": {"__type": "AccessDeniedException", "message": "no"}},
    "500": {"action": "status", "status": 500},
    "503": {"action": "status", "status": 503},
    "garbage": {"action": "garbage"},
    "silence": {"action": "hang"},
    "slow bytes": {"action": "slow", "rate": 5},
}


def aws_faults():
    for words, answer in ANSWERS.items():

        def s3(world, answer=answer):
            world.aws.rules({"path": f"/{SPECS}/*", **answer})
            yield THROUGH  # the CredSpec is known
            world.aws.rules()

        def secrets(world, answer=answer):
            world.aws.rules({"target": "secretsmanager.*", **answer})
            world.restart()  # a kept key needs no login
            yield AFTER
            world.aws.rules()

        fault(f"S3: {words}")(s3)
        fault(f"Secrets Manager: {words}", hold=8)(secrets)


aws_faults()


@fault("secret rotated")
def secret_rotated(world):
    """In the order of AWS's rotation functions; then a start, which needs the login."""
    old = world.aws.secret("DescribeSecret", SecretId=SECRET)["VersionIdsToStages"]
    old = next(version for version, stages in old.items() if "AWSCURRENT" in stages)
    world.version += 1
    world.password = f"Chaos-Passw0rd-{world.version}"
    pending = world.aws.secret("PutSecretValue", SecretId=SECRET, SecretString=world.login(), VersionStages=["AWSPENDING"])
    sam = ["-H", world.dcs.sam("dc1"), "-s", env["LAB_SMB_CONF"]]
    run("samba-tool", "user", "setpassword", LOGIN, f"--newpassword={world.password}", *sam)
    world.dcs.replicated(LOGIN, "pwdLastSet")
    moved = {"VersionStage": "AWSCURRENT", "MoveToVersionId": pending["VersionId"], "RemoveFromVersionId": old}
    world.aws.secret("UpdateSecretVersionStage", SecretId=SECRET, **moved)
    current = world.aws.secret("GetSecretValue", SecretId=SECRET, VersionStage="AWSCURRENT")
    assert current["VersionId"] == pending["VersionId"], "the stand-in did not move the stage"
    world.restart()
    yield lambda: world.sidecar.more_than({account: 0 for account in world.accounts})


@fault("gMSA rotated")
def gmsa_rotated(world):
    run(ROOT / "lab/rotate", world.fresh.pop())  # once for each account
    yield THROUGH


@fault("cache deleted")
def cache_deleted(world):
    paths = [world.sidecar.volume / "krb5cc", *(world.sidecar.volume / account / "krb5cc" for account in world.accounts)]
    for path in paths:
        path.unlink()
    yield lambda: all(path.exists() for path in paths)


@fault("cache overwritten")
def cache_overwritten(world):
    path = world.sidecar.volume / "krb5cc"
    whole = path.stat().st_size
    path.write_bytes(b"\x05\x04 no ticket at all")
    yield lambda: path.stat().st_size >= whole


@fault("disk full", hold=3)
def disk_full(world):
    filler, offset = world.sidecar.volume / "filler", world.sidecar.log.stat().st_size
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    world.sidecar.refresh()
    wait("the fault to be told", lambda: world.sidecar.told("volume-write-failed", offset))
    yield AFTER
    filler.unlink()


@fault("sidecar killed")
def sidecar_killed(world):
    world.restart()
    yield lambda: world.sidecar.more_than({account: 0 for account in world.accounts})


@fault("clock 7 min ahead", hold=8)
def clock_ahead(world):
    world.sidecar.shift(420)
    yield THROUGH
    world.sidecar.shift(0)


@fault("clock 7 min behind", hold=8)
def clock_behind(world):
    world.sidecar.shift(-420)
    yield THROUGH
    world.sidecar.shift(0)


QUICK = ["cache deleted", "DC stopped", "gMSA rotated", "secret rotated", "DC hung", "disk full"]


def schedule(options, random):
    """Names of faults in the order of their injection."""
    if options.quick:
        return list(QUICK)
    if options.only:
        return options.only * int(max(1, options.minutes * 4 / len(options.only)))
    order = []
    while len(order) < options.minutes * 4:  # none takes much more than a quarter of a minute
        some = list(FAULTS)
        random.shuffle(some)
        order += some
    return order


def inject(world, name):
    """One fault, from a calm state to a calm state; the seconds it took to be over it."""
    inject = FAULTS[name]
    world.sidecar.may_refresh()
    before = world.sidecar.renewals()
    start = time.monotonic()
    world.app.under, world.impaired = name, inject.impairs
    steps = inject(world)
    over = next(steps)
    try:
        injected = time.monotonic()
        if world.started > start:
            before = {account: 0 for account in world.accounts}
        if over in (THROUGH, AFTER) and max(world.started, world.sidecar.refreshed) < start:
            world.sidecar.refresh()
        if over == THROUGH:
            took = wait("a renewal in spite of it", lambda: world.sidecar.more_than(before))
        elif over != AFTER:
            took = wait("what it takes to be over", over)
        time.sleep(max(0, injected + inject.hold - time.monotonic()))
        before = world.sidecar.renewals()
    finally:
        for _ in steps:
            pass
    if over == AFTER:
        took = wait("a renewal after it", lambda: world.sidecar.more_than(before))
    wait("readiness", world.sidecar.ready)
    if inject.impairs:
        wait("the app's own library to be over it", world.app.possible)
    wait("a login", lambda: world.app.attempt(world.accounts[0]) is None)
    world.app.under, world.impaired = "nothing", False
    return took


def clock():
    return time.strftime("%H:%M:%S")


def table(world, recovered):
    print("\n| fault | injected | logins tried | failed | not possible | recovered in |\n| --- | --: | --: | --: | --: | --- |")
    for name in ["nothing", *FAULTS]:
        app, times = world.app, recovered.get(name, [])
        if app.tried[name] or times:
            took = f"{statistics.median(times):.1f} s (at most {max(times):.1f} s)" if times else ""
            counts = f"{app.tried[name]} | {app.failed[name]} | {app.impossible[name]}"
            print(f"| {name} | {len(times) or ''} | {counts} | {took} |")
    tried, failed = sum(world.app.tried.values()), sum(world.app.failed.values())
    print(f"\n{tried} logins, {failed} failed while a ticket could be had; /health: slowest answer "
          f"{world.app.slowest_health * 1000:.0f} ms, {world.app.unhealthy} without one")


def main():
    parser = argparse.ArgumentParser(prog="chaos")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=random.randrange(10000))
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--only", choices=FAULTS, nargs="+")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.list:
        return print("\n".join(FAULTS))
    chance = random.Random(options.seed)
    order = schedule(options, chance)
    print(f"seed {options.seed}: " + ", ".join(order), flush=True)
    recovered, wrong = defaultdict(list), []
    world = World(sum(name == "gMSA rotated" for name in order))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    try:
        took = wait("the first tickets", world.sidecar.ready)
        print(f"{clock()}  {', '.join(world.accounts)}: ready after {took:.1f} s", flush=True)
        world.app.start()
        end = time.monotonic() + (options.minutes * 60 if not options.quick else PATIENCE * len(order))
        for name in order:
            if time.monotonic() > end:
                break
            time.sleep(1 if options.quick else chance.uniform(0, 3))
            print(f"{clock()}  {name}", flush=True)
            try:
                took = inject(world, name)
            except TimeoutError as error:
                wrong.append(f"{name}: {error}")
                print(f"{clock()}  {wrong[-1]}; the log's last lines:", *world.sidecar.last_lines(), sep="\n", flush=True)
                world.restart()  # what comes next shall not suffer from it
                wait("readiness", world.sidecar.ready)
                continue
            recovered[name].append(took)
            print(f"{clock()}  {name}: over it after {took:.1f} s", flush=True)
            if world.sidecar.process.poll() is not None:
                raise RuntimeError(f"the sidecar ended with {world.sidecar.process.returncode}")
        time.sleep(3)
    except (TimeoutError, RuntimeError) as error:
        wrong.append(f"{world.app.under}: {error}")
    finally:
        world.close()
        time.sleep(1)
    table(world, recovered)
    wrong += [f"{count} logins, {words}" for words, count in world.app.words.items()]
    if world.app.unhealthy:
        wrong.append("/health was not answered")
    for words in wrong:
        print(f"FAIL  {words}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()

#!/usr/bin/python3
"""fleet_accounts.py: for scripts/bench-fleet, a login that counts its wrong passwords, and keytabs in $LAB_STATE/fleet."""

import os
import sys
from os import environ as env
from pathlib import Path

sys.dont_write_bytecode = True
sys.path[:0] = [f"{env['LAB_ROOT']}/parts", env["LAB_ROOT"]]
from directory import Directory  # noqa: E402
from gmsa import AES256, aes_key  # noqa: E402

if {"-h", "--help"} & set(sys.argv):
    sys.exit(__doc__)

LOGIN, THRESHOLD = "svc-fleet", 900


def keytab(name, account, password):
    import struct

    def counted(data):
        return struct.pack(">H", len(data)) + data

    key = aes_key(password.encode("utf-16-le"), env["LAB_REALM"] + account, 32)
    entry = struct.pack(">H", 1) + counted(env["LAB_REALM"].encode()) + counted(account.encode())
    entry += struct.pack(">IIBH", 1, 0, 1, AES256) + counted(key)
    path = folder / name
    path.touch(mode=0o600)
    path.write_bytes(b"\5\2" + struct.pack(">i", len(entry)) + entry)


directory, folder = Directory(), Path(env["LAB_STATE"], "fleet")
folder.mkdir(exist_ok=True)
if not directory.find(LOGIN):
    directory.user(LOGIN, "Fleet-Passw0rd")
    directory.lock_after(THRESHOLD, LOGIN)
keytab("login.keytab", env["LAB_USER"], env["LAB_USER_PW"])
keytab("wrong.keytab", LOGIN, "not-the-password")

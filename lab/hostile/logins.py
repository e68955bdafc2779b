#!/usr/bin/python3
"""Makes the logins of the tests that count proofs (lab/hostile/accounts runs it)."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "parts"))

import ldb  # noqa: E402
from directory import Directory  # noqa: E402

LOGINS = ["slow", "late", "silent", "swallowed", "dropped", "refused", "init", "error", "spelled"]

d = Directory()
names = [name for name in (f"svc-hostile-{name}" for name in LOGINS) if not d.find(name)]
if not names:
    sys.exit()
with d.all_or_nothing():
    users = [d.user(name, "Right-Passw0rd-1") for name in names]
    d.db.add_remove_group_members(os.environ["LAB_GROUP"], names)
    # The domain counts failures only where a policy could lock the account.
    policy = ldb.Message(ldb.Dn(d.db, f"CN=lock-after-3,CN=Password Settings Container,CN=System,{d.base}"))
    policy["to"] = ldb.MessageElement([str(user) for user in users], ldb.FLAG_MOD_ADD, "msDS-PSOAppliesTo")
    d.db.modify(policy)

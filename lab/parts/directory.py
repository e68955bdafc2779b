"""The lab's directory, changed straight in dc1's database: no running DC is needed, and a running one sees it at once."""

import os
from contextlib import contextmanager

import ldb
from samba.auth import system_session
from samba.domain.models import GroupManagedServiceAccount
from samba.nt_time import NT_TICKS_PER_SEC, nt_now
from samba.param import LoadParm
from samba.samdb import SamDB

RC4, AES = 4, 24
DAY = 24 * 3600 * NT_TICKS_PER_SEC


class Directory:
    def __init__(self):
        parameters = LoadParm()
        parameters.load(os.environ["LAB_SMB_CONF"])
        self.db = SamDB(url=os.environ["LAB_SAMDB"], session_info=system_session(), lp=parameters)
        self.base = str(self.db.domain_dn())

    @contextmanager
    def all_or_nothing(self):
        self.db.transaction_start()
        try:
            yield
        except BaseException:
            self.db.transaction_cancel()
            raise
        self.db.transaction_commit()

    def set(self, dn, **attributes):
        """Replace attributes: `_` in a name stands for `-`."""
        message = ldb.Message(ldb.Dn(self.db, str(dn)))
        for name, value in attributes.items():
            name = name.replace("_", "-")
            message[name] = ldb.MessageElement(value if isinstance(value, list) else str(value), ldb.FLAG_MOD_REPLACE, name)
        self.db.modify(message)

    def find(self, account):
        found = self.db.search(self.base, ldb.SCOPE_SUBTREE, f"(sAMAccountName={ldb.binary_encode(account)})", ["objectSid"])
        return found[0] if found else None

    def sid(self, account):
        return self.db.schema_format_value("objectSid", self.find(account)["objectSid"][0]).decode()

    def user(self, name, password, must_change=False):
        self.db.newuser(name, password, force_password_change_at_next_login_req=must_change)
        return self.find(name).dn

    def gmsa(self, name, reader, days=30, enctypes=RC4 | AES, enabled=True):
        """An account that `reader` (a group or a user) may read the password of; False if it is there already."""
        if self.find(name + "$"):
            return False
        GroupManagedServiceAccount(
            name=name,
            dns_host_name=f"{name.lower()}.{os.environ['LAB_DOMAIN']}",
            managed_password_interval=days,
            group_msa_membership=f"O:BAD:(A;;CCDCLCSWRPWPDTLOCRSDRCWDWO;;;{self.sid(reader)})",
        ).save(self.db)
        # Windows sets 28; with nothing set, tickets for the account would be encrypted with RC4.
        # A new account is disabled (userAccountControl 4130).
        self.set(self.find(name + "$").dn, msDS_SupportedEncryptionTypes=enctypes, userAccountControl=4096 if enabled else 4098)
        return True

    def spn(self, account, *names):
        self.set(self.find(account).dn, servicePrincipalName=list(names))

    def lock_after(self, threshold, account):
        """A password settings object for one account; the domain's own policy locks nobody."""
        minute = 60 * NT_TICKS_PER_SEC
        self.db.add({
            "dn": f"CN=lock-after-{threshold},CN=Password Settings Container,CN=System,{self.base}",
            "objectClass": "msDS-PasswordSettings",
            "msDS-PasswordSettingsPrecedence": "1",
            "msDS-PasswordReversibleEncryptionEnabled": "FALSE",
            "msDS-PasswordHistoryLength": "0",
            "msDS-PasswordComplexityEnabled": "FALSE",
            "msDS-MinimumPasswordLength": "0",
            "msDS-MinimumPasswordAge": "0",
            "msDS-MaximumPasswordAge": str(-(1 << 63)),
            "msDS-LockoutThreshold": str(threshold),
            "msDS-LockoutObservationWindow": str(-30 * minute),
            "msDS-LockoutDuration": str(-30 * minute),
            "msDS-PSOAppliesTo": str(self.find(account).dn),
        })

    def age_root_key(self, days):
        """One KDS root key that is old enough: passwords born in the past can then be derived, and
        none has to wait ten hours for a key to become usable."""
        container = f"CN=Master Root Keys,CN=Group Key Distribution Service,CN=Services,CN=Configuration,{self.base}"
        young = self.db.search(container, ldb.SCOPE_ONELEVEL)
        born = nt_now() - days * DAY
        self.db.new_gkdi_root_key(current_time=born, use_start_time=born)
        for key in young:
            self.db.delete(key.dn)

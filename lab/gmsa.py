#!/usr/bin/python3
"""Managed passwords and Kerberos keys, computed apart from Samba and from the product, to hold both against it.

gmsa.py show LDIF                            what the msDS-ManagedPassword in LDIF (- for stdin) holds, no secrets
gmsa.py keytab LDIF PRINCIPAL OUT [previous] write the keys of the current (or previous) password as a keytab
gmsa.py vectors                              fixed test vectors, as lab/vectors.json holds them

Sections are those of MS-ADTS (blob) and RFC 3961, 3962, 4757 (keys).
"""

import base64
import hashlib
import json
import struct
import sys
from collections import namedtuple

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

PASSWORD_BYTES = 256
AES256, AES128, RC4 = 18, 17, 23
TICKS = 10_000_000  # a second

Blob = namedtuple("Blob", "current previous query_interval unchanged_interval")


# --- MSDS-MANAGEDPASSWORD_BLOB, MS-ADTS 2.2.19

def parse(data):
    version, _, length, current, previous, query, unchanged = struct.unpack_from("<HHIHHHH", data)
    if version != 1 or length != len(data):
        raise SystemExit(f"not a managed password: version {version}, length {length} of {len(data)}")
    return Blob(
        data[current:current + PASSWORD_BYTES],
        data[previous:previous + PASSWORD_BYTES] if previous else None,
        struct.unpack_from("<Q", data, query)[0],
        struct.unpack_from("<Q", data, unchanged)[0],
    )


def build(blob):
    """As Samba does: no padding, so the intervals are not aligned."""
    body, offsets = b"", []
    for password in (blob.current, blob.previous):
        offsets.append(16 + len(body) if password else 0)
        body += password + b"\0\0" if password else b""
    for interval in (blob.query_interval, blob.unchanged_interval):
        offsets.append(16 + len(body))
        body += struct.pack("<Q", interval)
    return struct.pack("<HHIHHHH", 1, 0, 16 + len(body), *offsets) + body


def from_ldif(path):
    with sys.stdin if path == "-" else open(path) as file:
        for line in file.read().replace("\n ", "").splitlines():
            if line.startswith("msDS-ManagedPassword:: "):
                return parse(base64.b64decode(line.split(":: ", 1)[1]))
    raise SystemExit("no msDS-ManagedPassword there")


# --- keys

def salt(account, realm):
    return f"{realm.upper()}host{account.rstrip('$').lower()}.{realm.lower()}"


def utf8(password):
    """UTF-16LE to UTF-8; every surrogate without its partner becomes U+FFFD."""
    units, text, i = struct.unpack(f"<{len(password) // 2}H", password), "", 0
    while i < len(units):
        pair = 0xD800 <= units[i] < 0xDC00 and i + 1 < len(units) and 0xDC00 <= units[i + 1] < 0xE000
        if pair:
            text += chr(0x10000 + ((units[i] - 0xD800) << 10) + units[i + 1] - 0xDC00)
        else:
            text += "\ufffd" if 0xD800 <= units[i] < 0xE000 else chr(units[i])
        i += 2 if pair else 1
    return text.encode()


def n_fold(data, size):
    """RFC 3961 5.1: copies of `data`, each turned right by 13 more bits, added up in ones' complement."""
    def turn(bits, by):
        by %= len(bits)
        return bits[-by:] + bits[:-by] if by else bits

    bits, stream, copies = "".join(f"{byte:08b}" for byte in data), "", 0
    while len(stream) == 0 or len(stream) % (8 * size):
        stream, copies = stream + turn(bits, 13 * copies), copies + 1
    total, limit = 0, (1 << 8 * size) - 1
    for start in range(0, len(stream), 8 * size):
        total += int(stream[start:start + 8 * size], 2)
    while total > limit:
        total = (total & limit) + (total >> 8 * size)
    return total.to_bytes(size, "big")


def aes_key(password, salted_with, size):
    """RFC 3962 4: DK(PBKDF2(...), "kerberos")"""
    key = hashlib.pbkdf2_hmac("sha1", utf8(password), salted_with.encode(), 4096, size)
    block, derived = n_fold(b"kerberos", 16), b""
    while len(derived) < size:
        encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
        block = encryptor.update(block) + encryptor.finalize()
        derived += block
    return derived[:size]


def md4(data):
    """RFC 1320; OpenSSL 3 no longer offers it."""
    rounds = (
        (lambda x, y, z: x & y | ~x & z, 0, range(16), (3, 7, 11, 19)),
        (lambda x, y, z: x & y | x & z | y & z, 0x5A827999, [i % 4 * 4 + i // 4 for i in range(16)], (3, 5, 9, 13)),
        (lambda x, y, z: x ^ y ^ z, 0x6ED9EBA1, (0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15), (3, 9, 11, 15)),
    )
    state = [0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476]
    data += b"\x80" + b"\0" * ((55 - len(data)) % 64) + struct.pack("<Q", len(data) * 8)
    for start in range(0, len(data), 64):
        words, (a, b, c, d) = struct.unpack_from("<16I", data, start), state
        for function, constant, order, shifts in rounds:
            for i, word in enumerate(order):
                t = (a + function(b, c, d) + words[word] + constant) & 0xFFFFFFFF
                shift = shifts[i % 4]
                a, b, c, d = d, (t << shift | t >> 32 - shift) & 0xFFFFFFFF, b, c
        state = [(old + new) & 0xFFFFFFFF for old, new in zip(state, (a, b, c, d))]
    return struct.pack("<4I", *state)


def keys(password, salted_with):
    return {
        AES256: aes_key(password, salted_with, 32),
        AES128: aes_key(password, salted_with, 16),
        RC4: md4(password),
    }


def keytab(principal, password):
    name, realm = principal.split("@")

    def counted(data):
        return struct.pack(">H", len(data)) + data

    out = b"\x05\x02"
    for enctype, key in keys(password, salt(name, realm)).items():
        entry = struct.pack(">H", 1) + counted(realm.encode()) + counted(name.encode())
        entry += struct.pack(">IIBH", 1, 0, 1, enctype) + counted(key)  # name type, time, kvno, enctype
        out += struct.pack(">i", len(entry)) + entry
    return out


# --- vectors

def fixed_password(seed, awkward):
    """256 bytes that are always the same, with the units of `awkward` put in: {index: unit}"""
    units = list(struct.unpack("<128H", b"".join(hashlib.sha256(f"{seed} {i}".encode()).digest() for i in range(8))))
    for index, unit in awkward.items():
        units[index] = unit
    return struct.pack("<128H", *units)


def vectors():
    account, realm = "WebApp01$", "EXAMPLE.COM"
    current = fixed_password("current", {
        0: 0xFEFF,                 # no byte order mark here: an ordinary character
        10: 0x000A, 11: 0x000D,    # line ends
        20: 0x0000,                # not the end
        30: 0xD800, 31: 0x0041,    # a high surrogate alone
        40: 0xDC00, 41: 0x0042,    # a low surrogate alone
        50: 0xDBFF, 51: 0xDFFF,    # a true pair: U+10FFFF
        60: 0xDC01, 61: 0xD801, 62: 0x0043,  # a pair the wrong way round
        127: 0xD9AB,               # a high surrogate at the very end
    })
    previous = fixed_password("previous", {0: 0x0000, 127: 0x0000})
    query = 12 * 3600 * TICKS
    unchanged = query - 300 * TICKS

    def described(password):
        derived = keys(password, salt(account, realm))
        return {
            "utf16le": password.hex(),
            "utf8": utf8(password).hex(),
            "aes256": derived[AES256].hex(),
            "aes128": derived[AES128].hex(),
            "rc4": derived[RC4].hex(),
        }

    return {
        "account": account,
        "realm": realm,
        "salt": salt(account, realm),
        "current": described(current),
        "previous": described(previous),
        "query_interval_ticks": query,
        "unchanged_interval_ticks": unchanged,
        "blob": build(Blob(current, previous, query, unchanged)).hex(),
        "blob_without_previous": build(Blob(current, None, query, unchanged)).hex(),
    }


def show(blob):
    for name in ("current", "previous"):
        password = getattr(blob, name)
        if password is None:
            print(f"{name}: none")
            continue
        units = struct.unpack("<128H", password)
        lone = utf8(password).decode().count("\ufffd") - units.count(0xFFFD)
        print(f"{name}: sha256 {hashlib.sha256(password).hexdigest()[:16]}..., {lone} lone surrogates, {units.count(0)} NUL units")
    print(f"query interval: {blob.query_interval / TICKS:.0f} s")
    print(f"unchanged interval: {blob.unchanged_interval / TICKS:.0f} s")


def main(command="--help", *arguments):
    if command == "show" and len(arguments) == 1:
        show(from_ldif(arguments[0]))
    elif command == "keytab" and len(arguments) in (3, 4):
        blob = from_ldif(arguments[0])
        with open(arguments[2], "wb") as out:
            out.write(keytab(arguments[1], blob.previous if arguments[3:] == ("previous",) else blob.current))
    elif command == "vectors" and not arguments:
        print(json.dumps(vectors(), indent=2))
    else:
        print(__doc__.strip())
        return 0 if command in ("-h", "--help") else 64
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

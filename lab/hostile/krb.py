"""Enough of Kerberos for whoever plays a KDC or a service: AES with SHA-1 (RFC 3962), AS-REQ, AS-REP, AP-REQ, AP-REP
(RFC 4120), and the tokens of GSS-API (RFC 4121) in SPNEGO (RFC 4178)."""

import hashlib
import hmac
import os
import struct
import time

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from gmsa import AES256, aes_key, n_fold, salt  # noqa: F401
from wire import children, field, fields, integer, number, octets, read, tlv


PA_ENC_TIMESTAMP, PA_ETYPE_INFO2 = 2, 19
PREAUTH_REQUIRED, PREAUTH_FAILED, SKEW = 25, 24, 37
HMAC_SHA1_AES256 = 16


# --- RFC 3962

def _cbc(key, data, encrypt):
    cipher = Cipher(algorithms.AES(key), modes.CBC(bytes(16)))
    context = cipher.encryptor() if encrypt else cipher.decryptor()
    return context.update(data) + context.finalize()


def _cts_encrypt(key, plain):
    padded = plain + bytes(-len(plain) % 16)
    out = _cbc(key, padded, True)
    if len(padded) <= 16:
        return out
    return out[:-32] + out[-16:] + out[-32:-16][:len(plain) - len(padded) + 16]


def _cts_decrypt(key, data):
    if len(data) == 16:
        return _cbc(key, data, False)
    tail = len(data) % 16 or 16
    before, last, short = data[:-16 - tail], data[-16 - tail:-tail], data[-tail:]
    block = Cipher(algorithms.AES(key), modes.ECB()).decryptor()
    plain = block.update(last) + block.finalize()
    full = short + plain[tail:]
    end = bytes(a ^ b for a, b in zip(plain, full))[:tail]
    return _cbc(key, before + full, False) + end


def derive(key, constant):
    block, out = n_fold(constant, 16), b""
    while len(out) < len(key):
        encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
        block = encryptor.update(block) + encryptor.finalize()
        out += block
    return out[:len(key)]


def _keys(key, usage):
    return (derive(key, struct.pack(">IB", usage, kind)) for kind in (0xAA, 0x55))


def encrypt(key, usage, plain):
    ke, ki = _keys(key, usage)
    plain = os.urandom(16) + plain
    return _cts_encrypt(ke, plain) + hmac.digest(ki, plain, "sha1")[:12]


def decrypt(key, usage, data):
    ke, ki = _keys(key, usage)
    plain = _cts_decrypt(ke, data[:-12])
    if not hmac.compare_digest(hmac.digest(ki, plain, "sha1")[:12], data[-12:]):
        raise ValueError("it does not decrypt")
    return plain[16:]


def key_of(password_utf8, salted_with, rounds=4096):
    raw = hashlib.pbkdf2_hmac("sha1", password_utf8, salted_with.encode(), rounds, 32)
    return derive(raw, b"kerberos")


# --- RFC 4120

def string(value):
    return octets(value, 0x1B)


def name(text, kind=1):
    """`ldap/a.example.com` or `WebApp01$`."""
    return tlv(0x30, field(0, integer(kind)), field(1, tlv(0x30, *(string(part) for part in text.split("/")))))


def name_text(content):
    return "/".join(part.decode("utf-8", "replace") for _, part in children(fields(content)[1]))


def moment(seconds):
    return octets(time.strftime("%Y%m%d%H%M%SZ", time.gmtime(seconds)), 0x18)


def sealed(key, usage, plain, kvno=None):
    parts = [field(0, integer(AES256)), field(2, octets(encrypt(key, usage, plain)))]
    if kvno is not None:
        parts.insert(1, field(1, integer(kvno)))
    return tlv(0x30, *parts)


class Request:
    """An AS-REQ or a TGS-REQ, as far as a liar must know it."""

    def __init__(self, data):
        tag, content, _ = read(data)
        self.is_as, self.data = tag == 0x6A, data
        parts = fields(read(content)[1])
        padata = [fields(inner) for _, inner in children(parts.get(3, b""))]
        self.padata = {number(entry[1]): entry[2] for entry in padata}
        body = fields(parts[4])
        self.options = int.from_bytes(body[0][1:], "big")
        self.client = name_text(body[1]) if 1 in body else ""
        self.realm = body[2].decode()
        self.server = name_text(body[3]) if 3 in body else ""
        self.nonce = number(body[7])
        self.etypes = [number(etype) for _, etype in children(body[8])]

    @property
    def proof(self):
        return self.is_as and PA_ENC_TIMESTAMP in self.padata


def krb_error(code, realm="EXAMPLE.COM", data=None, text=None, at=None, server="krbtgt/EXAMPLE.COM"):
    parts = [field(0, integer(5)), field(1, integer(30)), field(4, moment(at or time.time())), field(5, integer(0)),
             field(6, integer(code)), field(9, string(realm)), field(10, name(server, 2))]
    if text is not None:
        parts.append(field(11, string(text)))
    if data is not None:
        parts.append(field(12, octets(data)))
    return tlv(0x7E, tlv(0x30, *parts))


def pa_data(kind, value):
    return tlv(0x30, field(1, integer(kind)), field(2, octets(value)))


def etype_info2(salted_with, rounds=None, count=1, etype=AES256):
    entry = [field(0, integer(etype)), field(1, string(salted_with))]
    if rounds is not None:
        entry.append(field(2, octets(struct.pack(">I", rounds))))
    return pa_data(PA_ETYPE_INFO2, tlv(0x30, *[tlv(0x30, *entry)] * count))


def preauth_required(salted_with, rounds=None, more=b"", count=1, code=PREAUTH_REQUIRED):
    methods = tlv(0x30, etype_info2(salted_with, rounds, count), pa_data(PA_ENC_TIMESTAMP, b""), more)
    return krb_error(code, data=methods)


def as_rep(request, key, salted_with, life=36000, ticket_key=None):
    """The answer to an AS-REQ that whoever knows the client's key can give: a ticket that nobody made."""
    now, session = time.time(), os.urandom(32)
    flags = b"\x03\x05\0" + struct.pack(">I", 0x40E00000)  # forwardable, renewable, initial, pre-authent
    server = name(request.server, 2)
    key_info = field(0, tlv(0x30, field(0, integer(AES256)), field(1, octets(session))))
    part = tlv(0x79, tlv(0x30,
        key_info,
        field(1, tlv(0x30, tlv(0x30, field(0, integer(0)), field(1, moment(now))))),
        field(2, integer(request.nonce)), field(4, tlv(3, b"\0", flags[3:])),
        field(5, moment(now)), field(6, moment(now)), field(7, moment(now + life)), field(8, moment(now + life)),
        field(9, string(request.realm)), field(10, server)))
    inside = tlv(0x63, tlv(0x30,
        field(0, tlv(3, b"\0", flags[3:])), key_info, field(2, string(request.realm)), field(3, name(request.client)),
        field(4, tlv(0x30, field(0, integer(1)), field(1, octets(b"")))), field(5, moment(now)),
        field(7, moment(now + life))))
    ticket = tlv(0x61, tlv(0x30, field(0, integer(5)), field(1, string(request.realm)), field(2, server),
                           field(3, sealed(ticket_key or os.urandom(32), 2, inside, 2))))
    return tlv(0x6B, tlv(0x30,
        field(0, integer(5)), field(1, integer(11)), field(2, tlv(0x30, etype_info2(salted_with))),
        field(3, string(request.realm)), field(4, name(request.client)), field(5, ticket),
        field(6, sealed(key, 3, part, 1))))


# --- GSS-API

KERBEROS = bytes.fromhex("06092a864886f712010202")


class Acceptor:
    """The service's side of one security context."""

    def __init__(self, key):
        self.key, self.sequence = key, 0

    def accept(self, token):
        """Takes the first token of a GSS-SPNEGO negotiation; returns the answer that ends it."""
        framed = read(token)[1]
        init = fields(read(read(framed, read(framed)[2])[1])[1])  # behind the OID of SPNEGO
        body = read(init[2])[1]
        request = fields(read(read(body, read(body)[2] + 2)[1])[1])  # behind the OID of Kerberos and 01 00
        ticket = fields(read(request[3])[1])
        self.service = name_text(ticket[2])
        inside = fields(read(read(decrypt(self.key, 2, fields(ticket[3])[2]))[1])[1])
        session = fields(inside[1])[1]
        self.client = name_text(inside[3])
        proof = fields(read(read(decrypt(session, 11, fields(request[4])[2]))[1])[1])
        self.send_key = fields(proof[6])[1] if 6 in proof else session
        self.sequence = number(proof[7]) if 7 in proof else 0
        # cusec and ctime go back as they came
        part = tlv(0x7B, tlv(0x30, field(0, octets(proof[5], 0x18)), field(1, tlv(2, proof[4])),
                             field(3, integer(self.sequence))))
        reply = tlv(0x6F, tlv(0x30, field(0, integer(5)), field(1, integer(15)), field(2, sealed(session, 12, part))))
        answer = tlv(0x60, KERBEROS, b"\x02\x00", reply)
        return tlv(0xA1, tlv(0x30, field(0, tlv(0x0A, b"\0")), field(1, KERBEROS), field(2, octets(answer))))

    def wrap(self, message):
        head = struct.pack(">HBBHHQ", 0x0504, 0x03, 0xFF, 0, 0, self.sequence)
        self.sequence += 1
        token = head + encrypt(self.send_key, 22, message + head)
        return struct.pack(">I", len(token)) + token

    def unwrap(self, token):
        _, _, _, extra, rotated, _ = struct.unpack_from(">HBBHHQ", token)
        data = token[16:]
        rotated %= len(data)
        data = data[rotated:] + data[:rotated]
        return decrypt(self.send_key, 24, data)[:-16 - extra]

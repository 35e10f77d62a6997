"""Rebuilds a volume's image from its snapshot: written from docs/snapshot-format.md and nothing else.

    python rebuild.py DIRECTORY MANIFEST IMAGE [KEY]

DIRECTORY holds the objects as files (a directory store, or a bucket copied to disk). KEY is a user's key
file, or a file with the 32 bytes of the data key itself, of an encrypted snapshot. The standard library
and zstandard are all it needs, and cryptography for AES; nothing of Holdfast is imported, on purpose.
"""

import base64
import hashlib
import hmac
import struct
import sys
from pathlib import Path

import zstandard

EXTENT = 131072
SHARD = 4096


def check(condition, what):
    if not condition:
        sys.exit(f"damaged: {what}")


def mac(key, data):
    return hmac.new(key, data, "sha256").digest()


def derived(data_key, use):
    return mac(data_key, b"holdfast 1 " + use + b"\x01")


def opened(key, sealed, bound, what):
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        return AESGCM(key).decrypt(sealed[:12], sealed[12:], bound)
    except InvalidTag:
        sys.exit(f"damaged: {what} does not open")


def body(kind, data, what, proven=False):
    magic, found, version, features, length = struct.unpack_from("<8s4sHHQ", data)
    check(magic == b"HOLDFAST" and found == kind, f"{what} is not a {kind!r}")
    check(version == 1 and features == proven, f"{what} is of version {version}, features {features}")
    check(len(data) == 24 + length + 32, f"{what} has {len(data)} bytes")
    check(hashlib.sha256(data[:-32]).digest() == data[-32:], f"{what}'s checksum")
    return data[24:-32]


def names(data, at, count):
    found = []
    for _ in range(count):
        size, length = struct.unpack_from("<QH", data, at)
        found.append((data[at + 10 : at + 10 + length].decode("ascii"), size))
        at += 10 + length
    return found, at


def keys(data, manifest, key_file):
    """The data keys by snapshot uid, of an encrypted snapshot's whole manifest and its body."""
    uid = manifest[:24]
    user, name, wrapped, ring = struct.unpack_from("<HHII", manifest, 120)
    at = 132 + user + name
    context = b"holdfast 1 %s %s %s" % (uid, manifest[132 : 132 + user], manifest[132 + user : at])
    own = key_file
    if len(key_file) != 32:
        user_key = base64.b64decode(key_file)
        head = b"\x01" + hashlib.sha256(b"holdfast key 1" + user_key).digest()[:8]
        check(manifest[at : at + 9] == head, "wrapped key, or it was wrapped with another one")
        own = opened(user_key, manifest[at + 9 : at + wrapped], context, "wrapped key")
    check(mac(derived(own, b"index"), data[:-64]) == data[-64:-32], "manifest's proof")
    rows = opened(derived(own, b"ring"), manifest[at + wrapped : at + wrapped + ring], uid, "ring of keys")
    return {uid: own} | dict(struct.iter_unpack("<24s32s", rows))


def shards(root, manifest, encrypted):
    """Yields (number, shard's bytes) of a manifest's body."""
    key_bytes, objects, count = struct.unpack_from("<III", manifest, 108)
    check(struct.unpack_from("<II", manifest, 80) == (EXTENT, SHARD), "extent or shard size")
    expected = (2, 1) if encrypted else (1, 0)
    check(struct.unpack_from("<HH", manifest, 104) == expected, "digest or cipher")
    check(bool(key_bytes) == encrypted, "key material")
    table, at = names(manifest, 120 + key_bytes, objects)
    for _ in range(count):
        number, where, offset, length, _, flags, zero, digest = struct.unpack_from(
            "<IIQIIII32s", manifest, at
        )
        at += 64
        check(flags == zero == 0, f"flags of shard {number}")
        name, size = table[where]
        data = (root / name).read_bytes()
        check(len(data) == size, f"size of {name}")
        shard = data[offset : offset + length]
        check(hashlib.sha256(shard).digest() == digest, f"shard {number} in {name}")
        yield number, body(b"SHRD", shard, f"shard {number} in {name}")
    check(at + 32 * encrypted == len(manifest), "end of manifest")


def extents(root, number, shard, ring):
    """Yields (extent, plain bytes) of a shard's body."""
    first, covered, extent_bytes, pack_count, count = struct.unpack_from("<QIIII", shard)
    check((first, covered, extent_bytes) == (number * SHARD, SHARD, EXTENT), f"head of shard {number}")
    packs, at = names(shard, 24, pack_count)
    for _ in range(count):
        index, pack, offset, length, coding, digest = struct.unpack_from("<IIQII32s", shard, at)
        at += 56
        with open(root / packs[pack][0], "rb") as file:
            file.seek(offset)
            data = file.read(length)
        where = f"{packs[pack][0]} at {offset}"
        check(coding in ((0x10, 0x11) if ring else (0, 1)), f"coding of {where}")
        if ring:
            data_key = ring[packs[pack][0].split("/")[1].encode()]
            data = opened(derived(data_key, b"extents"), data, digest + struct.pack("<I", coding), where)
        if coding & 1:
            data = zstandard.ZstdDecompressor().decompress(data)
        found = hashlib.sha256(data).digest()
        if ring:
            found = mac(derived(data_key, b"digests"), found)
        check(found == digest, where)
        yield first + index, data
    check(at == len(shard), f"end of shard {number}")


def main(root, manifest_name, image, key_file=None):
    data = (root / manifest_name).read_bytes()
    manifest = body(b"MANI", data, manifest_name, proven=bool(key_file))
    ring = keys(data, manifest, Path(key_file).read_bytes()) if key_file else {}
    (size,) = struct.unpack_from("<Q", manifest, 72)
    with open(image, "wb") as out:
        for number, shard in shards(root, manifest, bool(ring)):
            for extent, data in extents(root, number, shard, ring):
                out.seek(extent * EXTENT)
                out.write(data)
        out.truncate(size)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])

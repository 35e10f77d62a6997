"""Rebuilds a volume's image from its snapshot: written from docs/snapshot-format.md and nothing else.

    python rebuild.py DIRECTORY MANIFEST IMAGE

DIRECTORY holds the objects as files (a directory store, or a bucket copied to disk). The standard
library and zstandard are all it needs; nothing of Holdfast is imported, on purpose.
"""

import hashlib
import struct
import sys
from pathlib import Path

import zstandard

EXTENT = 131072
SHARD = 4096


def check(condition, what):
    if not condition:
        sys.exit(f"damaged: {what}")


def body(kind, data, what):
    magic, found, version, features, length = struct.unpack_from("<8s4sHHQ", data)
    check(magic == b"HOLDFAST" and found == kind, f"{what} is not a {kind!r}")
    check(version == 1 and features == 0, f"{what} is of version {version}, features {features}")
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


def shards(root, manifest):
    """Yields (number, shard's bytes) of a manifest's body."""
    objects, count = struct.unpack_from("<II", manifest, 112)
    check(struct.unpack_from("<II", manifest, 80) == (EXTENT, SHARD), "extent or shard size")
    check(struct.unpack_from("<HHI", manifest, 104) == (1, 0, 0), "digest, cipher or key")
    table, at = names(manifest, 120, objects)
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
    check(at == len(manifest), "end of manifest")


def extents(root, number, shard):
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
        if coding == 1:
            data = zstandard.ZstdDecompressor().decompress(data)
        check(coding in (0, 1) and hashlib.sha256(data).digest() == digest, f"{packs[pack][0]} at {offset}")
        yield first + index, data
    check(at == len(shard), f"end of shard {number}")


def main(root, manifest_name, image):
    manifest = body(b"MANI", (root / manifest_name).read_bytes(), manifest_name)
    (size,) = struct.unpack_from("<Q", manifest, 72)
    with open(image, "wb") as out:
        for number, shard in shards(root, manifest):
            for extent, data in extents(root, number, shard):
                out.seek(extent * EXTENT)
                out.write(data)
        out.truncate(size)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])

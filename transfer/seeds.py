"""Seeds that follow from what they are for."""

import hashlib


def derived_seed(*parts: object) -> int:
    """Return a 32-bit seed that depends on all parts, the same on every machine."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")

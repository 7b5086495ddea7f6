"""Seeds of single requests."""

import hashlib


def request_seed(*parts: object) -> int:
    """A seed from what names a request, so that it does not depend on the requests beside it.

    Args:
        parts: Run seed, step, prompt id, number of the sample, …

    Returns:
        From 0 to 2³¹ - 1.
    """
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 2**31

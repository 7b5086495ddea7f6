"""What ranks agree on outside of their collectives, in which some of them may be stuck."""

from datetime import timedelta

import torch.distributed as dist


def all_agree(subject: str, *, able: bool, seconds: float) -> bool:
    """Whether all ranks ask the same in time, and all are able to; the same answer on each.

    It goes through the store that the ranks met by, never through a collective: a rank that waits elsewhere
    for ever is missed, not waited for. The first that has waited long enough, or is not able to, decides.

    Args:
        subject: What is asked; to be asked once.
        able: Whether this rank could.
        seconds: How long to wait for the others.
    """
    if not dist.is_initialized():
        return able
    store = dist.distributed_c10d._get_default_store()  # noqa: SLF001 (nothing public has it)
    key = f"katlit/{subject}"
    try:
        last = store.add(f"{key}/arrived", 1) == dist.get_world_size()
        if able and not last:
            try:
                store.wait([f"{key}/verdict"], timedelta(seconds=seconds))
            except dist.DistStoreError:
                able = False
        word = "yes" if able and last else "no"
        return bool(store.compare_set(f"{key}/verdict", "", word) == b"yes")
    except dist.DistError:  # the rank that holds the store is gone
        return False

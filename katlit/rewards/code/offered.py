"""Names that judges of functions, such as LeetCode's, offer a program without an import.

Runs inside the sandbox, given as text; it imports nothing but the standard library.
"""

import importlib
from types import CodeType
from typing import Any

_MODULES = (
    "bisect", "collections", "copy", "datetime", "functools", "heapq", "itertools", "json", "math",
    "operator", "random", "re", "string", "sys", "typing",
)  # fmt: skip
# By module, the first that has it. Not what would hide a built-in name, such as `math.pow`.
_NAMES = {
    "typing": "Any Callable Dict FrozenSet Generator Generic Iterable Iterator List Literal Mapping "
    "NamedTuple NoReturn Optional Sequence Set Tuple Type TypeVar Union",
    "collections": "ChainMap Counter OrderedDict defaultdict deque namedtuple",
    "heapq": "heapify heappop heappush heappushpop heapreplace merge nlargest nsmallest",
    "bisect": "bisect_left bisect_right insort insort_left insort_right",
    "itertools": "accumulate chain combinations combinations_with_replacement compress count "
    "cycle dropwhile filterfalse groupby islice pairwise permutations product repeat starmap takewhile tee "
    "zip_longest",
    "functools": "cache cached_property cmp_to_key lru_cache partial reduce total_ordering",
    "math": "acos asin atan atan2 ceil comb cos degrees e exp fabs factorial floor fmod gcd hypot inf "
    "isclose isfinite isinf isnan isqrt lcm log log10 log2 modf nan perm pi prod radians sin sqrt tan "
    "tau trunc",
    "string": "ascii_letters ascii_lowercase ascii_uppercase digits punctuation",
    "operator": "add itemgetter mul sub truediv xor",
    "random": "choice randint randrange shuffle",
    "copy": "deepcopy",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}


def offered_names(code: CodeType) -> dict[str, Any]:
    """Those that a program mentions and the judges offer, by name; the program's own take their place."""
    found = {}
    for name in _mentioned(code):
        if name in _MODULES:  # first, since the judges import `bisect` after its names
            found[name] = importlib.import_module(name)
        elif name in _HOME:
            found[name] = getattr(importlib.import_module(_HOME[name]), name)
    return found


def _mentioned(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for part in code.co_consts:
        if isinstance(part, CodeType):
            names |= _mentioned(part)
    return names

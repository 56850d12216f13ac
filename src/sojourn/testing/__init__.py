"""What tests of sessions need: a clock to move, ids to predict, a store to script, and the contracts to run.

Shipped, so that a store or an adapter written elsewhere is judged by the same suites as the ones in this package.
Needs the extra ``sojourn[testing]``.
"""

from sojourn.testing.fakes import FakeClock, NumberedRandom, ScriptedStore
from sojourn.testing.site import Browser, Site
from sojourn.testing.store_contract import STORIES, RawDoor, StoreHarness, rejected_by

__all__ = [
    "FakeClock",
    "NumberedRandom",
    "ScriptedStore",
    "Browser",
    "Site",
    "STORIES",
    "RawDoor",
    "StoreHarness",
    "rejected_by",
]

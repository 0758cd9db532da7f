"""Counting against limits: exact, several at once, in memory or in Redis."""

from gatewright.plugins._shared.limiting.memory import MemoryStore, shared_memory
from gatewright.plugins._shared.limiting.rules import Algorithm, Limit, State, Store, StoreFailedError, Verdict

__all__ = ["Algorithm", "Limit", "MemoryStore", "State", "Store", "StoreFailedError", "Verdict", "shared_memory"]

"""The planners: one interface, one cost model."""

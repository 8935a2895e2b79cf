"""What to decide: profile, cost model, planners, estimators, policy, and the core that joins them."""

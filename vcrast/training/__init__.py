"""How it is learnt: the exact step, engines, optimisers, schedules, ranks."""

"""How it is learnt: exact large batches, engine, optimisers, schedules, checkpoints, logs."""

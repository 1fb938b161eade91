"""What is learnt: each objective represents clips, then scores the whole batch."""

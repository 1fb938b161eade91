"""Waveforms to normalised log-mel filterbanks and their random views, batched on the device."""

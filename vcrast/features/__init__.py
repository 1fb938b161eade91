"""Turn waveforms into normalised log-mel filterbanks and their views, on the device."""

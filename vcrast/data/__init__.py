"""From sound files to batches of waveforms: clips, decoding, cache, datasets, loaders."""

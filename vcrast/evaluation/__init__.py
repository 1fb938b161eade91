"""What a model is worth: metrics, embeddings, probes on frozen features."""

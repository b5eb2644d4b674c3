"""From tables to tensors: the packed dataset on disk, splits, and batches that resume at a known place."""

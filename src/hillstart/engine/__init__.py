"""Many starts descend fast: products, blocks of mini-batches, tiles, ensembles, CUDA graphs."""

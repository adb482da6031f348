"""From any source to an ArrayRecord data set that TFDS reads, in shards and by many processes."""

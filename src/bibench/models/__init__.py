"""Full-precision architectures, one file per modality."""

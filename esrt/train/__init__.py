"""Training: manifests, sources of speech and text, the curriculum and its loop."""

"""UGSD: the device drafts with a small model, and the cloud checks only what the device is unsure of."""

"""UGSD measured: quality, bytes and time over gamma, beside the device alone and the cloud alone."""

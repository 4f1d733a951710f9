"""The `esrt` command: one short file a verb. Results go to stdout, everything else to stderr."""

"""Bytes of an utterance as sound and as frames, over a real socket, and what each costs in the texts."""

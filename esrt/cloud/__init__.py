"""The cloud half: frames of features in, transcripts and translations out. It never sees a waveform."""

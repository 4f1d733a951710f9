"""From a sound file to samples, and from samples to pieces a model can hear at once."""

"""What crosses the network: frames of features (`frame`, `codecs`) and the bodies around them (`schemas`)."""
